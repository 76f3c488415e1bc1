"""The floor of the actor cases: what trio alone takes for as many turns of its scheduler."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from tests.bench.harness import AsyncMeasure, Figures, Setting, Stopwatch

COUNT = 20_000


@asynccontextmanager
async def checkpoint(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task that only lets others run: what a schedule point costs."""

    async def measure() -> Figures:
        with Stopwatch() as watch:
            for _ in range(COUNT):
                await trio.lowlevel.checkpoint()
        return {"rate": COUNT / watch.seconds}

    yield measure


@asynccontextmanager
async def channel(_setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A memory channel as long as a mailbox, and a task that adds up what comes out of it."""

    async def add_all(receiver: trio.MemoryReceiveChannel[int]) -> None:
        total = 0
        async with receiver:
            async for number in receiver:
                total += number

    async def measure() -> Figures:
        sender, receiver = trio.open_memory_channel[int](100)
        with Stopwatch() as watch:
            async with trio.open_nursery() as nursery, sender:
                nursery.start_soon(add_all, receiver)
                for _ in range(COUNT):
                    await sender.send(1)
        return {"rate": COUNT / watch.seconds}

    yield measure
