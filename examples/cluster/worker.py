"""Work on three queues of the cluster, twenty tasks at once, all queues alike.

    $ python -m examples.cluster.worker

It ends when everything that the client has enqueued is done; a server of yours would
run until SIGTERM, as a child of the tree that `terzetto.serve` runs.
"""

from collections import Counter

import trio

import terzetto
from examples.cluster.queues import EACH, QUEUES, URL
from terzetto import tasks
from terzetto.tasks import Router, TaskContext


async def main() -> None:
    """Work until all is done."""
    done: Counter[str] = Counter()
    router = Router()

    async def send(_: bytes, ctx: TaskContext) -> None:
        done[ctx.queue] += 1
        if done.total() == EACH * len(QUEUES):
            server.stop()
            finished.set()

    for queue in QUEUES:
        router.handle(f"{queue}:", send)
    finished = trio.Event()
    async with (
        terzetto.connect(URL) as redis,
        tasks.open_server(redis, queues=QUEUES, concurrency=20) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        await finished.wait()
        await server.shutdown()
    for queue in QUEUES:
        print(f"handled {done[queue]} tasks of {queue}")


if __name__ == "__main__":
    trio.run(main)
