"""taskiq with taskiq-redis in the cases of task queues."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from tests.bench.peer_tasks import Handle, Peer, Queue, enqueue_together

api: Any = import_module("taskiq.api")
taskiq_redis: Any = import_module("taskiq_redis")


@asynccontextmanager
async def open_queue(url: str, handle: Handle, concurrency: int) -> AsyncGenerator[Queue]:
    """Connect; the worker is taskiq's receiver, in this process."""
    broker = taskiq_redis.RedisStreamBroker(url=url, consumer_id="0")  # what is there counts, too

    async def function(seconds: float) -> None:
        await handle(seconds)

    task = broker.task(task_name="task")(function)

    async def many(count: int, seconds: float) -> None:
        await enqueue_together(lambda: task.kiq(seconds), count)

    @asynccontextmanager
    async def work() -> AsyncGenerator[None]:
        await broker.startup()  # the turn before has emptied the database, with its group
        running = asyncio.create_task(
            api.run_receiver_task(broker, max_async_tasks=concurrency, run_startup=False)
        )
        try:
            yield
        finally:
            running.cancel()
            await task.kiq(0.0)  # its listener goes on after a cancellation, to the next task
            await asyncio.gather(running, return_exceptions=True)

    await broker.startup()
    yield Queue(task.kiq, many, work)
    await broker.shutdown()


peer = Peer(__name__, "taskiq", open_queue)
