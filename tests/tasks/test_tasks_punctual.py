"""A server has trio notice deadlines as they fall due: by a timer of the kernel's, set anew.

Who sleeps here waits for no event: the ends of the sleeps are the deadlines that are tested.
"""

import os
import re
import resource
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from terzetto.tasks import Router
from terzetto.tasks._punctual import wake_on_time
from tests.tasks.conftest import AnyBroker
from tests.tasks.serving import QUICK, put, serving, task, until_true

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such timers")


def timers() -> list[float]:
    """Return the seconds that are left of each timer this process has, 0 where it is not set."""
    left: list[float] = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            is_timer = str(entry.readlink()) == "anon_inode:[timerfd]"
        except FileNotFoundError:  # the descriptor that lists them
            continue
        if is_timer:
            info = Path(f"/proc/self/fdinfo/{entry.name}").read_text(encoding="ascii")
            found = re.search(r"it_value: \((\d+), (\d+)\)", info)
            assert found is not None
            left.append(int(found[1]) + int(found[2]) / 1e9)
    return left


async def is_set_within(least: float, most: float) -> None:
    """Wait until the one timer there is is set so; the test's own time-out is the limit."""
    while True:
        # Looked at from a thread, while trio waits; or is about to, then it is looked at again.
        left = await trio.to_thread.run_sync(timers)
        if len(left) == 1 and least < left[0] <= most:
            return


@attrs.define(eq=False)
class Turns(trio.abc.Instrument):
    """Counts the turns of tasks."""

    count: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count one."""
        self.count += 1


async def test_the_timer_is_set_for_the_deadline_that_is_next() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake_on_time)
        await trio.testing.wait_all_tasks_blocked()
        await is_set_within(-1, 0)
        nursery.start_soon(trio.sleep, 3000)
        with trio.move_on_after(2000) as scope:
            await is_set_within(1900, 2000)
            scope.deadline = trio.current_time() + 500.75
            await is_set_within(400, 500.75)
        await is_set_within(2900, 3000)
        nursery.cancel_scope.cancel()
    assert timers() == []


async def test_a_deadline_is_noticed_by_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    fired: list[float] = []
    wait_readable: Callable[[int], Awaitable[None]] = trio.lowlevel.wait_readable

    async def note(fileno: int) -> None:
        await wait_readable(fileno)
        fired.append(trio.current_time())

    monkeypatch.setattr(trio.lowlevel, "wait_readable", note)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake_on_time)
        for _ in range(10):
            await trio.sleep(0.0505)  # trio's own wait is of whole milliseconds
        nursery.cancel_scope.cancel()
    assert fired


async def test_a_timer_that_has_fired_keeps_nobody_busy() -> None:
    turns = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake_on_time)
        trio.lowlevel.add_instrument(turns)
        for _ in range(20):
            await trio.sleep(0.0105)
            for _ in range(10):
                await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(turns)
        nursery.cancel_scope.cancel()
    # Ours, that of the timer for each sleep, and what a busy machine may add.
    assert turns.count <= 20 * 11 + 20 * 5


@pytest.mark.parametrize("cushion", [0.0, 0.01])
async def test_who_waits_until_nothing_goes_on_is_not_kept_from_it(cushion: float) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake_on_time)
        nursery.start_soon(trio.sleep, 3000)
        await is_set_within(2900, 3000)
        for seconds in (0.0, 0.005, 0.0505):  # with a timer that has never fired, and one that has
            await trio.sleep(seconds)
            await trio.testing.wait_all_tasks_blocked(cushion)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("threshold", [0.0, 0.01])
def test_a_clock_that_jumps_still_does(threshold: float) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wake_on_time)
            for seconds in (1000, 0.005, 0.0101):
                await trio.sleep(seconds)
            assert await trio.to_thread.run_sync(timers) == []
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=threshold))


async def test_without_a_timer_trio_does_as_well_as_it_can() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))  # no more descriptors
    try:
        await wake_on_time()  # returns
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_a_server_has_a_timer_for_as_long_as_it_lives(broker: AnyBroker) -> None:
    router, found = Router(), trio.Event()

    @router.task("x")
    async def look(_: bytes) -> None:
        assert len(await trio.to_thread.run_sync(timers)) == 1
        found.set()

    await put(broker, task("x"))
    async with serving(broker, router, **QUICK):
        await found.wait()
    assert timers() == []


async def test_a_server_does_not_keep_trio_from_being_idle(broker: AnyBroker) -> None:
    done = 0
    router = Router()

    @router.task("x")
    async def look(_: bytes) -> None:
        nonlocal done
        await trio.sleep(0.02)  # by its end the timer has fired
        await trio.testing.wait_all_tasks_blocked(0.001)
        done += 1

    await put(broker, *(task("x") for _ in range(5)))
    async with serving(broker, router, **{**QUICK, "concurrency": 1}):
        await until_true(lambda: done == 5)
