"""The Lua scripts of task queues, each with the common part before it.

Run by the modules `_redis_*.py`, which know their keys and arguments.
"""

from importlib.resources import files
from typing import Final

from terzetto.redis import Script


def _script(name: str, *extra: str) -> Script:
    here = files("terzetto.tasks").joinpath("lua")
    parts = ["_common", *extra, name]
    source = "\n".join([here.joinpath(f"{part}.lua").read_text("utf-8") for part in parts])
    return Script(name=f"terzetto.tasks:lua/{name}.lua", source=source)


ACQUIRE: Final = _script("acquire")
ARCHIVE: Final = _script("archive")
COMPLETE: Final = _script("complete")
DEQUEUE: Final = _script("dequeue")
ENQUEUE: Final = _script("enqueue")
EXTEND: Final = _script("extend")
FINISH_BATCH: Final = _script("finish_batch", "_place")
FORWARD: Final = _script("forward")
PLACE: Final = _script("place", "_place")
RECLAIM: Final = _script("reclaim")
REQUEUE: Final = _script("requeue")
RETRY: Final = _script("retry")
SWEEP: Final = _script("sweep")
TAKE_BATCH: Final = _script("take_batch")
TAKE_EXPIRED: Final = _script("take_expired")
TAKE_RATE: Final = _script("take_rate")
WATCH: Final = _script("watch")
WRITE_RESULT: Final = _script("write_result")
WRITE_SERVER: Final = _script("write_server")

DELETE_QUEUE: Final = _script("delete_queue")
INFO: Final = _script("info")
LIST: Final = _script("list", "_inspect")
MEMORY: Final = _script("memory")
MOVE_ALL: Final = _script("move_all", "_inspect")
MOVE_ONE: Final = _script("move_one", "_inspect")
STATS: Final = _script("stats")
UPDATE_PAYLOAD: Final = _script("update_payload")
