"""The peers of the link: redis-py on asyncio with hiredis, and redis-benchmark as the ceiling."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import Any, cast

from redis.asyncio import Redis

from tests.bench.harness import (
    AsyncMeasure,
    Figures,
    Measure,
    MissingPeerError,
    Setting,
    Stopwatch,
)
from tests.bench.work import EVENT, TASKS, percentiles_ms

# redis-py's own signature is partly unknown, so its client comes in as `Any`.
open_client = cast("Any", Redis.from_url)  # pyright: ignore[reportUnknownMemberType] - as above

EVENTS_EACH = 60
CEILING_EVENTS = 300_000


@asynccontextmanager
async def add_events(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client, each adding one event after the other."""
    async with open_client(setting.url) as redis:

        async def add(delays: list[float]) -> None:
            for _ in range(EVENTS_EACH):
                began = perf_counter()
                await redis.execute_command("XADD", f"{setting.name}:redis-py", *EVENT)
                delays.append(perf_counter() - began)

        async def measure() -> Figures:
            delays: list[float] = []
            with Stopwatch() as watch:
                async with asyncio.TaskGroup() as group:
                    for _ in range(TASKS):
                        group.create_task(add(delays))
            return {"rate": len(delays) / watch.seconds, **percentiles_ms(delays)}

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
