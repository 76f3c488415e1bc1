"""Our side of the cases of task queues."""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter

import trio

import terzetto
from terzetto import tasks
from terzetto.redis import Redis
from terzetto.tasks import Client, Router, Task
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work_tasks import (
    ALONE,
    CONCURRENCY,
    GO_CONCURRENCY,
    GO_MANY,
    MANY,
    MANY_SLEEPERS,
    PAUSE,
    SLEEPERS,
    STARTS,
    STARTS_TIME,
    Tally,
    database,
    empty,
    waits,
)
from tests.bench.workers import TELL_EVERY, Say, Workers, is_told_to_go

NAME = "terzetto"
_CHUNK = 1000  # tasks in one write
Contender = Callable[[Setting], AbstractAsyncContextManager[AsyncMeasure]]


async def fill(client: Client, count: int, payload: Callable[[int], bytes]) -> None:
    """Enqueue so many tasks, in bulk."""
    for start in range(0, count, _CHUNK):
        numbers = range(start, min(start + _CHUNK, count))
        await client.enqueue_many([Task("task", payload(number)) for number in numbers])


@asynccontextmanager
async def working(redis: Redis, router: Router, concurrency: int) -> AsyncGenerator[None]:
    """Run a server for the time of a block."""
    async with (
        tasks.open_server(
            redis, concurrency=concurrency, retry_delay=lambda _retried, _error, _task: 1.0
        ) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def enqueue(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One caller enqueues task after task."""
    url = database(setting.url, NAME)
    async with terzetto.connect(url) as redis:
        client = Client(redis)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(ALONE):
                    await client.enqueue(Task("task", b"0.0"))
            empty(url)
            return {"rate": ALONE / watch.seconds}

        yield measure


@asynccontextmanager
async def bulk(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One caller enqueues many tasks with few writes."""
    url = database(setting.url, NAME)
    async with terzetto.connect(url) as redis:
        client = Client(redis)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                await fill(client, MANY, lambda _: b"0.0")
            empty(url)
            return {"rate": MANY / watch.seconds}

        yield measure


def sleeping(tally: Tally) -> Router:
    """Return a router for tasks that sleep for as long as they say."""
    router = Router()

    @router.task("task")
    async def handle(payload: bytes) -> None:
        if payload == b"1.0":
            await trio.sleep(1.0)
        tally.count()

    return router


def draining(count: int, concurrency: int, payload: Callable[[int], bytes]) -> Contender:
    """Make a contender that drains a queue whose tasks sleep for as long as they say."""

    @asynccontextmanager
    async def drain(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
        url = database(setting.url, NAME)
        tally = Tally()
        router = sleeping(tally)
        async with terzetto.connect(url) as redis:
            client = Client(redis)

            async def measure() -> Figures:
                await fill(client, count, payload)
                done = trio.Event()
                tally.expect(count, done.set)
                began = perf_counter()
                async with working(redis, router, concurrency):
                    await done.wait()
                    taken = perf_counter() - began
                empty(url)
                return {"rate": count / taken}

            yield measure

    return drain


def draining_apart(count: int, payload: bytes) -> Contender:
    """Make a contender that has two processes drain a queue."""

    @asynccontextmanager
    async def drain(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
        url = database(setting.url, NAME)
        with Workers(f"{__name__}:work_apart", url) as workers:
            async with terzetto.connect(url) as redis:
                client = Client(redis)

                async def measure() -> Figures:
                    await fill(client, count, lambda _: payload)
                    taken = await trio.to_thread.run_sync(workers.handle, count)
                    empty(url)
                    return {"rate": count / taken}

                yield measure

    return drain


def work_apart(url: str, say: Say) -> None:
    """Be one of several worker processes; see `workers.py`."""
    trio.run(_work_apart, url, say)


async def _work_apart(url: str, say: Say) -> None:
    tally = Tally()
    router = sleeping(tally)
    async with terzetto.connect(url) as redis:
        say("ready")
        while await trio.to_thread.run_sync(is_told_to_go):
            tally.expect(0, lambda: None)
            async with working(redis, router, CONCURRENCY), trio.open_nursery() as nursery:
                nursery.start_soon(_tell, tally, say)
                await trio.to_thread.run_sync(sys.stdin.readline)
                nursery.cancel_scope.cancel()
            say("over")


async def _tell(tally: Tally, say: Say) -> None:
    """Say how many were handled, whenever that has changed."""
    told = 0
    while True:
        if tally.handled != told:
            told = tally.handled
            say(str(told))
        await trio.sleep(TELL_EVERY)


drain = draining(MANY, CONCURRENCY, lambda _: b"0.0")
sleep = draining(SLEEPERS, CONCURRENCY, lambda _: b"1.0")
drain_apart = draining_apart(MANY, b"0.0")
sleep_apart = draining_apart(SLEEPERS, b"1.0")
sleep_long = draining(MANY_SLEEPERS, CONCURRENCY, lambda _: b"1.0")
sleep_long_apart = draining_apart(MANY_SLEEPERS, b"1.0")
drain_go = draining(GO_MANY, GO_CONCURRENCY, lambda number: b'{"data":%d}' % number)


@asynccontextmanager
async def end_to_end(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Enqueue and drain, as asynq's own benchmark does, with each hundredth failing once."""
    url = database(setting.url, NAME)
    tally = Tally()
    router = Router()

    @router.task("task")
    async def handle(payload: bytes, ctx: tasks.TaskContext) -> None:
        if not ctx.retried and payload.endswith(b"00}"):
            raise ValueError("the first time")
        tally.count()

    async with terzetto.connect(url) as redis:
        client = Client(redis)

        async def measure() -> Figures:
            done = trio.Event()
            tally.expect(GO_MANY, done.set)
            began = perf_counter()
            await fill(client, GO_MANY, lambda number: b'{"data":%d}' % number)
            async with working(redis, router, GO_CONCURRENCY):
                await done.wait()
                taken = perf_counter() - began
            empty(url)
            return {"rate": GO_MANY / taken}

        yield measure


@asynccontextmanager
async def start(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task at a time for an idle server: from the call to enqueue it to its start."""
    url = database(setting.url, NAME)
    tally = Tally()
    router = Router()

    @router.task("task")
    async def handle(_: bytes) -> None:
        tally.count()

    async with terzetto.connect(url) as redis, working(redis, router, CONCURRENCY):
        client = Client(redis)

        async def measure() -> Figures:
            found: list[float] = []
            until = perf_counter() + STARTS_TIME
            while len(found) < STARTS and perf_counter() < until:
                await trio.sleep(PAUSE)
                done = trio.Event()
                tally.expect(1, done.set)
                began = perf_counter()
                await client.enqueue(Task("task", b"0.0"))
                await done.wait()
                found.append(tally.started_at - began)
            return waits(found)

        yield measure
