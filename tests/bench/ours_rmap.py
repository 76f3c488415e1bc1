"""Our side of the cases on maps; run as a program it is the process that sees the changes."""

import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from time import perf_counter

import attrs
import trio

from terzetto import rmap
from terzetto.redis import Redis, connect
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.server import pin
from tests.bench.work import TASKS, rate_and_delays
from tests.bench.work_rmap import KEYS, Sightings, lags_of, size_per_key

READS = 1_000_000
SETS_EACH = 400
LAGS = 400


@asynccontextmanager
async def read(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Read one key of a map of 100."""
    async with connect(setting.url) as redis, rmap.join(setting.name, redis) as config:
        for number in range(100):
            await config.set_and_wait(f"key {number}", "value")

        async def measure() -> Figures:
            with Stopwatch() as item:
                for _ in range(READS):
                    config["key 50"]
            with Stopwatch() as get:
                for _ in range(READS):
                    config.get("key 50")
            await trio.lowlevel.checkpoint()
            return {"item": item.seconds / READS * 1e9, "get": get.seconds / READS * 1e9}

        yield measure


@asynccontextmanager
async def set_keys(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a map set a key each; the map follows all of them."""
    async with connect(setting.url) as redis, rmap.join(setting.name, redis) as config:

        async def measure() -> Figures:
            delays: list[float] = []

            async def run(key: str) -> None:
                for number in range(SETS_EACH):
                    began = perf_counter()
                    await config.set(key, str(number))
                    delays.append(perf_counter() - began)

            with Stopwatch() as watch:
                async with trio.open_nursery() as nursery:
                    for task in range(TASKS):
                        nursery.start_soon(run, f"key {task}")
            return rate_and_delays(delays, watch)

        yield measure


@asynccontextmanager
async def measure_lag(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task sets a key again and again; another process says when it saw each value."""
    async with _measure_lag(setting, "tests.bench.ours_rmap") as measure:
        yield measure


@asynccontextmanager
async def measure_lag_floor(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """The same with another process that does no more than it must."""
    floor = attrs.evolve(setting, name=f"{setting.name}.floor")
    async with _measure_lag(floor, "tests.bench.flat_rmap") as measure:
        yield measure


@asynccontextmanager
async def _measure_lag(setting: Setting, program: str) -> AsyncGenerator[AsyncMeasure]:
    command = [sys.executable, "-m", program, setting.url, setting.name]
    async with connect(setting.url) as redis, rmap.join(setting.name, redis) as config:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        stdout = process.stdout
        if stdout is None:
            raise AssertionError("the process was given a pipe")
        while not (await stdout.receive_some()).endswith(b"\n"):
            pass  # it joins
        pin(process.pid, setting.second_cores)

        async def measure() -> Figures:
            began: list[float] = []
            done: list[float] = []
            for number in range(LAGS):
                began.append(perf_counter())
                await config.set("key", str(number))
                done.append(perf_counter())
                await trio.sleep(0.001)
            await config.set("key", "end")
            text = b""
            while not text.endswith(b"end\n"):
                text += await stdout.receive_some()
            return lags_of(began, done, text.decode())

        try:
            yield measure
        finally:
            process.kill()
            with trio.CancelScope(deadline=trio.current_time() + 5, shield=True):
                await process.wait()


async def watch_values(url: str, name: str) -> None:
    """Print the number of each value and the time when it was seen."""
    async with (
        connect(url) as redis,
        rmap.join(name, redis) as config,
        config.watch("key") as values,
    ):
        print("joined", flush=True)
        sightings = Sightings()
        async for value in values:
            if value is not None:
                sightings.note(value)


async def fill(redis: Redis, name: str) -> str:
    """Fill a map with 100,000 keys; return where its content is."""
    key = rmap.content_key(name)
    for start in range(0, KEYS, 1000):
        fields = [
            part
            for n in range(start, start + 1000)
            for part in (f"user:{n:08}", f"name of {n:016}")
        ]
        await redis.execute("HSET", key, *fields)
    await redis.execute("HSET", key, "=rev", KEYS, "=kind", "set")
    return key


@asynccontextmanager
async def join_large(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Join a map of 100,000 keys."""
    async with connect(setting.url) as redis:
        await fill(redis, setting.name)

        async def measure() -> Figures:
            began = perf_counter()
            async with rmap.join(setting.name, redis) as config:
                seconds = perf_counter() - began
                return {"time": seconds * 1e3, "memory": size_per_key(config.snapshot())}

        yield measure


@asynccontextmanager
async def read_large(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Read a hash of 100,000 fields over the link, and no more."""
    async with connect(setting.url) as redis:
        key = await fill(redis, setting.name)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                content: Mapping[bytes, bytes] = await redis.execute("HGETALL", key)
            return {"time": watch.seconds * 1e3, "memory": size_per_key(content)}

        yield measure


if __name__ == "__main__":
    trio.run(watch_values, sys.argv[1], sys.argv[2])
