"""The blocks around trees: what comes out of them, and what cancelling them does."""

import logging
from functools import partial

import pytest
import trio
import trio.lowlevel
import trio.testing

from terzetto._shared._logging import StandardLogger
from terzetto.actor import (
    ActorStoppedError,
    Child,
    Context,
    Exit,
    Ref,
    Stop,
    Tree,
    open_child,
    open_supervisor,
    open_tree,
    run_actor,
)
from terzetto.testing import CrashPlan, InjectedCrash, Journal, Probe, inject


async def test_the_last_crash_comes_out_as_it_is_with_a_note() -> None:
    crash = ValueError("the last")
    with pytest.raises(ValueError, match="the last") as caught:
        async with open_supervisor(max_restarts=1, within=60) as top:
            ref = await top.spawn(Probe, name="probe")
            await ref.tell(Probe.crash, ValueError("the first"))
            await ref.tell(Probe.crash, crash)
            await trio.sleep_forever()
    assert caught.value is crash
    assert caught.value.__context__ is None
    assert caught.value.__notes__ == [
        "terzetto: 'top/probe' crashed, and its supervisor had used up its 1 restarts within 60 s"
    ]


async def test_the_users_own_exception_wins() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_supervisor(max_restarts=0) as top:
            ref = await top.spawn(Probe)
            await ref.tell(Probe.crash, ValueError("theirs"))
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("mine")


async def test_the_users_own_exception_has_no_foreign_context() -> None:
    with pytest.raises(KeyError, match="mine") as caught:
        async with open_supervisor() as top:
            await top.spawn(Probe)
            raise KeyError("mine")
    assert caught.value.__context__ is None


async def test_cancelling_the_block_closes_in_order_and_stays_a_cancellation() -> None:
    journal = Journal()

    class Named(Probe):
        async def stopping(self, reason: Stop) -> None:
            await trio.lowlevel.checkpoint()
            assert self.ctx is not None
            self.journal.write("stopping", self.ctx.name, reason)

    with trio.CancelScope() as scope:
        async with open_supervisor() as top:
            for name in "abc":
                await top.spawn(partial(Named, journal), name=name)
            scope.cancel()
            await trio.sleep_forever()
        raise AssertionError("the block swallowed the cancellation")
    assert scope.cancelled_caught
    stops = [entry[1:] for entry in journal if entry[0] == "stopping"]
    assert stops == [("c", Stop.CLOSED), ("b", Stop.CLOSED), ("a", Stop.CLOSED)]


async def test_a_block_that_was_cancelled_before_it_began_starts_nothing() -> None:
    journal = Journal()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_child(Child(partial(Probe, journal))):
            raise AssertionError("the block was entered")
    assert scope.cancelled_caught
    assert journal.kinds() in ([], ["started", "stopping"])


async def test_a_slow_start_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        async with open_child(Child(Slow, grace=0.5)):
            raise AssertionError("the block was entered")
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(1.5)


async def test_an_error_of_the_first_start_comes_out_of_the_block_as_it_is() -> None:
    crash = OSError("no start")
    plan = CrashPlan().crash("started", error=crash)
    with pytest.raises(OSError, match="no start") as caught:
        async with open_child(Child(inject(Probe, plan))):
            raise AssertionError("the block was entered")
    assert caught.value is crash
    assert plan.calls["started"] == 1


async def test_a_tree_that_fails_to_start_stops_what_it_had_started() -> None:
    journal = Journal()
    plan = CrashPlan().crash("started")
    tree = Tree(
        children=(
            Child(partial(Probe, journal), name="good"),
            Child(inject(Probe, plan), name="bad"),
        )
    )
    with pytest.raises(InjectedCrash):
        async with open_tree(tree):
            raise AssertionError("the block was entered")
    assert journal.kinds() == ["started", "stopping"]


async def test_open_child_restarts_and_fails_like_any_supervisor() -> None:
    journal = Journal()
    with pytest.raises(ValueError, match="2"):
        async with open_child(Child(partial(Probe, journal)), max_restarts=1) as ref:
            await ref.tell(Probe.crash, ValueError(1))
            await journal.wait_for("started", count=2)
            await ref.tell(Probe.crash, ValueError(2))
            await trio.sleep_forever()


async def test_a_child_that_ends_by_itself_leaves_the_block_alone() -> None:
    class Brief(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.stop()

    async with open_child(Child(Brief)) as ref:
        assert await ref.wait_stopped() == Exit(Stop.NORMAL)
        await trio.lowlevel.checkpoint()


async def test_spawn_after_the_supervisor_was_closed_is_refused() -> None:
    async with open_supervisor() as top:
        assert await top.close() == Exit(Stop.CLOSED)
        assert top.is_stopped
        with pytest.raises(ActorStoppedError, match="starts no more children"):
            await top.spawn(Probe)


async def test_a_cancelled_spawn_leaves_no_child(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await trio.sleep(10)

    async with open_supervisor() as top:
        with trio.move_on_after(1) as scope:
            await top.spawn(Slow, grace=1.0)
        assert scope.cancelled_caught
        await trio.sleep(2)
        assert top.children == ()


async def test_a_supervisor_shut_down_drains_its_children() -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal))
        for number in range(3):
            ref.tell_nowait(Probe.note, number)
        assert await top.shutdown() == Exit(Stop.SHUTDOWN)
    assert journal.entries[1:] == [
        ("note", 0),
        ("note", 1),
        ("note", 2),
        ("stopping", Stop.SHUTDOWN),
    ]


async def test_run_actor_needs_no_supervisor() -> None:
    async with trio.open_nursery() as nursery:
        ref: Ref[Probe] = await nursery.start(run_actor, Probe)
        assert ref.path == "probe"
        assert await ref.ask(Probe.echo, 1) == 1
        await ref.close()


async def test_run_actor_does_as_its_options_say(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    journal, gate = Journal(), trio.Event()
    logger = StandardLogger(logging.getLogger("mine"))
    run = partial(run_actor, name="counting", grace=2.0, mailbox=1, logger=logger)
    async with trio.open_nursery() as nursery:
        ref: Ref[Probe] = await nursery.start(run, partial(Probe, journal))
        assert ref.path == "counting"
        ref.tell_nowait(Probe.hold, gate)
        await journal.wait_for("holding")
        ref.tell_nowait(Probe.note, 1)
        with pytest.raises(trio.WouldBlock):
            ref.tell_nowait(Probe.note, 2)
        await ref.close()  # what is held has the grace to end
    assert trio.current_time() == pytest.approx(2.0)
    assert {record.name for record in caplog.records} == {"mine"}


async def test_run_actor_raises_the_crash_as_it_is() -> None:
    crash = ValueError("unsupervised")
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            ref: Ref[Probe] = await nursery.start(run_actor, Probe)
            await ref.tell(Probe.crash, crash)
    assert caught.value.exceptions == (crash,)


async def test_run_actor_closes_its_actor_when_it_is_cancelled() -> None:
    journal = Journal()
    async with trio.open_nursery() as nursery:
        await nursery.start(run_actor, partial(Probe, journal))
        nursery.cancel_scope.cancel()
    assert journal.entries[-1] == ("stopping", Stop.CLOSED)


async def test_what_hangs_beyond_every_grace_is_cancelled_with_the_root(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # A background task that will not end is the one thing without a grace of its own.
    class Stubborn(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.start_soon(self.work)

        async def work(self) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)

    async with open_supervisor() as top:
        await top.spawn(Stubborn, grace=1.0)
    assert trio.current_time() == pytest.approx(100)


async def test_the_block_form_of_one_child_names_it_without_a_prefix() -> None:
    async with open_child(Child(Probe, name="only", face=lambda ref: (ref, 1))) as (ref, one):
        assert isinstance(ref, Ref)
        assert ref.path == "only"
        assert one == 1


async def test_a_background_task_can_be_ended_alone() -> None:
    journal = Journal()
    scopes: list[trio.CancelScope] = []

    class Busy(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            scopes.extend(ctx.start_soon(self.work, number) for number in range(2))

        async def work(self, number: int) -> None:
            try:
                await trio.sleep_forever()
            finally:
                journal.write("ended", number)

    async with open_supervisor() as top:
        ref = await top.spawn(partial(Busy, journal))
        await trio.testing.wait_all_tasks_blocked()
        scopes[1].cancel()
        with trio.fail_after(10):
            await journal.wait_for("ended", 1)
        assert not ref.is_stopped, "it is no crash of the actor"
    assert [entry[1] for entry in journal.entries if entry[0] == "ended"] == [1, 0]
