"""Brokers of every kind for the same tests, on a clock that only the test moves.

Servers are started once a session, in a program of their own, and emptied for
each test.
"""

import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Protocol

import attrs
import pytest

from terzetto.redis import connect
from terzetto.tasks._broker import Broker
from terzetto.tasks._inspection import Inspection
from terzetto.tasks._memory_broker import MemoryBroker
from terzetto.tasks._redis_broker import RedisBroker

ROOT = Path(__file__).parents[2]
START = 1_800_000_000.0


class AnyBroker(Broker, Inspection, Protocol):
    """What every broker is."""


@attrs.define
class ManualClock:
    """A clock that stands still until it is moved."""

    time: float = START

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def run_deployment(kind: str) -> Iterator[str]:
    """Yield the URL of servers that run meanwhile."""
    command = [sys.executable, "-m", "tests.tasks.deployment", kind]
    with subprocess.Popen(  # noqa: S603 - the program is ours
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        yield program.stdout.readline().strip()
        program.communicate()  # closes its input; it ends


@pytest.fixture(scope="session")
def single_url() -> Iterator[str]:
    yield from run_deployment("single")


@pytest.fixture(scope="session", params=["memory", "single", "sentinel", "cluster"])
def deployment(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return ``"memory"``, or the URL of one kind of deployment after the other."""
    if request.param == "memory":
        yield "memory"
    else:
        yield from run_deployment(request.param)


@pytest.fixture
async def broker(deployment: str, clock: ManualClock) -> AsyncGenerator[AnyBroker]:
    """Return an empty broker of each kind."""
    if deployment == "memory":
        yield MemoryBroker(clock=clock)
        return
    async with connect(deployment) as redis:
        await redis.execute("FLUSHALL")
        yield RedisBroker(redis, clock=clock)


@pytest.fixture(scope="session", params=["memory", "single"])
def place_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return an empty text for memory, or the URL of a single server."""
    if request.param == "memory":
        yield ""
    else:
        yield from run_deployment(request.param)


@pytest.fixture
async def place(place_url: str) -> AsyncGenerator[AnyBroker]:
    """Return an empty broker that goes by a clock of its own: in this process, and in Redis."""
    if not place_url:
        yield MemoryBroker()
        return
    async with connect(place_url) as redis:
        await redis.execute("FLUSHALL")
        yield RedisBroker(redis)
