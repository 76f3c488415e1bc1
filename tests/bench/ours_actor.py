"""Our side of the actor cases: one actor under a supervisor, and its caller."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio

from terzetto.actor import Actor, open_supervisor
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch

TELLS = 20_000
ASKS = 10_000
ASKERS = 20
BATCH = 500
ACTORS = 1_000


@attrs.define
class Counter(Actor):
    """Adds up what it is sent, and answers with the total."""

    total: int = 0

    async def add(self, number: int) -> int:
        """Add the number; reply with the total."""
        self.total += number
        return self.total


@asynccontextmanager
async def tell(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Tell, and take the time until the last message has been handled."""
    async with open_supervisor() as top:
        counter = await top.spawn(Counter)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(TELLS):
                    await counter.tell(Counter.add, 1)
                await counter.ask(Counter.add, 0)
            return {"rate": TELLS / watch.seconds}

        yield measure


@asynccontextmanager
async def ask(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Ask, one question after the other."""
    async with open_supervisor() as top:
        counter = await top.spawn(Counter)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(ASKS):
                    await counter.ask(Counter.add, 1)
            return {"rate": ASKS / watch.seconds}

        yield measure


@asynccontextmanager
async def tell_nowait(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Tell batches without waiting, and ask once after each so that the mailbox has room."""
    async with open_supervisor() as top:
        counter = await top.spawn(Counter, mailbox=2 * BATCH)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(TELLS // BATCH):
                    for _ in range(BATCH):
                        counter.tell_nowait(Counter.add, 1)
                    await counter.ask(Counter.add, 0)
            return {"rate": TELLS / watch.seconds}

        yield measure


@asynccontextmanager
async def ask_from_tasks(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """20 tasks ask one actor, each one question after the other."""
    async with open_supervisor() as top:
        counter = await top.spawn(Counter)

        async def run() -> None:
            for _ in range(ASKS // ASKERS):
                await counter.ask(Counter.add, 1)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                async with trio.open_nursery() as nursery:
                    for _ in range(ASKERS):
                        nursery.start_soon(run)
            return {"rate": ASKS / watch.seconds}

        yield measure


@asynccontextmanager
async def spawn(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Start actors under one supervisor, and take the time until the last one has started."""

    async def measure() -> Figures:
        async with open_supervisor() as top:
            with Stopwatch() as watch:
                for _ in range(ACTORS):
                    await top.spawn(Counter)
        return {"rate": ACTORS / watch.seconds}

    yield measure
