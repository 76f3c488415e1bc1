"""What goes wrong with one task, or with what runs them, holds up and costs no other."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from terzetto.tasks import RateLimit, Router, TaskContext, TaskMessage, TaskState
from terzetto.tasks._broker_values import Completion, Lease
from terzetto.tasks._router import Handle
from terzetto.tasks.testing import MemoryBroker
from tests.tasks.conftest import AnyBroker
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


# Outcomes that cannot be written ----------------------------------------------------------


@pytest.mark.parametrize("answer", [True, {"a": 1}, 7, "text", bytearray(b"x")])
async def test_middleware_that_returns_no_bytes_fails_its_own_task_only(
    place: AnyBroker, answer: object
) -> None:
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> bytes:
        return b"fine"

    def wrap(handle: Handle) -> Handle:
        async def around(ctx: TaskContext) -> Any:  # noqa: ANN401 - that is what is tested
            result = await handle(ctx)
            return answer if ctx.payload == b"odd" else result

        return around

    router.use(wrap)
    payloads = [b"even", b"odd", b"even"]
    first, odd, last = await put(place, *(task(payload=each, retention=60) for each in payloads))
    async with serving(place, router, retry_delay=late) as server:
        for task_id in (first, last):
            info = await reaches(place, task_id, TaskState.COMPLETED)
            assert info is not None
            assert info.result == b"fine"
        failed = await reaches(place, odd, TaskState.RETRY)
        await server.shutdown()
    assert failed is not None
    assert failed.result is None
    assert f"returned a {type(answer).__name__}" in failed.message.error


def late(retried: int, error: BaseException, message: TaskMessage) -> float:
    return 600.0


async def test_a_success_that_cannot_be_written_fails_its_own_task_only(
    memory: MemoryBroker,
) -> None:
    """It would be tried with the others, and crash what writes them."""
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> bytes:
        return payload

    @attrs.define
    class Picky:
        memory: MemoryBroker

        def __getattr__(self, name: str) -> object:
            return getattr(self.memory, name)

        async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
            for each in completions:
                await self.complete(each.lease, result=each.result)
            return [True] * len(completions)

        async def complete(self, lease: Lease, *, result: bytes | None, **_: object) -> bool:
            if result == b"odd":
                raise OverflowError("cannot be packed")
            return await self.memory.complete(lease, result=result)

    picky: Any = Picky(memory)
    payloads = [b"odd", b"even", b"even"]
    odd, *even = await put(memory, *(task(payload=each, retention=60) for each in payloads))
    async with serving(picky, router, retry_delay=late) as server:
        for task_id in even:
            await reaches(memory, task_id, TaskState.COMPLETED)
        failed = await reaches(memory, odd, TaskState.RETRY)
        await server.shutdown()
    assert failed is not None
    assert failed.message.error == "OverflowError: cannot be packed"
