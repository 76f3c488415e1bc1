"""How a server comes to hear of what others do, and again after outages."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Never, Self

import attrs
import pytest
import trio
from redis.exceptions import ResponseError
from trio.testing import MockClock

from terzetto.tasks import Router
from terzetto.tasks._broker import Wakeups
from terzetto.tasks._broker_values import CancelRequest
from terzetto.tasks.testing import MemoryBroker
from tests.tasks.serving import serving

PAUSES: Final = [0.1, 0.2, 0.4]  # seconds before each of the tries that an outage takes
HEARS_FOR: Final = 9.0  # seconds between two outages
OUTAGES: Final = 10


@attrs.define
class Breaking:
    """A broker one of whose subscriptions works for a while, is refused for a moment, and so on."""

    memory: MemoryBroker
    pauses: list[float] = attrs.field(factory=list[float])
    """Seconds from each failure to the next try."""
    _refusals: int = 0
    _failed_at: float | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.memory, name)

    def _try(self) -> Self:
        if self._failed_at is not None:
            self.pauses.append(trio.current_time() - self._failed_at)
        if self._refusals:
            self._refusals -= 1
            raise self._refusal()
        return self

    async def _hear_for_a_while(self) -> Never:
        await trio.sleep(HEARS_FOR)
        self._refusals = len(PAUSES) - 1
        raise self._refusal()

    def _refusal(self) -> ResponseError:
        self._failed_at = trio.current_time()
        return ResponseError("NOPERM No permissions to access a channel")


class BreakingWakeups(Breaking):
    """It breaks off what tells of tasks."""

    @asynccontextmanager
    async def open_wakeups(self, queues: Sequence[str]) -> AsyncGenerator[Wakeups]:
        yield self._try()

    async def wait(self) -> frozenset[str]:
        await self._hear_for_a_while()


class BreakingCancels(Breaking):
    """It breaks off what tells of tasks that are to be cancelled."""

    @asynccontextmanager
    async def open_cancels(self) -> AsyncGenerator[AsyncIterator[CancelRequest]]:
        yield self._try()

    def __aiter__(self) -> AsyncIterator[CancelRequest]:
        return self

    async def __anext__(self) -> CancelRequest:
        await self._hear_for_a_while()


@pytest.mark.parametrize("broken", [BreakingWakeups, BreakingCancels])
async def test_every_outage_begins_with_the_shortest_pause(
    autojump_clock: MockClock, broken: Callable[[MemoryBroker], Any]
) -> None:
    """However many there were before in the life of the server."""
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> None: ...

    breaking = broken(MemoryBroker())
    async with serving(breaking, router):
        await trio.sleep(OUTAGES * (HEARS_FOR + sum(PAUSES)) + 1)
    assert breaking.pauses == pytest.approx(OUTAGES * PAUSES)
