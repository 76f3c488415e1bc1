"""Processes whose clocks are stepped two minutes ahead and back: nobody is taken for dead.

The clocks are faked by libfaketime (Debian's package of that name), in the node's
processes only; Redis keeps its own.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.testing import Program, open_program

TTL = 1.0
INTERVAL = 0.5
STEP = 120  # seconds
PLACES = ("/usr/lib", "/usr/local/lib", "/usr/lib64", "/opt/homebrew/lib")


def find_library() -> str | None:
    """Return the path of libfaketime for programs with threads."""
    for place in PLACES:
        for found in sorted(Path(place).glob("**/faketime/libfaketimeMT.so.1")):
            return str(found)
    return None


LIBRARY = find_library()


@attrs.define(eq=False)
class Stepped:
    """A process, and what it said."""

    program: Program
    offset: Path
    lines: list[str] = attrs.field(factory=list[str])

    async def listen(self) -> None:
        while True:
            self.lines.append(await self.program.read_line())

    async def step(self, seconds: int) -> None:
        """Step its clock; return when it goes by that."""
        self.offset.write_text(f"{seconds:+d}\n")
        asked = len(self.lines)
        await self.program.write_line("clock?")
        await until(lambda: any(line.startswith("clock") for line in self.lines[asked:]))
        clock = next(line for line in self.lines[asked:] if line.startswith("clock"))
        assert float(clock.split()[1]) - time.time() == pytest.approx(seconds, abs=10)

    def said(self, what: str) -> list[str]:
        return [line.split()[1] for line in self.lines if line.startswith(what + " ")]


async def until(is_so: object, within: float = 30.0) -> None:
    assert callable(is_so)
    with trio.fail_after(within):
        while not is_so():  # noqa: ASYNC110 - what other processes say
            await trio.sleep(0.02)


@asynccontextmanager
async def stepped(url: str, directory: Path, name: str) -> AsyncGenerator[Stepped]:
    """Run a process whose clock is right at first."""
    assert LIBRARY is not None
    offset = directory / f"{name}.offset"
    offset.write_text("+0\n")
    environment = {
        "LD_PRELOAD": LIBRARY,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    arguments = (url, "p", str(TTL), str(TTL), str(INTERVAL))
    program = Path(__file__).with_name("clock_program.py")
    async with (
        open_program(program, *arguments, environment=environment) as running,
        trio.open_nursery() as nursery,
    ):
        process = Stepped(running, offset)
        nursery.start_soon(process.listen)
        await until(lambda: "ready" in process.lines)
        yield process
        nursery.cancel_scope.cancel()


async def check_steps(
    server: EmbeddedServer, redis: Redis, directory: Path, *, jobs: int, steps: int
) -> None:
    """Step the clocks of two processes while jobs run and are dispatched, and ticks come."""
    chance = Random(12)  # noqa: S311 - to be repeated
    keys = [f"job-{number}" for number in range(jobs)]
    async with (
        stepped(server.url, directory, "a") as one,
        stepped(server.url, directory, "b") as two,
        pool.open_node("p", redis, client_only=True, worker_ttl=TTL, ack_grace_period=TTL) as node,
    ):
        outcomes = await node.dispatch_many((key, b"") for key in keys)
        assert set(outcomes.values()) == {None}
        began = time.monotonic()
        for number in range(steps):
            await one.step(chance.choice([STEP, -STEP]))
            await two.step(chance.choice([STEP, -STEP]))
            await trio.sleep(1.5 * TTL)  # who is taken for dead is so by then
            await node.dispatch(f"after-{number}")
            keys.append(f"after-{number}")
        passed = time.monotonic() - began
        assert sorted(one.said("start") + two.said("start")) == sorted(keys), "each runs once"
        assert one.said("stop") + two.said("stop") == [], "nobody was taken for dead"
        assert await node.job_keys() == sorted(keys)
        ticks = [int(tick) for tick in one.said("tick") + two.said("tick")]
        assert len(set(ticks)) == len(ticks), "no tick comes twice"
        assert passed / INTERVAL / 3 < len(ticks), "they go on"
        gaps = [
            after - before for before, after in zip(sorted(ticks), sorted(ticks)[1:], strict=False)
        ]
        assert min(gaps) >= INTERVAL * 0.99e6, "at most one in an interval"


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
async def test_stepped_clocks_evict_nobody_and_lose_no_tick(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    await check_steps(server, redis, tmp_path, jobs=20, steps=3)
