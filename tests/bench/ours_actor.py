"""Our side of the actor cases: one actor under a supervisor, and its caller."""

import gc
import logging
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing

from terzetto.actor import Actor, Restarted, open_supervisor
from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch

TELLS = 20_000
ASKS = 10_000
ASKERS = 20
BATCH = 500
ACTORS = 1_000
FAMILY = 10_000
LOST = 1_000


@attrs.define
class Counter(Actor):
    """Adds up what it is sent, and answers with the total."""

    total: int = 0

    async def add(self, number: int) -> int:
        """Add the number; reply with the total."""
        self.total += number
        return self.total

    async def add_later(self, number: int) -> int:
        """Let others run, add the number, and reply with the total."""
        await trio.lowlevel.checkpoint()
        return await self.add(number)

    async def crash(self) -> None:
        """Crash."""
        raise ValueError


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
async def ask_waiting(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Ask for what the handler cannot give at once, one question after the other."""
    async with open_supervisor() as top:
        counter = await top.spawn(Counter)

        async def measure() -> Figures:
            with Stopwatch() as watch:
                for _ in range(ASKS):
                    await counter.ask(Counter.add_later, 1)
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


async def _measure_memory(start: int) -> float:
    """Return the bytes that were allocated since `start`, for each of the actors or tasks."""
    await trio.testing.wait_all_tasks_blocked()
    gc.collect()
    return (tracemalloc.get_traced_memory()[0] - start) / ACTORS


@asynccontextmanager
async def memory(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Allocate idle actors, and as many bare tasks that sleep; the figure is the difference."""

    async def measure() -> Figures:
        gc.collect()
        tracemalloc.start()
        start = tracemalloc.get_traced_memory()[0]
        async with trio.open_nursery() as nursery:
            for _ in range(ACTORS):
                nursery.start_soon(trio.sleep_forever)
            bare = await _measure_memory(start)
            nursery.cancel_scope.cancel()
        gc.collect()
        start = tracemalloc.get_traced_memory()[0]
        async with open_supervisor() as top:
            for _ in range(ACTORS):
                await top.spawn(Counter)
            actor = await _measure_memory(start)
        tracemalloc.stop()
        return {"above": actor - bare}

    yield measure


@asynccontextmanager
async def family(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Start a large family under one supervisor, crash a tenth of it at once, and stop it."""

    async def measure() -> Figures:
        back = trio.Event()
        restarted = 0

        def count(event: object) -> None:
            nonlocal restarted
            restarted += isinstance(event, Restarted)
            if restarted == LOST:
                back.set()

        logging.getLogger("terzetto.actor").setLevel(logging.CRITICAL)  # or it writes every crash
        async with open_supervisor(max_restarts=LOST, dynamic=True) as top:
            with Stopwatch() as start:
                refs = [await top.spawn(Counter) for _ in range(FAMILY)]
            top.observe(count, buffer_size=2 * FAMILY)
            with Stopwatch() as lose:
                for ref in refs[:: FAMILY // LOST]:
                    ref.tell_nowait(Counter.crash)
                await back.wait()
            with Stopwatch() as stop:
                await top.close()
        return {"start": start.seconds, "lose": lose.seconds, "stop": stop.seconds}

    yield measure
