"""Our side of the cases on the link: bare, through a stream, in a cluster; and its memory."""

import gc
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter, process_time

import trio
import trio.testing

from terzetto.redis import Redis, Script, connect
from terzetto.streaming import Stream
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import EVENT, PAYLOAD, SCRIPT, TASKS, rate_and_delays

CALLS_EACH = 600
CALLS_ALONE = 10_000
CLUSTER_EVENTS = 10_000  # a turn is short: there are many
WAITING = 10_000


async def call_from_tasks(call: Callable[[], Awaitable[object]]) -> Figures:
    """Let 100 tasks make their calls, each one after the other."""
    delays: list[float] = []

    async def run() -> None:
        for _ in range(CALLS_EACH):
            began = perf_counter()
            await call()
            delays.append(perf_counter() - began)

    with Stopwatch() as watch:
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(run)
    return rate_and_delays(delays, watch)


@asynccontextmanager
async def add_events(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client add events."""
    async with connect(setting.url) as redis:
        key = f"{setting.name}:terzetto"
        yield lambda: call_from_tasks(lambda: redis.execute("XADD", key, *EVENT))


@asynccontextmanager
async def add_to_stream(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a stream add events to it."""
    async with connect(setting.url) as redis:
        stream = Stream(f"{setting.name}:terzetto", redis, max_len=1000)
        payload = PAYLOAD.encode()
        yield lambda: call_from_tasks(lambda: stream.add("user.created", payload))


@asynccontextmanager
async def run_scripts(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client run a small script."""
    async with connect(setting.url) as redis:
        key = f"{setting.name}:terzetto"
        script = Script(name="count", source=SCRIPT)
        yield lambda: call_from_tasks(lambda: redis.run_script(script, keys=[key], args=["calls"]))


@asynccontextmanager
async def set_and_get(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task alone sets and gets, in turn."""
    async with connect(setting.url) as redis:
        key = f"{setting.name}:terzetto"

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(CALLS_ALONE // 2):
                    await redis.execute("SET", key, "value")
                    await redis.execute("GET", key)
            return {"rate": CALLS_ALONE / watch.seconds}

        yield measure


async def add_to_many(redis: Redis, name: str) -> Figures:
    """Let 100 tasks add events, each to a stream of its own; say what one costs the client.

    All are at it until the last event: with so many for each, those of a server that has fewer
    streams would be done before the others, and the rest would not be the work of 100 tasks.
    """
    delays: list[float] = []
    events = iter(range(CLUSTER_EVENTS))

    async def run(number: int) -> None:
        key = f"{name}:{number}"
        for _ in events:
            began = perf_counter()
            await redis.execute("XADD", key, *EVENT)
            delays.append(perf_counter() - began)

    cpu = process_time()
    with Stopwatch() as watch:
        async with trio.open_nursery() as nursery:
            for number in range(TASKS):
                nursery.start_soon(run, number)
    cpu = (process_time() - cpu) / len(delays) * 1e6
    return {**rate_and_delays(delays, watch), "cpu": cpu}


@asynccontextmanager
async def add_in_cluster(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client of a cluster add events to a stream each."""
    async with connect(f"redis-cluster://127.0.0.1:{setting.cluster_port}") as redis:
        yield lambda: add_to_many(redis, f"{setting.name}:terzetto")


@asynccontextmanager
async def add_to_one_server(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """The same on a single server."""
    async with connect(setting.url) as redis:
        yield lambda: add_to_many(redis, f"{setting.name}:terzetto")


async def memory_of_tasks(wait: Callable[[], Awaitable[object]]) -> float:
    """Return the megabytes that many tasks take which wait."""
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    async with trio.open_nursery() as nursery:
        for _ in range(WAITING):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        after, _ = tracemalloc.get_traced_memory()
        nursery.cancel_scope.cancel()
    return (after - before) / 1e6


@asynccontextmanager
async def hold_requests(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Requests that wait for a server which is paused, and what they take beyond bare tasks."""
    key = f"{setting.name}:terzetto"
    async with connect(setting.url) as redis, connect(setting.url) as other:

        async def measure() -> Figures:
            tracemalloc.start()
            try:
                bare = await memory_of_tasks(trio.sleep_forever)
                await other.execute("CLIENT", "PAUSE", 60_000, "WRITE")
                whole = await memory_of_tasks(lambda: redis.execute("SET", key, PAYLOAD))
            finally:
                tracemalloc.stop()
                await other.execute("CLIENT", "UNPAUSE")
            await redis.execute("PING")
            return {"memory": whole - bare, "with_tasks": whole}

        yield measure
