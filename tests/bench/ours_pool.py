"""Our side of the cases of pools."""

import resource
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from time import perf_counter, process_time

import trio

from terzetto import pool
from terzetto.redis import connect
from terzetto.testing import Program, open_program
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.server import pin
from tests.bench.work import TASKS, TOLD, rate_and_delays

ALONE = 300
EACH = 20
MOVED = 1000
KILLED = 20  # jobs of which some run in a process that is killed
TTL = 2.0  # seconds
IDLE = 10_000
LOOKED_ON = 12.0  # seconds; a node of the default TTL shows life every ten


class Idle:
    """A handler whose jobs do nothing; it counts them."""

    def __init__(self) -> None:
        self.heard = trio.Event()
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
        self.heard.set()

    async def notify(self, _: str, _payload: bytes) -> None:
        """Hear of it."""
        self.heard.set()


async def clear(node: pool.Node) -> None:
    """Stop every job, so that the next round finds what the first one found."""
    for key in await node.job_keys():
        await node.stop_job(key)
    while await node.job_keys():  # noqa: ASYNC110 - a state of Redis
        await trio.sleep(0.01)


async def dispatch_alone(node: pool.Node, turn: int) -> Figures:
    """Dispatch jobs one after the other, then stop them."""
    delays: list[float] = []
    with Stopwatch() as watch:
        for number in range(ALONE):
            began = perf_counter()
            await node.dispatch(f"{turn}-{number}", b"x" * 200)
            delays.append(perf_counter() - began)
    await clear(node)
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
        await node.add_worker(Idle())
        yield lambda: dispatch_alone(node, next(turns))
        await node.shutdown()


@asynccontextmanager
async def open_worker(*words: str) -> AsyncGenerator[Program]:
    """Run a process with a worker; the words are those of `work_pool.py`."""
    program = Path(__file__).with_name("work_pool.py")
    async with open_program(program, *words) as other:
        await other.read_line()
        yield other


@asynccontextmanager
async def other_node(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task dispatches through a client to a worker in another process."""
    turns = count()
    name = f"{setting.name}:terzetto-2"
    async with (
        connect(setting.url) as redis,
        open_worker(setting.url, name, "30", "20") as worker,
        pool.open_node(name, redis, client_only=True) as client,
    ):
        pin(worker.pid, setting.second_cores)
        yield lambda: dispatch_alone(client, next(turns))


@asynccontextmanager
async def many_tasks(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks dispatch to a worker of their own node."""
    turns = count()
    async with (
        connect(setting.url) as redis,
        pool.open_node(f"{setting.name}:terzetto-3", redis) as node,
    ):
        await node.add_worker(Idle())

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
            await clear(node)
            return rate_and_delays(delays, watch)

        yield measure
        await node.shutdown()


@asynccontextmanager
async def tell(setting: Setting, *, stop: bool) -> AsyncGenerator[AsyncMeasure]:
    """One task stops jobs, or notifies them, until the handler has heard of each."""
    handler, turns = Idle(), count()
    async with (
        connect(setting.url) as redis,
        pool.open_node(f"{setting.name}:terzetto", redis) as node,
    ):
        await node.add_worker(handler)

        async def measure() -> Figures:
            turn, delays = next(turns), list[float]()
            keys = [f"{turn}-{number}" for number in range(TOLD)]
            await node.dispatch_many((key, b"") for key in keys)
            with Stopwatch() as watch:
                for key in keys:
                    handler.heard = trio.Event()
                    began = perf_counter()
                    if stop:
                        await node.stop_job(key)
                    else:
                        await node.notify(key, b"x" * 200)
                    await handler.heard.wait()
                    delays.append(perf_counter() - began)
            await clear(node)
            figures = rate_and_delays(delays, watch)
            return {"p50": figures["p50"], "p99": figures["p99"]}

        yield measure
        await node.shutdown()


def notify(setting: Setting) -> AbstractAsyncContextManager[AsyncMeasure]:
    """Notify jobs."""
    return tell(setting, stop=False)


def stop(setting: Setting) -> AbstractAsyncContextManager[AsyncMeasure]:
    """Stop jobs."""
    return tell(setting, stop=True)


@asynccontextmanager
async def join(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A second worker joins, and a thousand jobs of two thousand, or so, go to it."""
    handler = Idle()
    async with (
        connect(setting.url) as redis,
        pool.open_node(f"{setting.name}:terzetto", redis, max_queued_jobs=0) as node,
    ):
        await node.add_worker(handler)
        keys = [str(number) for number in range(2 * MOVED)]
        await node.dispatch_many((key, b"x" * 200) for key in keys)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                worker = await node.add_worker(handler)
                with trio.fail_after(60):
                    while len(worker.jobs) < 0.9 * MOVED or handler.live < len(keys):  # noqa: ASYNC110 - a count
                        await trio.sleep(0.005)
            moved = len(worker.jobs)
            await worker.close()
            with trio.fail_after(60):
                while handler.live < len(keys):  # noqa: ASYNC110 - set-up
                    await trio.sleep(0.01)
            return {"for_1000": watch.seconds / moved * 1000}

        yield measure
        await node.shutdown()


@asynccontextmanager
async def fail_over(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A process with a worker is killed; its jobs run in this one."""
    name, handler, turns = f"{setting.name}:terzetto", Idle(), count()
    async with (
        connect(setting.url) as redis,
        pool.open_node(name, redis, worker_ttl=TTL, ack_grace_period=TTL) as node,
    ):

        async def measure() -> Figures:
            turn = next(turns)
            async with open_worker(setting.url, name, str(TTL), str(TTL)) as other:
                await node.dispatch_many((f"{turn}-{number}", b"") for number in range(KILLED))
                worker = await node.add_worker(handler)
                with trio.fail_after(60):
                    while not 0 < handler.live < KILLED:  # noqa: ASYNC110 - until some have moved here
                        await trio.sleep(0.01)
                await trio.sleep(TTL)  # until all that move have
                with Stopwatch() as watch:
                    await other.kill()
                    with trio.fail_after(60):
                        while handler.live < KILLED:  # noqa: ASYNC110 - a count
                            await trio.sleep(0.005)
            await clear(node)
            await worker.close()
            return {"time": watch.seconds / TTL}

        yield measure
        await node.shutdown()


@asynccontextmanager
async def idle(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A node with 10,000 jobs that nobody speaks of."""
    async with (
        connect(setting.url) as redis,
        pool.open_node(f"{setting.name}:terzetto", redis, max_queued_jobs=0) as node,
    ):
        await node.add_worker(Idle())
        await node.dispatch_many((str(number), b"x" * 200) for number in range(IDLE))

        async def measure() -> Figures:
            seen = 0

            async def listen(task_status: trio.TaskStatus[None]) -> None:
                nonlocal seen
                async with await trio.open_tcp_stream("127.0.0.1", setting.port) as monitor:
                    await monitor.send_all(b"MONITOR\r\n")
                    await monitor.receive_some()
                    task_status.started()
                    async for data in monitor:
                        # What a script calls is not sent by anybody.
                        seen += data.count(b"\r\n") - data.count(b" lua] ")

            async with trio.open_nursery() as nursery:
                await nursery.start(listen)
                began = process_time()
                await trio.sleep(LOOKED_ON)
                used = process_time() - began
                nursery.cancel_scope.cancel()
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            return {
                "commands": seen / LOOKED_ON,
                "cpu": used / LOOKED_ON * 100,
                "memory": memory,
            }

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
