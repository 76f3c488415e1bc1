"""saq in the cases of task queues."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from tests.bench.peer_tasks import Handle, Peer, Queue, enqueue_together

saq: Any = import_module("saq")


@asynccontextmanager
async def open_queue(url: str, handle: Handle, concurrency: int) -> AsyncGenerator[Queue]:
    """Connect; the worker is saq's own, in this process."""
    queue = saq.Queue.from_url(url)
    await queue.connect()

    async def task(_: object, *, seconds: float) -> None:
        await handle(seconds)

    async def many(count: int, seconds: float) -> None:
        await enqueue_together(lambda: queue.enqueue("task", seconds=seconds, ttl=1), count)

    @asynccontextmanager
    async def work() -> AsyncGenerator[None]:
        worker = saq.Worker(queue, functions=[("task", task)], concurrency=concurrency)
        running = asyncio.create_task(worker.start())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    yield Queue(lambda seconds: queue.enqueue("task", seconds=seconds, ttl=1), many, work)
    await queue.disconnect()


peer = Peer(__name__, "saq", open_queue)
