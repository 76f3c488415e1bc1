"""The peers of maps: a dict, and what one would write by hand with redis.asyncio."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from time import perf_counter
from typing import Any, cast

import redis.asyncio

from tests.bench.harness import AsyncMeasure, Figures, Measure, Setting, Stopwatch
from tests.bench.server import pin
from tests.bench.work import TASKS, rate_and_delays
from tests.bench.work_rmap import KEYS, Sightings, lags_of, size_per_key

# redis-py's own signatures are partly unknown, so its clients come in as `Any`.
connect = cast("Any", redis.asyncio).Redis.from_url

READS = 1_000_000
SETS_EACH = 60
LAGS = 400


@contextmanager
def read_dict(setting: Setting) -> Generator[Measure]:
    """Read one key of a dict of 100."""
    del setting
    content = {f"key {number}": "value" for number in range(100)}

    def measure() -> Figures:
        with Stopwatch() as item:
            for _ in range(READS):
                content["key 50"]
        with Stopwatch() as get:
            for _ in range(READS):
                content.get("key 50")
        return {"item": item.seconds / READS * 1e9, "get": get.seconds / READS * 1e9}

    yield measure


@asynccontextmanager
async def run_set_script(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client run a map's script for a set; nobody follows the map."""
    async with connect(setting.url) as client:
        script = client.register_script(files("terzetto.rmap").joinpath("lua/set.lua").read_text())
        content, channel = f"map:{setting.name}.peer:content", f"map:{setting.name}.peer:updates"

        async def measure() -> Figures:
            delays: list[float] = []

            async def run(key: str) -> None:
                for number in range(SETS_EACH):
                    began = perf_counter()
                    args = [channel, 0, "absolute", key, str(number)]
                    await script(keys=[content], args=args)
                    delays.append(perf_counter() - began)

            with Stopwatch() as watch:
                async with asyncio.TaskGroup() as group:
                    for task in range(TASKS):
                        group.create_task(run(f"key {task}"))
            return rate_and_delays(delays, watch)

        yield measure


@asynccontextmanager
async def measure_lag(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task writes and publishes; another process says when it heard of each value."""
    async with connect(setting.url) as client:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.peer_rmap", setting.url, f"{setting.name}.peer"),
            stdout=asyncio.subprocess.PIPE,
        )
        stdout = process.stdout
        if stdout is None:
            raise AssertionError("the process was given a pipe")
        await stdout.readline()  # it has subscribed
        pin(process.pid, setting.second_cores)

        async def set_value(value: str) -> None:
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.hset(f"{setting.name}.peer", "key", value)
                pipeline.publish(f"{setting.name}.peer", value)
                await pipeline.execute()

        async def measure() -> Figures:
            began: list[float] = []
            done: list[float] = []
            for number in range(LAGS):
                began.append(perf_counter())
                await set_value(str(number))
                done.append(perf_counter())
                await asyncio.sleep(0.001)
            await set_value("end")
            text = b""
            while not text.endswith(b"end\n"):
                text += await stdout.readline()
            return lags_of(began, done, text.decode())

        try:
            yield measure
        finally:
            process.kill()
            await process.wait()


async def print_values(url: str, name: str) -> None:
    """Print the number of each value and the time when it was heard."""
    async with connect(url) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(name)
        await pubsub.get_message(timeout=None)
        print("subscribed", flush=True)
        sightings = Sightings()
        async for message in pubsub.listen():
            sightings.note(message["data"].decode())


@asynccontextmanager
async def read_large(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Read a hash of 100,000 fields, and no more."""
    async with connect(setting.url) as client:
        key = f"{setting.name}.peer"
        for start in range(0, KEYS, 1000):
            fields = {f"user:{n:08}": f"name of {n:016}" for n in range(start, start + 1000)}
            await client.hset(key, mapping=fields)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                content = await client.hgetall(key)
            return {"time": watch.seconds * 1e3, "memory": size_per_key(content)}

        yield measure


if __name__ == "__main__":
    asyncio.run(print_values(sys.argv[1], sys.argv[2]))
