"""The peer of the cases on receiving: redis-py on asyncio with hiredis."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import process_time
from typing import Any, cast

from redis.asyncio import Redis

from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import ENTRIES, FILL_STREAM, MESSAGES, PUBLISH_MANY, group_read

# redis-py's own signature is partly unknown, so its client comes in as `Any`.
connect = cast("Any", Redis.from_url)  # pyright: ignore[reportUnknownMemberType] - as above


@asynccontextmanager
async def receive(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Receive what a script on the server has published all at once."""
    channel = f"{setting.name}:redis-py"
    async with connect(setting.url) as client, client.pubsub() as subscription:
        await subscription.subscribe(channel)
        await subscription.get_message(timeout=5)  # the confirmation

        async def measure() -> Figures:
            began = process_time()
            await client.eval(PUBLISH_MANY, 0, channel, MESSAGES)
            with Stopwatch() as watch:
                got = 0
                async for _ in subscription.listen():
                    got += 1
                    if got == MESSAGES:
                        break
            cpu = (process_time() - began) / MESSAGES * 1e6
            return {"cpu": cpu, "rate": MESSAGES / watch.seconds}

        yield measure


@asynccontextmanager
async def read_and_ack(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Read the entries of a group, some at a time, and acknowledge them."""
    key = f"{setting.name}:redis-py"
    read = group_read(key)
    async with connect(setting.url, protocol=3) as client:

        async def measure() -> Figures:
            await client.eval(FILL_STREAM, 1, key, ENTRIES)
            done = 0
            with Stopwatch() as watch:
                while batch := await client.execute_command(*read):
                    ids = [entry[0] for entry in next(iter(batch.values()))[0]]
                    done += await client.xack(key, "g", *ids)
            return {"rate": done / watch.seconds}

        yield measure


@asynccontextmanager
async def read_and_ack_in_pipelines(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """The same with a pipeline for each read and the acknowledgements of the one before."""
    key = f"{setting.name}:redis-py-pipelines"
    read = group_read(key)
    async with connect(setting.url, protocol=3) as client:

        async def measure() -> Figures:
            await client.eval(FILL_STREAM, 1, key, ENTRIES)
            done = 0
            with Stopwatch() as watch:
                batch = await client.execute_command(*read)
                while batch:
                    ids = [entry[0] for entry in next(iter(batch.values()))[0]]
                    async with client.pipeline(transaction=False) as pipeline:
                        pipeline.xack(key, "g", *ids)
                        pipeline.execute_command(*read)
                        acked, batch = await pipeline.execute()
                    done += acked
            return {"rate": done / watch.seconds}

        yield measure
