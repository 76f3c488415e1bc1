"""Our side of the cases of streams."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from time import perf_counter

import trio

from terzetto.redis import Redis, connect
from terzetto.streaming import OLDEST, Stream
from terzetto.testing import open_program
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import BACKLOG, LATENCY_EVENTS, PAYLOAD, READ, delay_figures

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
async def share(setting: Setting, how: str) -> AsyncGenerator[AsyncMeasure]:
    """Two processes share a backlog, until the server says that all is acknowledged."""
    program = Path(__file__).with_name("sink_program.py")
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    async with connect(setting.url) as redis:
        stream = await open_backlog(redis, setting)
        arguments = (how, setting.url, stream.name)
        async with (
            open_program(program, *arguments, environment=environment) as one,
            open_program(program, *arguments, environment=environment) as other,
        ):
            turns = count()

            async def measure() -> Figures:
                name = f"{how}{next(turns)}"
                await redis.execute("XGROUP", "CREATE", stream.key, name, "0")
                for process in (one, other):
                    await process.write_line(name)
                    assert await process.read_line() == "ready"
                with Stopwatch() as watch:
                    for process in (one, other):
                        await process.write_line("go")
                    while any((await look(stream, name))[:2]):  # noqa: ASYNC110 - the server's state
                        await trio.sleep(0.002)
                consumers = (await look(stream, name))[2]
                for process in (one, other):
                    await process.write_line("stop")
                    assert await process.read_line() == "over"
                await redis.execute("XGROUP", "DESTROY", stream.key, name)
                assert consumers == 2, "both took part"
                return {"rate": BACKLOG / watch.seconds}

            yield measure


async def look(stream: Stream, name: str) -> tuple[int, int, int]:
    """Return what a group has yet to deliver, what is pending, and its consumers."""
    (group,) = [group for group in (await stream.info()).groups if group.name == name]
    return group.lag or 0, group.pending, group.consumers


def share_sink(setting: Setting) -> AbstractAsyncContextManager[AsyncMeasure]:
    """Two processes with an instance of a sink each."""
    return share(setting, "terzetto")


def share_group(setting: Setting) -> AbstractAsyncContextManager[AsyncMeasure]:
    """Two processes with a loop on redis.asyncio each, that acknowledges in hundreds."""
    return share(setting, "redis")


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
            return delay_figures(delays)

        yield measure


async def add_steadily(stream: Stream) -> None:
    """Add events a millisecond apart; one that is late is not waited for."""
    due = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(LATENCY_EVENTS):
            due += 0.001
            await trio.sleep_until(due)
            nursery.start_soon(stream.add, NAME, b"%.9f" % perf_counter())
