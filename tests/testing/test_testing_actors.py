"""The helpers that tests of actors are given do what they say."""

import random
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from terzetto.actor import Actor, ActorCrashedError, Backoff, Stop, open_supervisor
from terzetto.testing import (
    CrashPlan,
    InjectedCrash,
    Journal,
    Probe,
    TaskLeakError,
    inject,
    no_task_leaks,
    run_seeded,
    seeded,
    virtual_clock,
)

pytest_plugins = ["terzetto.testing.pytest_plugin", "pytester"]


@attrs.define
class Counter(Actor):
    total: int = 0

    async def add(self, n: int) -> int:
        self.total += n
        return self.total


async def test_a_probe_writes_down_all_that_happens_over_its_lives() -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal))
        await ref.tell(Probe.note, 1)
        assert await ref.ask(Probe.echo, 2) == 2
        await ref.tell(Probe.crash, ValueError())
        await journal.wait_for("started", count=2)
    assert list(journal) == [
        ("started",),
        ("note", 1),
        ("stopping", Stop.CRASHED),
        ("started",),
        ("stopping", Stop.CLOSED),
    ]
    assert journal.values("note") == [1]
    assert journal.kinds()[0] == "started"


async def test_waiting_for_a_journal_can_be_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.move_on_after(3) as scope:
        await Journal().wait_for("never")
    assert scope.cancelled_caught


async def test_a_plan_crashes_the_calls_that_it_names() -> None:
    plan = CrashPlan().crash("add", 2)
    async with open_supervisor() as top:
        ref = await top.spawn(inject(Counter, plan))
        assert ref.name == "counter"
        assert await ref.ask(Counter.add, 1) == 1
        with pytest.raises(ActorCrashedError) as caught:
            await ref.ask(Counter.add, 1)
        assert isinstance(caught.value.__cause__, InjectedCrash)
        assert await ref.ask(Counter.add, 5) == 5
    assert plan.calls["add"] == 3
    assert plan.calls["started"] == 2
    assert plan.calls["stopping"] == 2


async def test_a_plan_crashes_hooks_with_errors_of_ones_own_and_can_be_called_off() -> None:
    plan = CrashPlan().crash("started", error=OSError("disk"))
    async with open_supervisor() as top:
        with pytest.raises(OSError, match="disk"):
            await top.spawn(inject(Counter, plan))
        plan.calm("started")
        await top.spawn(inject(Counter, plan))


def test_the_virtual_clock_passes_over_back_offs() -> None:
    async def main() -> float:
        backoff = Backoff(first=1000.0, ceiling=1000.0, jitter=0)
        async with open_supervisor(backoff=backoff) as top:
            ref = await top.spawn(Probe)
            await ref.tell(Probe.crash, ValueError())
            assert await ref.ask(Probe.echo, 1) == 1
        return trio.current_time()

    assert trio.run(main, clock=virtual_clock()) == pytest.approx(1000)


async def _race() -> str:
    order: list[str] = []

    async def run(name: str) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            order.append(name)

    async with trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(run, name)
    return "".join(order) + str(random.random())  # noqa: S311 - no secret


def test_a_seed_replays_an_interleaving_and_another_seed_gives_another() -> None:
    orders = [run_seeded(_race, seed=seed) for seed in (1, 2, 3, 1, 2, 3)]
    assert orders[:3] == orders[3:]
    assert len(set(orders)) == 3


async def _race_of_tells(count: int) -> list[int]:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal))

        async def tell(sender: int) -> None:
            for _ in range(count):
                await ref.tell(Probe.note, sender)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell, 1)
            nursery.start_soon(tell, 2)
        await ref.shutdown()
    return journal.values("note")


def test_a_seed_replays_whatever_was_told_before() -> None:
    # When a sender lets others run depends on how much was told; in this run, not before it.
    orders: list[list[int]] = []
    for before in (1, 10, 20):
        run_seeded(_race_of_tells, before, seed=0)
        orders.append(run_seeded(_race_of_tells, 70, seed=1))
    assert orders[0] == orders[1] == orders[2]


def test_seeding_leaves_the_worlds_chance_as_it_was() -> None:
    before = random.getstate()
    with seeded(1):
        random.random()  # noqa: S311 - no secret
    assert random.getstate() == before


async def test_a_task_that_stays_is_a_leak(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(TaskLeakError, match="sleep_forever"):
            async with no_task_leaks():
                nursery.start_soon(trio.sleep_forever)
        nursery.cancel_scope.cancel()


async def test_a_task_on_its_way_out_is_no_leak(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery, no_task_leaks(patience=1.0):
        nursery.start_soon(trio.sleep, 0.5)


async def test_a_whole_tree_leaks_nothing(task_leaks: None) -> None:
    async with open_supervisor() as top:
        await top.spawn(Probe)


def test_the_fixture_fails_the_test_that_leaks(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["terzetto.testing.pytest_plugin"]')
    pytester.makepyfile(
        """
        import trio

        async def test_leaks(task_leaks):
            trio.lowlevel.spawn_system_task(trio.sleep_forever)

        async def test_is_clean(task_leaks):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0)
        """
    )
    result = pytester.runpytest_subprocess("-o", "trio_mode=true", "-p", "no:cacheprovider")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 2 - outcomes.get("failed", 0)
    assert outcomes.get("errors", 0) + outcomes.get("failed", 0) == 1
    result.stdout.fnmatch_lines(["*TaskLeakError: left running: *sleep_forever*"])
