"""Our side of the cases of streams."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from statistics import quantiles
from time import perf_counter

import trio

from terzetto.redis import Redis, connect
from terzetto.streaming import OLDEST, Stream
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import BACKLOG, LATENCY_EVENTS, PAYLOAD, READ

ALONE = 4_000
MANY = 30_000
NAME = "user.created"
BODY = PAYLOAD.encode()


@asynccontextmanager
async def add_alone(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task adds event after event."""
    async with connect(setting.url) as redis:
        stream = Stream(f"{setting.name}:terzetto", redis)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(ALONE):
                    await stream.add(NAME, BODY)
            return {"rate": ALONE / watch.seconds}

        yield measure


@asynccontextmanager
async def add_many(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task adds events in bulk."""
    async with connect(setting.url) as redis:
        stream = Stream(f"{setting.name}:terzetto", redis)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                await stream.add_many([(NAME, BODY)] * MANY)
            return {"rate": MANY / watch.seconds}

        yield measure


async def open_backlog(redis: Redis, setting: Setting, number: int = BACKLOG) -> Stream:
    """Return a stream with events to read."""
    stream = Stream(f"{setting.name}:terzetto", redis, max_len=0)
    await stream.add_many([(NAME, BODY)] * number)
    return stream


@asynccontextmanager
async def catch_up(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One reader iterates over a backlog."""
    async with connect(setting.url) as redis:
        stream = await open_backlog(redis, setting, READ)

        async def measure() -> Figures:
            left = READ
            async with stream.open_reader(start=OLDEST) as reader:
                with Stopwatch() as watch:
                    async for _ in reader:
                        left -= 1
                        if not left:
                            break
            return {"rate": READ / watch.seconds}

        yield measure


@asynccontextmanager
async def acknowledge(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One sink iterates over a backlog; the acknowledgements ride on its reads."""
    async with connect(setting.url) as redis:
        stream = await open_backlog(redis, setting)
        turns = count()

        async def measure() -> Figures:
            left = BACKLOG
            name = f"sink{next(turns)}"
            async with stream.open_sink(name, start=OLDEST) as sink:
                with Stopwatch() as watch:
                    async for event in sink:
                        left -= 1
                        if not left:
                            await sink.ack(event)
                            break
                        sink.ack_nowait(event)
            await redis.execute("XGROUP", "DESTROY", stream.key, name)
            return {"rate": BACKLOG / watch.seconds}

        yield measure


@asynccontextmanager
async def end_to_end(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A thousand events a second, from before `add` to the taker of a sink that acknowledges."""
    async with connect(setting.url) as redis:
        stream = Stream(f"{setting.name}:terzetto", redis)

        async def measure() -> Figures:
            delays: list[float] = []
            async with stream.open_sink("sink") as sink, trio.open_nursery() as nursery:
                nursery.start_soon(add_steadily, stream)
                async for event in sink:
                    delays.append(perf_counter() - float(event.payload))
                    await sink.ack(event)
                    if len(delays) == LATENCY_EVENTS:
                        break
            cuts = quantiles(delays, n=100)
            return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}

        yield measure


async def add_steadily(stream: Stream) -> None:
    """Add events a millisecond apart; one that is late is not waited for."""
    due = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(LATENCY_EVENTS):
            due += 0.001
            await trio.sleep_until(due)
            nursery.start_soon(stream.add, NAME, b"%.9f" % perf_counter())
