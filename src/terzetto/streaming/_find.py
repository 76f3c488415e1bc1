"""Which streams there are. Called by programs that show what is in Redis."""

from terzetto.redis import Redis, find_keys
from terzetto.streaming._names import STREAM_PREFIX


async def find_streams(redis: Redis) -> list[str]:
    """Return the names of all streams, sorted, those of pools too; all keys are walked."""
    return await find_keys(redis, STREAM_PREFIX, kind="stream")
