"""What goes wrong with one task, or with what runs them, holds up and costs no other."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from terzetto.tasks import RateLimit, Router, TaskState
from terzetto.tasks._broker_values import Completion
from terzetto.tasks.testing import MemoryBroker
from tests.tasks.serving import put, reaches, serving, task


@pytest.fixture
async def memory(autojump_clock: MockClock) -> MemoryBroker:
    return MemoryBroker()


# A crew that crashes -------------------------------------------------------------------


async def test_what_a_crew_that_crashed_left_unwritten_is_run_by_the_next(
    memory: MemoryBroker,
) -> None:
    """Its lease would be renewed for ever, and who waits until nothing runs would never end."""
    router, ran, hangs = Router(), list[bytes](), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    @attrs.define
    class Hanging:
        """Hangs where outcomes are written, and then has the crew crash."""

        memory: MemoryBroker

        def __getattr__(self, name: str) -> object:
            return getattr(self.memory, name)

        async def take_rate(self, *_: object, **__: object) -> float:
            raise OSError("a bug")

        async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
            if not hangs.is_set():
                hangs.set()
                await trio.sleep_forever()
            return await self.memory.complete_many(completions)

    limits = (RateLimit(name="crash", count=1, pattern="crash"),)
    hanging: Any = Hanging(memory)
    tasks = await put(memory, *(task(retention=600, max_retry=0) for _ in range(3)))
    async with serving(hanging, router, limits=limits) as server:
        await hangs.wait()
        await put(memory, task("crash"))
        for task_id in tasks:
            await reaches(memory, task_id, TaskState.COMPLETED)
        await server.shutdown()
    assert ran == [b""] * 6
