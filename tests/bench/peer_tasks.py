"""What all peers on asyncio do in the cases of task queues, whatever their API.

A peer's module says how one enqueues, one by one and in bulk, and how its worker is
run, as its own documentation does; `measures` makes the contenders of the cases of it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter

import attrs

from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch
from tests.bench.work_tasks import (
    ALONE,
    CONCURRENCY,
    MANY,
    PAUSE,
    SLEEPERS,
    STARTS,
    Tally,
    database,
    empty,
    waits,
)

Handle = Callable[[float], Awaitable[None]]
"""What a task does: sleep for so many seconds, and be counted."""


@attrs.frozen
class Queue:
    """A peer: how to enqueue a task that sleeps for so long, many of them, and to work."""

    enqueue: Callable[[float], Awaitable[object]]
    enqueue_many: Callable[[int, float], Awaitable[object]]
    work: Callable[[], AbstractAsyncContextManager[None]]


OpenQueue = Callable[[str, Handle, int], AbstractAsyncContextManager[Queue]]
Contender = Callable[[Setting], AbstractAsyncContextManager[AsyncMeasure]]


@attrs.frozen
class Peer:
    """A peer's queue, and what counts the tasks that its worker has handled."""

    name: str
    open_queue: OpenQueue
    tally: Tally = attrs.field(factory=Tally)

    def url(self, setting: Setting) -> str:
        """Return the URL of its own database."""
        return database(setting.url, self.name)

    def open(self, setting: Setting) -> AbstractAsyncContextManager[Queue]:
        """Open its queue."""
        return self.open_queue(self.url(setting), self.handle, CONCURRENCY)

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


def measures(
    name: str, open_queue: OpenQueue
) -> tuple[Contender, Contender, Contender, Contender, Contender]:
    """Return the contenders of a peer: enqueue, bulk, drain, sleep and start."""
    peer = Peer(name, open_queue)
    alone = _enqueueing(peer, ALONE, _one_by_one)
    bulk = _enqueueing(peer, MANY, _in_bulk)
    return alone, bulk, _draining(peer, MANY, 0.0), _draining(peer, SLEEPERS, 1.0), _starting(peer)


async def _one_by_one(queue: Queue, count: int) -> None:
    for _ in range(count):
        await queue.enqueue(0.0)


async def _in_bulk(queue: Queue, count: int) -> None:
    await queue.enqueue_many(count, 0.0)


def _enqueueing(
    peer: Peer, count: int, enqueue: Callable[[Queue, int], Awaitable[None]]
) -> Contender:
    @asynccontextmanager
    async def opened(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
        async with peer.open(setting) as queue:

            async def measure() -> Figures:
                with Stopwatch() as watch:
                    await enqueue(queue, count)
                empty(peer.url(setting))
                return {"rate": count / watch.seconds}

            yield measure

    return opened


def _draining(peer: Peer, count: int, seconds: float) -> Contender:
    @asynccontextmanager
    async def opened(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
        async with peer.open(setting) as queue:

            async def measure() -> Figures:
                await queue.enqueue_many(count, seconds)
                done = peer.expect(count)
                began = perf_counter()
                async with queue.work():
                    await done.wait()
                    taken = perf_counter() - began
                empty(peer.url(setting))
                return {"rate": count / taken}

            yield measure

    return opened


def _starting(peer: Peer) -> Contender:
    @asynccontextmanager
    async def opened(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
        async with peer.open(setting) as queue, queue.work():

            async def measure() -> Figures:
                found: list[float] = []
                for _ in range(STARTS):
                    await asyncio.sleep(PAUSE)
                    done = peer.expect(1)
                    began = perf_counter()
                    await queue.enqueue(0.0)
                    await done.wait()
                    found.append(peer.tally.started_at - began)
                return waits(found)

            yield measure

    return opened


async def enqueue_together(enqueue: Callable[[], Awaitable[object]], count: int) -> None:
    """Enqueue many with a peer that has no call for it: a hundred at a time."""
    for _ in range(count // 100):
        await asyncio.gather(*(enqueue() for _ in range(100)))
    for _ in range(count % 100):
        await enqueue()
