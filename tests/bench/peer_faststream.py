"""A peer of the cases of streams: FastStream, whose subscriber acknowledges by itself."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, cast

import faststream.redis
import redis.asyncio

from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import PAYLOAD

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
