"""What all peers on asyncio do in the cases of task queues, whatever their API.

A peer's module says how one enqueues, one by one and in bulk, and how its worker is
run, as its own documentation does; `Peer` makes the contenders of the cases of it.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter

import attrs

from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work_tasks import (
    ALONE,
    CONCURRENCY,
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

Handle = Callable[[float], Awaitable[None]]
"""What a task does: sleep for so many seconds, and be counted."""


@attrs.frozen
class Queue:
    """A peer: how to enqueue a task that sleeps for so long, many of them, and to work."""

    enqueue: Callable[[float], Awaitable[object]]
    enqueue_many: Callable[[int, float], Awaitable[object]]
    work: Callable[[], AbstractAsyncContextManager[None]]


OpenQueue = Callable[[str, Handle, int], AbstractAsyncContextManager[Queue]]
Opening = AbstractAsyncContextManager[AsyncMeasure]


@attrs.frozen
class Peer:
    """A peer's queue, what counts the tasks that its worker has handled, and its contenders.

    Args:
        module: the peer's module, as a program finds it; its `peer` is this.
        name: the name of its database.
        open_queue: opens its queue.
    """

    module: str
    name: str
    open_queue: OpenQueue
    tally: Tally = attrs.field(factory=Tally)

    def enqueue(self, setting: Setting) -> Opening:
        """One caller enqueues task after task."""
        return _enqueueing(self, setting, ALONE, _one_by_one)

    def bulk(self, setting: Setting) -> Opening:
        """One caller enqueues many tasks with as few writes as there is a call for."""
        return _enqueueing(self, setting, MANY, _in_bulk)

    def drain(self, setting: Setting) -> Opening:
        """A worker in this process drains tasks that do nothing."""
        return _draining(self, setting, MANY, 0.0)

    def sleep(self, setting: Setting) -> Opening:
        """A worker in this process drains tasks that sleep for a second."""
        return _draining(self, setting, SLEEPERS, 1.0)

    def drain_apart(self, setting: Setting) -> Opening:
        """Workers in two processes drain tasks that do nothing."""
        return _draining_apart(self, setting, MANY, 0.0)

    def sleep_apart(self, setting: Setting) -> Opening:
        """Workers in two processes drain tasks that sleep for a second."""
        return _draining_apart(self, setting, SLEEPERS, 1.0)

    def sleep_long(self, setting: Setting) -> Opening:
        """The same as `sleep`, for minutes."""
        return _draining(self, setting, MANY_SLEEPERS, 1.0)

    def sleep_long_apart(self, setting: Setting) -> Opening:
        """The same as `sleep_apart`, for minutes."""
        return _draining_apart(self, setting, MANY_SLEEPERS, 1.0)

    def start(self, setting: Setting) -> Opening:
        """One task at a time for an idle worker."""
        return _starting(self, setting)

    def work_apart(self, url: str, say: Say) -> None:
        """Be one of several worker processes; see `workers.py`."""
        asyncio.run(_work_apart(self, url, say))

    def url(self, setting: Setting) -> str:
        """Return the URL of its own database."""
        return database(setting.url, self.name)

    def open(self, url: str) -> AbstractAsyncContextManager[Queue]:
        """Open its queue."""
        return self.open_queue(url, self.handle, CONCURRENCY)

    async def handle(self, seconds: float) -> None:
        """Do what a task does."""
        if seconds:
            await asyncio.sleep(seconds)
        self.tally.count()

    def expect(self, count: int) -> asyncio.Event:
        """Return what is set when so many tasks are handled."""
        done = asyncio.Event()
        self.tally.expect(count, done.set)
        return done


async def _one_by_one(queue: Queue, count: int) -> None:
    for _ in range(count):
        await queue.enqueue(0.0)


async def _in_bulk(queue: Queue, count: int) -> None:
    await queue.enqueue_many(count, 0.0)


@asynccontextmanager
async def _enqueueing(
    peer: Peer, setting: Setting, count: int, enqueue: Callable[[Queue, int], Awaitable[None]]
) -> AsyncGenerator[AsyncMeasure]:
    url = peer.url(setting)
    async with peer.open(url) as queue:

        async def measure() -> Figures:
            with Stopwatch() as watch:
                await enqueue(queue, count)
            empty(url)
            return {"rate": count / watch.seconds}

        yield measure


@asynccontextmanager
async def _draining(
    peer: Peer, setting: Setting, count: int, seconds: float
) -> AsyncGenerator[AsyncMeasure]:
    url = peer.url(setting)
    async with peer.open(url) as queue:

        async def measure() -> Figures:
            await queue.enqueue_many(count, seconds)
            done = peer.expect(count)
            began = perf_counter()
            async with queue.work():
                await done.wait()
                taken = perf_counter() - began
            empty(url)
            return {"rate": count / taken}

        yield measure


@asynccontextmanager
async def _draining_apart(
    peer: Peer, setting: Setting, count: int, seconds: float
) -> AsyncGenerator[AsyncMeasure]:
    url = peer.url(setting)
    with Workers(f"{peer.module}:peer.work_apart", url) as workers:
        async with peer.open(url) as queue:

            async def measure() -> Figures:
                await queue.enqueue_many(count, seconds)
                taken = await asyncio.to_thread(workers.handle, count)
                empty(url)
                return {"rate": count / taken}

            yield measure


@asynccontextmanager
async def _starting(peer: Peer, setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    async with peer.open(peer.url(setting)) as queue, queue.work():

        async def measure() -> Figures:
            found: list[float] = []
            until = perf_counter() + STARTS_TIME
            while len(found) < STARTS and perf_counter() < until:
                await asyncio.sleep(PAUSE)
                done = peer.expect(1)
                began = perf_counter()
                await queue.enqueue(0.0)
                await done.wait()
                found.append(peer.tally.started_at - began)
            return waits(found)

        yield measure


async def _work_apart(peer: Peer, url: str, say: Say) -> None:
    async with peer.open(url) as queue:
        say("ready")
        while await asyncio.to_thread(is_told_to_go):
            peer.expect(0)
            async with queue.work():
                telling = asyncio.create_task(_tell(peer.tally, say))
                await asyncio.to_thread(sys.stdin.readline)
                telling.cancel()
            say("over")


async def _tell(tally: Tally, say: Say) -> None:
    """Say how many were handled, whenever that has changed."""
    told = 0
    while True:
        if tally.handled != told:
            told = tally.handled
            say(str(told))
        await asyncio.sleep(TELL_EVERY)


async def enqueue_together(enqueue: Callable[[], Awaitable[object]], count: int) -> None:
    """Enqueue many with a peer that has no call for it: a hundred at a time."""
    for _ in range(count // 100):
        await asyncio.gather(*(enqueue() for _ in range(100)))
    for _ in range(count % 100):
        await enqueue()
