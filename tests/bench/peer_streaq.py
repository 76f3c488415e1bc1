"""streaq in the cases of task queues."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from tests.bench.peer_tasks import Handle, Peer, Queue

streaq: Any = import_module("streaq")


@asynccontextmanager
async def open_queue(url: str, handle: Handle, concurrency: int) -> AsyncGenerator[Queue]:
    """Connect; the worker is streaq's own, in this process."""

    def make() -> tuple[Any, Any]:
        worker = streaq.Worker(redis_url=url, concurrency=concurrency, handle_signals=False)

        async def task(seconds: float) -> None:
            await handle(seconds)

        return worker, worker.task(ttl=0)(task)

    client, task = make()

    @asynccontextmanager
    async def work() -> AsyncGenerator[None]:
        worker, _ = make()
        running = asyncio.create_task(worker.run_async())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async with client:

        async def many(count: int, seconds: float) -> None:
            await client.enqueue_many([task.enqueue(seconds) for _ in range(count)])

        yield Queue(task.enqueue, many, work)


peer = Peer(__name__, "streaq", open_queue)
