"""The peers of the cases of streams: loops by hand on redis.asyncio with hiredis."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from time import perf_counter
from typing import Any, cast

import redis.asyncio

from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work import BACKLOG, EVENT, LATENCY_EVENTS, PAYLOAD, READ, delay_figures

# redis-py's own signatures are partly unknown, so its clients come in as `Any`.
connect = cast("Any", redis.asyncio).Redis.from_url

ALONE = 2_000
MANY = 10_000
FIELDS = {"n": "user.created", "p": PAYLOAD}


@asynccontextmanager
async def add_alone(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task adds event after event."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(ALONE):
                    await client.xadd(key, FIELDS, maxlen=1000)
            return {"rate": ALONE / watch.seconds}

        yield measure


async def fill(client: Any, key: str, number: int, *trim: str) -> None:  # noqa: ANN401 - see `connect`
    """Add events through pipelines of 500."""
    for _ in range(number // 500):
        pipeline = client.pipeline(transaction=False)
        for _ in range(500):
            pipeline.execute_command("XADD", key, *trim, *EVENT[3:])
        await pipeline.execute()


@asynccontextmanager
async def add_many(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task adds events in bulk."""
    async with connect(setting.url) as client:

        async def measure() -> Figures:
            with Stopwatch() as watch:
                await fill(client, f"{setting.name}:redis-py", MANY, *EVENT[:3])
            return {"rate": MANY / watch.seconds}

        yield measure


@asynccontextmanager
async def catch_up(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One loop reads a backlog by the thousand."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"
        await fill(client, key, READ)

        async def measure() -> Figures:
            last, left = b"0-0", READ
            with Stopwatch() as watch:
                while left:
                    reply = await client.xread({key: last}, count=1000, block=5000)
                    entries = entries_of(reply)
                    last = entries[-1][0]
                    left -= len(entries)
            return {"rate": READ / watch.seconds}

        yield measure


def entries_of(reply: Any) -> list[Any]:  # noqa: ANN401 - see `connect`
    """Return the entries of the one stream in a reply of RESP2 or RESP3."""
    found: Any = next(iter(reply.values())) if hasattr(reply, "values") else reply[0][1]
    # redis-py wraps the entries of RESP3, which are tuples, once more.
    return cast("list[Any]", found if isinstance(found[0], tuple) else found[0])


def acknowledging(setting: Setting, batch: int) -> Any:  # noqa: ANN401 - a context manager of a measure
    """Return a loop that reads `batch` events at a time and acknowledges them so."""

    @asynccontextmanager
    async def opening() -> AsyncGenerator[AsyncMeasure]:
        async with connect(setting.url) as client:
            key = f"{setting.name}:redis-py:{batch}"
            await fill(client, key, BACKLOG)
            turns = count()

            async def measure() -> Figures:
                group, left = f"group{next(turns)}", BACKLOG // (10 if batch == 1 else 1)
                total = left
                await client.xgroup_create(key, group, "0")
                with Stopwatch() as watch:
                    while left:
                        reply = await client.xreadgroup(
                            group, "one", {key: ">"}, count=100, block=5000
                        )
                        ids = [event_id for event_id, _ in entries_of(reply)]
                        for start in range(0, len(ids), batch):
                            await client.xack(key, group, *ids[start : start + batch])
                        left -= len(ids)
                await client.xgroup_destroy(key, group)
                return {"rate": total / watch.seconds}

            yield measure

    return opening()


def acknowledge_each(setting: Setting) -> Any:  # noqa: ANN401 - a context manager of a measure
    """One loop that acknowledges event by event."""
    return acknowledging(setting, 1)


def acknowledge_hundreds(setting: Setting) -> Any:  # noqa: ANN401 - a context manager of a measure
    """One loop that reads and acknowledges in hundreds."""
    return acknowledging(setting, 100)


@asynccontextmanager
async def end_to_end(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A thousand events a second, from before XADD to a loop that acknowledges."""
    async with connect(setting.url) as client, connect(setting.url) as adder:
        key = f"{setting.name}:redis-py"
        await client.delete(key)
        await client.xgroup_create(key, "group", "$", mkstream=True)

        async def add_steadily() -> None:
            loop = asyncio.get_running_loop()
            due = loop.time()
            async with asyncio.TaskGroup() as group:
                for _ in range(LATENCY_EVENTS):
                    due += 0.001
                    await asyncio.sleep(max(0, due - loop.time()))
                    fields = {"n": "user.created", "p": b"%.9f" % perf_counter()}
                    group.create_task(adder.xadd(key, fields, maxlen=1000))

        async def measure() -> Figures:
            delays: list[float] = []
            async with asyncio.TaskGroup() as group:
                group.create_task(add_steadily())
                while len(delays) < LATENCY_EVENTS:
                    reply = await client.xreadgroup(
                        "group", "one", {key: ">"}, count=1000, block=5000
                    )
                    for event_id, fields in entries_of(reply):
                        delays.append(perf_counter() - float(fields[b"p"]))
                        await client.xack(key, "group", event_id)
            return delay_figures(delays)

        yield measure
