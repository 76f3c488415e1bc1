"""Celery in the cases of task queues: its worker with threads, in this process."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from tests.bench.peer_tasks import Handle, Peer, Queue

celery: Any = import_module("celery")


@asynccontextmanager
async def open_queue(url: str, handle: Handle, concurrency: int) -> AsyncGenerator[Queue]:
    """Connect; what a task does is counted on the loop, as for the others."""
    app = celery.Celery("bench", broker=url)
    app.conf.update(worker_hijack_root_logger=False, worker_prefetch_multiplier=4)
    logging.getLogger("celery").setLevel(logging.ERROR)
    loop = asyncio.get_running_loop()

    def task(seconds: float) -> None:
        time.sleep(seconds)
        asyncio.run_coroutine_threadsafe(count(), loop)

    async def count() -> None:
        await handle(0.0)

    made = app.task(task, name="task", ignore_result=True)

    async def one(seconds: float) -> None:
        await asyncio.to_thread(made.delay, seconds)

    def send(count: int, seconds: float) -> None:
        with app.producer_pool.acquire(block=True) as producer:
            for _ in range(count):
                made.apply_async((seconds,), producer=producer)

    async def many(count: int, seconds: float) -> None:
        await asyncio.to_thread(send, count, seconds)

    @asynccontextmanager
    async def work() -> AsyncGenerator[None]:
        worker = app.Worker(
            pool="threads",
            concurrency=concurrency,
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
            loglevel="ERROR",
        )
        running = threading.Thread(target=worker.start, daemon=True)
        running.start()
        try:
            yield
        finally:
            worker.should_stop = True
            await asyncio.to_thread(worker.stop)
            await asyncio.to_thread(running.join, 10)

    yield Queue(one, many, work)


peer = Peer(__name__, "celery", open_queue)
