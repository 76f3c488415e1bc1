"""Our side of the cases on receiving."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import process_time
from typing import cast

from terzetto.redis import Script, connect
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import ENTRIES, FILL_STREAM, MESSAGES, PUBLISH_MANY, group_read

Batch = Mapping[bytes, Sequence[tuple[bytes, Sequence[bytes]]]]
"""What XREADGROUP gives: ids and fields by stream."""


@asynccontextmanager
async def receive(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Receive what a script on the server has published all at once."""
    channel = f"{setting.name}:terzetto"
    publish = Script(name="publish", source=PUBLISH_MANY)
    async with (
        connect(setting.url) as redis,
        redis.subscribe(channel, buffer_size=2 * MESSAGES) as subscription,
    ):

        async def measure() -> Figures:
            began = process_time()
            await redis.run_script(publish, args=[channel, MESSAGES])
            with Stopwatch() as watch:
                for _ in range(MESSAGES):
                    await anext(subscription)
            cpu = (process_time() - began) / MESSAGES * 1e6
            return {"cpu": cpu, "rate": MESSAGES / watch.seconds}

        yield measure


@asynccontextmanager
async def read_and_ack(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Read the entries of a group, some at a time; acknowledge them in the next read's write."""
    key = f"{setting.name}:terzetto"
    read = group_read(key)
    fill = Script(name="fill", source=FILL_STREAM)
    async with connect(setting.url) as redis, redis.open_dedicated("reader") as link:

        async def measure() -> Figures:
            await redis.run_script(fill, keys=[key], args=[ENTRIES])
            done = 0
            with Stopwatch() as watch:
                batch: Batch | None = await link.execute(*read)
                while batch:
                    ids = [entry[0] for entry in batch[key.encode()]]
                    replies = await link.execute_many([("XACK", key, "g", *ids), read])
                    acked, batch = cast("tuple[int, Batch | None]", replies)
                    done += acked
            return {"rate": done / watch.seconds}

        yield measure


@asynccontextmanager
async def read_then_ack(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """The same with a call for each read, and another one for its acknowledgements."""
    key = f"{setting.name}:terzetto-calls"
    read = group_read(key)
    fill = Script(name="fill", source=FILL_STREAM)
    async with connect(setting.url) as redis, redis.open_dedicated("reader") as link:

        async def measure() -> Figures:
            await redis.run_script(fill, keys=[key], args=[ENTRIES])
            done = 0
            with Stopwatch() as watch:
                while batch := await link.execute(*read):
                    ids = [entry[0] for entry in batch[key.encode()]]
                    done += await redis.execute("XACK", key, "g", *ids)
            return {"rate": done / watch.seconds}

        yield measure
