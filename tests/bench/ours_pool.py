"""Our side of the cases of pools."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from time import perf_counter

import trio

from terzetto import pool
from terzetto.redis import connect
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import TASKS, rate_and_delays

ALONE = 300
EACH = 20
MOVED = 1000


async def end_at_once(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
    """Start and end a job."""
    task_status.started()


class Idle:
    """A handler whose jobs do nothing; it counts them."""

    def __init__(self) -> None:
        self.live = 0
        self.wanted = 0
        self.is_reached = trio.Event()

    async def start(self, _: pool.Job) -> None:
        """Count a job."""
        self.live += 1
        if self.live == self.wanted:
            self.is_reached.set()

    async def stop(self, _: str) -> None:
        """Count it no more."""
        self.live -= 1


async def dispatch_alone(node: pool.Node, turn: int) -> Figures:
    """Dispatch jobs one after the other."""
    delays: list[float] = []
    with Stopwatch() as watch:
        for number in range(ALONE):
            began = perf_counter()
            await node.dispatch(f"{turn}-{number}", b"x" * 200)
            delays.append(perf_counter() - began)
    figures = rate_and_delays(delays, watch)
    return {"p50": figures["p50"], "p99": figures["p99"]}


@asynccontextmanager
async def same_node(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task dispatches to a worker of its own node."""
    turns = count()
    async with (
        connect(setting.url) as redis,
        pool.open_node(f"{setting.name}:terzetto", redis) as node,
    ):
        await node.add_worker(end_at_once)
        yield lambda: dispatch_alone(node, next(turns))
        await node.shutdown()


@asynccontextmanager
async def other_node(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task dispatches through a client to a worker behind another connection."""
    turns = count()
    name = f"{setting.name}:terzetto-2"
    async with (
        connect(setting.url) as redis,
        connect(setting.url) as another,
        pool.open_node(name, another) as node,
        pool.open_node(name, redis, client_only=True) as client,
    ):
        await node.add_worker(end_at_once)
        yield lambda: dispatch_alone(client, next(turns))
        await node.shutdown()


@asynccontextmanager
async def many_tasks(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks dispatch to a worker of their own node."""
    turns = count()
    async with (
        connect(setting.url) as redis,
        pool.open_node(f"{setting.name}:terzetto-3", redis) as node,
    ):
        await node.add_worker(end_at_once)

        async def measure() -> Figures:
            turn = next(turns)
            delays: list[float] = []

            async def run(task: int) -> None:
                for number in range(EACH):
                    began = perf_counter()
                    await node.dispatch(f"{turn}-{task}-{number}", b"x" * 200)
                    delays.append(perf_counter() - began)

            with Stopwatch() as watch:
                async with trio.open_nursery() as nursery:
                    for task in range(TASKS):
                        nursery.start_soon(run, task)
            return rate_and_delays(delays, watch)

        yield measure
        await node.shutdown()


@asynccontextmanager
async def move(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A worker leaves, and its jobs go to the other: about half of a thousand."""
    handler = Idle()
    async with (
        connect(setting.url) as redis,
        pool.open_node(f"{setting.name}:terzetto-4", redis, max_queued_jobs=0) as node,
    ):
        await node.add_worker(handler)
        await node.dispatch_many((str(number), b"x" * 200) for number in range(MOVED))

        async def measure() -> Figures:
            worker = await node.add_worker(handler)
            with trio.fail_after(60):
                while len(worker.jobs) < MOVED // 3 or handler.live < MOVED:  # noqa: ASYNC110 - set-up
                    await trio.sleep(0.01)
            moving = len(worker.jobs)
            handler.wanted, handler.is_reached = MOVED, trio.Event()
            with Stopwatch() as watch:
                await worker.close()
                await handler.is_reached.wait()
            return {"rate": moving / watch.seconds}

        yield measure
        await node.shutdown()
