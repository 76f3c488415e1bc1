"""A peer of the cases of streams: FastStream, whose subscriber acknowledges by itself."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from time import perf_counter
from typing import Any, cast

import faststream.redis
import redis.asyncio

from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import LATENCY_EVENTS, PAYLOAD, delay_figures

EVENTS = 1_000  # a twentieth of the others', as each takes it so long
AT_ONCE = 100

# Both libraries' signatures are partly unknown, so they come in as `Any`.
connect = cast("Any", redis.asyncio).Redis.from_url
RedisBroker = cast("Any", faststream.redis).RedisBroker
StreamSub = cast("Any", faststream.redis).StreamSub


@asynccontextmanager
async def acknowledge(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One subscriber of a group reads in hundreds, and acknowledges one by one."""
    stream = f"{setting.name}:faststream"
    turns = count()
    async with connect(setting.url) as client:
        async with RedisBroker(setting.url, logger=None) as broker:
            for _ in range(EVENTS):
                await broker.publish(PAYLOAD, stream=stream)

        async def measure() -> Figures:
            group, left, done = f"group{next(turns)}", EVENTS, asyncio.Event()
            await client.xgroup_create(stream, group, "0")
            broker = RedisBroker(setting.url, logger=None)

            async def handle(message: str) -> None:
                nonlocal left
                left -= len(message) // len(PAYLOAD)
                if not left:
                    done.set()

            place = StreamSub(stream, group=group, consumer="one", max_records=AT_ONCE, last_id=">")
            broker.subscriber(stream=place)(handle)
            with Stopwatch() as watch:
                await broker.start()
                await done.wait()
            await broker.stop()
            await client.xgroup_destroy(stream, group)
            return {"rate": EVENTS / watch.seconds}

        yield measure


@asynccontextmanager
async def end_to_end(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A thousand messages a second, from before `publish` to a group's subscriber."""
    stream = f"{setting.name}:faststream"
    turns = count()
    async with connect(setting.url) as client, RedisBroker(setting.url, logger=None) as publisher:

        async def add_steadily() -> None:
            loop = asyncio.get_running_loop()
            due = loop.time()
            async with asyncio.TaskGroup() as group:
                for _ in range(LATENCY_EVENTS):
                    due += 0.001
                    await asyncio.sleep(max(0, due - loop.time()))
                    message = f"{perf_counter():.9f}"
                    group.create_task(publisher.publish(message, stream=stream, maxlen=1000))

        async def measure() -> Figures:
            group, delays, done = f"group{next(turns)}", list[float](), asyncio.Event()
            await client.xgroup_create(stream, group, "$", mkstream=True)
            broker = RedisBroker(setting.url, logger=None)

            async def handle(message: str) -> None:
                delays.append(perf_counter() - float(message))
                if len(delays) == LATENCY_EVENTS:
                    done.set()

            place = StreamSub(stream, group=group, consumer="one", last_id=">")
            broker.subscriber(stream=place)(handle)
            await broker.start()
            await add_steadily()
            await done.wait()
            await broker.stop()
            await client.xgroup_destroy(stream, group)
            return delay_figures(delays)

        yield measure
