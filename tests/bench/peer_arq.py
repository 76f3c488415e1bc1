"""arq in the cases of task queues."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from tests.bench.peer_tasks import Handle, Peer, Queue, enqueue_together

arq: Any = import_module("arq")


@asynccontextmanager
async def open_queue(url: str, handle: Handle, concurrency: int) -> AsyncGenerator[Queue]:
    """Connect; the worker is arq's own, in this process."""
    settings = import_module("arq.connections").RedisSettings.from_dsn(url)
    pool = await arq.create_pool(settings)

    async def task(_: object, seconds: float) -> None:
        await handle(seconds)

    async def many(count: int, seconds: float) -> None:
        await enqueue_together(lambda: pool.enqueue_job("task", seconds), count)

    @asynccontextmanager
    async def work() -> AsyncGenerator[None]:
        worker = arq.Worker(
            functions=[arq.func(task, name="task")],
            redis_settings=settings,
            max_jobs=concurrency,
            handle_signals=False,
            keep_result=0,
        )
        running = asyncio.create_task(worker.async_run())
        try:
            yield
        finally:
            # Closing cancels what it waits for, and so may end with that cancellation.
            await asyncio.gather(worker.close(), return_exceptions=True)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    yield Queue(lambda seconds: pool.enqueue_job("task", seconds), many, work)
    await pool.aclose()


peer = Peer(__name__, "arq", open_queue)
