"""Our side of the link's cases."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter

import trio

from terzetto.redis import connect
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import EVENT, TASKS, percentiles_ms

EVENTS_EACH = 600


@asynccontextmanager
async def add_events(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client, each adding one event after the other."""
    async with connect(setting.url) as redis:

        async def add(delays: list[float]) -> None:
            for _ in range(EVENTS_EACH):
                began = perf_counter()
                await redis.execute("XADD", f"{setting.name}:terzetto", *EVENT)
                delays.append(perf_counter() - began)

        async def measure() -> Figures:
            delays: list[float] = []
            with Stopwatch() as watch:
                async with trio.open_nursery() as nursery:
                    for _ in range(TASKS):
                        nursery.start_soon(add, delays)
            return {"rate": len(delays) / watch.seconds, **percentiles_ms(delays)}

        yield measure
