"""The link's peer on trio: coredis, which brings its own parser."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter, process_time
from typing import Any, cast

import coredis
import trio

from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import (
    ENTRIES,
    FILL_STREAM,
    MESSAGES,
    PAYLOAD,
    PUBLISH_MANY,
    READ_AT_ONCE,
    SCRIPT,
    TASKS,
    rate_and_delays,
)

# Its own signatures are generic to the point of being unknown, so its client comes in as `Any`.
connect = cast("Any", coredis.Redis).from_url

CALLS_EACH = 60
CALLS_ALONE = 5_000


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
    async with connect(setting.url) as client:
        key = f"{setting.name}:coredis"

        async def add() -> None:
            await client.xadd(
                key,
                {"n": "user.created", "p": PAYLOAD},
                trim_strategy=coredis.PureToken.MAXLEN,
                trim_operator=coredis.PureToken.APPROXIMATELY,
                threshold=1000,
            )

        yield lambda: call_from_tasks(add)


@asynccontextmanager
async def run_scripts(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client run a small script."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:coredis"
        script = client.register_script(SCRIPT)

        async def call() -> None:
            await script(keys=[key], args=["calls"])

        yield lambda: call_from_tasks(call)


@asynccontextmanager
async def set_and_get(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task alone sets and gets, in turn."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:coredis"

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(CALLS_ALONE // 2):
                    await client.set(key, "value")
                    await client.get(key)
            return {"rate": CALLS_ALONE / watch.seconds}

        yield measure


@asynccontextmanager
async def receive(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Receive what a script on the server has published all at once."""
    channel = f"{setting.name}:coredis"
    async with (
        connect(setting.url) as client,
        client.pubsub(channels=[channel], ignore_subscribe_messages=True) as subscription,
    ):

        async def measure() -> Figures:
            began = process_time()
            await client.eval(PUBLISH_MANY, args=[channel, MESSAGES])
            with Stopwatch() as watch:
                got = 0
                async for _ in subscription:
                    got += 1
                    if got == MESSAGES:
                        break
            cpu = (process_time() - began) / MESSAGES * 1e6
            return {"cpu": cpu, "rate": MESSAGES / watch.seconds}

        yield measure


@asynccontextmanager
async def read_and_ack(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Read the entries of a group, some at a time, and acknowledge them."""
    key = f"{setting.name}:coredis"
    async with connect(setting.url) as client:

        async def measure() -> Figures:
            await client.eval(FILL_STREAM, keys=[key], args=[ENTRIES])
            done = 0
            with Stopwatch() as watch:
                while done < ENTRIES:
                    batch = await client.xreadgroup("g", "c", {key: ">"}, count=READ_AT_ONCE)
                    ids = [entry.identifier for entry in next(iter(batch.values()))]
                    await client.xack(key, "g", ids)
                    done += len(ids)
            return {"rate": done / watch.seconds}

        yield measure
