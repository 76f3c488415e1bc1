"""The link's peers: redis-py with hiredis, on asyncio and alone, and redis-benchmark."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import Any, cast

import redis
import redis.asyncio

from tests.bench.harness import (
    AsyncMeasure,
    Figures,
    Measure,
    MissingPeerError,
    Setting,
    Stopwatch,
)
from tests.bench.work import EVENT, PAYLOAD, SCRIPT, TASKS, rate_and_delays

# redis-py's own signatures are partly unknown, so its clients come in as `Any`.
connect = cast("Any", redis.asyncio).Redis.from_url
connect_plain = cast("Any", redis).Redis.from_url

CALLS_EACH = 60
CALLS_ALONE = 5_000
CEILING_EVENTS = 300_000


async def call_from_tasks(call: Callable[[], Awaitable[object]]) -> Figures:
    """Let 100 tasks make their calls, each one after the other."""
    delays: list[float] = []

    async def run() -> None:
        for _ in range(CALLS_EACH):
            began = perf_counter()
            await call()
            delays.append(perf_counter() - began)

    with Stopwatch() as watch:
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(run())
    return rate_and_delays(delays, watch)


@asynccontextmanager
async def add_events(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client add events."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"
        yield lambda: call_from_tasks(lambda: client.execute_command("XADD", key, *EVENT))


@asynccontextmanager
async def add_fields(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client add events, by its method for streams."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"
        fields = {"n": "user.created", "p": PAYLOAD.encode()}
        yield lambda: call_from_tasks(lambda: client.xadd(key, fields, maxlen=1000))


@asynccontextmanager
async def run_scripts(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client run a small script."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"
        script = client.register_script(SCRIPT)
        yield lambda: call_from_tasks(lambda: script(keys=[key], args=["calls"]))


@asynccontextmanager
async def set_and_get(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task alone sets and gets, in turn."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(CALLS_ALONE // 2):
                    await client.execute_command("SET", key, "value")
                    await client.execute_command("GET", key)
            return {"rate": CALLS_ALONE / watch.seconds}

        yield measure


@contextmanager
def set_and_get_plain(setting: Setting) -> Generator[Measure]:
    """One thread sets and gets, in turn, with the blocking client."""
    with connect_plain(setting.url) as client:
        key = f"{setting.name}:redis-py-plain"

        def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(CALLS_ALONE // 2):
                    client.execute_command("SET", key, "value")
                    client.execute_command("GET", key)
            return {"rate": CALLS_ALONE / watch.seconds}

        yield measure


@contextmanager
def benchmark_adds(setting: Setting) -> Generator[Measure]:
    """redis-benchmark on one connection, 100 commands in each write."""
    binary = shutil.which("redis-benchmark")
    if binary is None:
        raise MissingPeerError("no redis-benchmark on PATH")
    command = [binary, "-p", str(setting.port), "-c", "1", "-P", str(TASKS), "--csv"]
    command += ["-n", str(CEILING_EVENTS), "XADD", f"{setting.name}:ceiling", *EVENT]

    def measure() -> Figures:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        # The last line: "what","requests per second","average latency",...
        return {"rate": float(done.stdout.splitlines()[-1].split('","')[1])}

    yield measure
