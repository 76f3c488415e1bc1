"""The link's peers: redis-py with hiredis, on asyncio, alone and in threads; redis-benchmark."""

import asyncio
import itertools
import subprocess
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import Any, cast

import redis
import redis.asyncio

from tests.bench.harness import (
    AsyncMeasure,
    Figures,
    Measure,
    Setting,
    Stopwatch,
)
from tests.bench.server import MASTERS, find_program
from tests.bench.work import EVENT, PAYLOAD, SCRIPT, TASKS, rate_and_delays

# redis-py's own signatures are partly unknown, so its clients come in as `Any`.
connect = cast("Any", redis.asyncio).Redis.from_url
connect_cluster = cast("Any", redis.asyncio).RedisCluster.from_url
connect_plain = cast("Any", redis).Redis.from_url

CALLS_EACH = 60
CALLS_ALONE = 5_000
CEILING_EVENTS = 300_000


async def call_from_tasks(call: Callable[[], Awaitable[object]]) -> Figures:
    """Let 100 tasks make their calls, each one after the other."""
    delays: list[float] = []

    async def run() -> None:
        for _ in range(CALLS_EACH):
            began = perf_counter()
            await call()
            delays.append(perf_counter() - began)

    with Stopwatch() as watch:
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(run())
    return rate_and_delays(delays, watch)


@asynccontextmanager
async def add_events(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client add events."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"
        yield lambda: call_from_tasks(lambda: client.execute_command("XADD", key, *EVENT))


@asynccontextmanager
async def add_fields(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client add events, by its method for streams."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"
        fields = {"n": "user.created", "p": PAYLOAD.encode()}
        yield lambda: call_from_tasks(lambda: client.xadd(key, fields, maxlen=1000))


@asynccontextmanager
async def run_scripts(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client run a small script."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"
        script = client.register_script(SCRIPT)
        yield lambda: call_from_tasks(lambda: script(keys=[key], args=["calls"]))


@asynccontextmanager
async def set_and_get(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task alone sets and gets, in turn."""
    async with connect(setting.url) as client:
        key = f"{setting.name}:redis-py"

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(CALLS_ALONE // 2):
                    await client.execute_command("SET", key, "value")
                    await client.execute_command("GET", key)
            return {"rate": CALLS_ALONE / watch.seconds}

        yield measure


@contextmanager
def set_and_get_plain(setting: Setting) -> Generator[Measure]:
    """One thread sets and gets, in turn, with the blocking client."""
    with connect_plain(setting.url) as client:
        key = f"{setting.name}:redis-py-plain"

        def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(CALLS_ALONE // 2):
                    client.execute_command("SET", key, "value")
                    client.execute_command("GET", key)
            return {"rate": CALLS_ALONE / watch.seconds}

        yield measure


@asynccontextmanager
async def add_in_cluster(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 tasks that share a client of a cluster add events to a stream each."""
    async with connect_cluster(f"redis://127.0.0.1:{setting.cluster_port}") as client:
        keys = itertools.cycle([f"{setting.name}:redis-py:{number}" for number in range(TASKS)])
        yield lambda: call_from_tasks(lambda: client.execute_command("XADD", next(keys), *EVENT))


def call_from_threads(call: Callable[[], object]) -> Figures:
    """Let 100 threads make their calls, each one after the other."""
    delays: list[float] = []

    def run() -> None:
        for _ in range(CALLS_EACH):
            began = perf_counter()
            call()
            delays.append(perf_counter() - began)

    threads = [threading.Thread(target=run) for _ in range(TASKS)]
    with Stopwatch() as watch:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return rate_and_delays(delays, watch)


@contextmanager
def add_from_threads(setting: Setting) -> Generator[Measure]:
    """100 threads that share a client add events."""
    with connect_plain(setting.url) as client:
        key = f"{setting.name}:redis-py-threads"
        yield lambda: call_from_threads(lambda: client.execute_command("XADD", key, *EVENT))


@contextmanager
def run_scripts_from_threads(setting: Setting) -> Generator[Measure]:
    """100 threads that share a client run a small script."""
    with connect_plain(setting.url) as client:
        key = f"{setting.name}:redis-py-threads"
        script = client.register_script(SCRIPT)
        yield lambda: call_from_threads(lambda: script(keys=[key], args=["calls"]))


@contextmanager
def benchmark_adds(setting: Setting) -> Generator[Measure]:
    """redis-benchmark on one connection, 100 commands in each write."""
    yield benchmark(setting, "-c", "1", "-P", str(TASKS), "-n", str(CEILING_EVENTS))


@contextmanager
def benchmark_single_adds(setting: Setting) -> Generator[Measure]:
    """redis-benchmark on 100 connections, one command in each write."""
    yield benchmark(setting, "-c", str(TASKS), "-n", str(CEILING_EVENTS // 5))


@contextmanager
def benchmark_cluster_adds(setting: Setting) -> Generator[Measure]:
    """redis-benchmark with a connection and a stream for each master, a third of 100 in a write."""
    each = str(TASKS // MASTERS)
    place = ["--cluster", "-p", str(setting.cluster_port)]
    options = ["-c", str(MASTERS), "-P", each, "-n", str(CEILING_EVENTS // 5)]
    yield benchmark_at(place, f"{setting.name}:ceiling:{{tag}}", *options)


def benchmark(setting: Setting, *options: str) -> Measure:
    """Return what runs redis-benchmark with these options on the single server."""
    return benchmark_at(["-p", str(setting.port)], f"{setting.name}:ceiling", *options)


def benchmark_at(place: Sequence[str], key: str, *options: str) -> Measure:
    """Return what has redis-benchmark add events to `key` at the servers of `place`."""
    command = [find_program("redis-benchmark"), *place, "--csv", *options, "XADD", key, *EVENT]

    def measure() -> Figures:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        # The last line: "what","requests per second", then in ms "average","min","p50","p95","p99"
        figures = done.stdout.splitlines()[-1].split('","')
        return {"rate": float(figures[1]), "p50": float(figures[4]), "p99": float(figures[6])}

    return measure
