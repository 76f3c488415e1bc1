"""Our side of the cases on the link, bare and through a stream."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter

import trio

from terzetto.redis import Script, connect
from terzetto.streaming import Stream
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import EVENT, PAYLOAD, SCRIPT, TASKS, rate_and_delays

CALLS_EACH = 600
CALLS_ALONE = 10_000


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
