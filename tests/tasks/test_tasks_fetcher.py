"""How a server comes to hear that tasks were enqueued."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import pytest
import trio
from redis.exceptions import ResponseError
from trio.testing import MockClock

from terzetto.tasks import Router
from terzetto.tasks._broker import Wakeups
from terzetto.tasks.testing import MemoryBroker
from tests.tasks.serving import serving

PAUSES: Final = [0.1, 0.2, 0.4]  # seconds before each of the tries that an outage takes
HEARS_FOR: Final = 9.0  # seconds between two outages
OUTAGES: Final = 10


@attrs.define
class Breaking:
    """A broker that tells of tasks for a while, refuses to for a moment, and so on."""

    memory: MemoryBroker
    pauses: list[float] = attrs.field(factory=list[float])
    """Seconds from each failure to the next try."""
    _refusals: int = 0
    _failed_at: float | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.memory, name)

    @asynccontextmanager
    async def open_wakeups(self, queues: Sequence[str]) -> AsyncGenerator[Wakeups]:
        if self._failed_at is not None:
            self.pauses.append(trio.current_time() - self._failed_at)
        if self._refusals:
            self._refusals -= 1
            raise self._refusal()
        yield self

    async def wait(self) -> frozenset[str]:
        await trio.sleep(HEARS_FOR)
        self._refusals = len(PAUSES) - 1
        raise self._refusal()

    def _refusal(self) -> ResponseError:
        self._failed_at = trio.current_time()
        return ResponseError("NOPERM No permissions to access a channel")


async def test_every_outage_begins_with_the_shortest_pause(autojump_clock: MockClock) -> None:
    """However many there were before in the life of the server."""
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> None: ...

    breaking: Any = Breaking(MemoryBroker())
    async with serving(breaking, router):
        await trio.sleep(OUTAGES * (HEARS_FOR + sum(PAUSES)) + 1)
    assert breaking.pauses == pytest.approx(OUTAGES * PAUSES)
