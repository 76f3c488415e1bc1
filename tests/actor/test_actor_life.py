"""One life of an actor: hooks, the order of the closing, and exceptions in every place."""

from collections.abc import Sequence
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from terzetto.actor import (
    Actor,
    ActorStoppedError,
    AskCycleError,
    Context,
    Crashed,
    CutOff,
    DeadLetter,
    Event,
    Exit,
    Message,
    Ref,
    Stop,
    StrayCancelledError,
    open_supervisor,
)
from terzetto.testing import CrashPlan, InjectedCrash, Journal, Probe, inject


async def hold(ref: Ref[Probe], journal: Journal) -> trio.Event:
    """Keep the actor busy until the event is set."""
    gate = trio.Event()
    ref.tell_nowait(Probe.hold, gate)
    await journal.wait_for("holding")
    return gate


async def close(ref: Ref[Probe], gate: trio.Event) -> Exit:
    """Close the actor, and let the held message end once the closing has begun."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ref.close)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    return await ref.wait_stopped()


async def test_close_hands_back_what_is_unhandled_the_one_in_hand_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal), grace=2.0)
        never = trio.Event()
        ref.tell_nowait(Probe.hold, never)
        ref.tell_nowait(Probe.note, 1)
        ref.tell_nowait(Probe.note, 2)
        await journal.wait_for("holding")
        begun = trio.current_time()
        exit_ = await ref.close()
        assert trio.current_time() - begun == pytest.approx(2.0)
    assert exit_ == Exit(Stop.CLOSED)
    assert journal.entries == [
        ("started",),
        ("holding",),
        ("handed_back", [("hold", (never,)), ("note", (1,)), ("note", (2,))]),
        ("stopping", Stop.CLOSED),
    ]


async def test_close_lets_the_message_in_hand_finish_within_its_grace(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal, gate = Journal(), trio.Event()
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Probe, journal), grace=2.0)
        ref.tell_nowait(Probe.hold, gate)
        ref.tell_nowait(Probe.note, 1)
        await journal.wait_for("holding")
        nursery.start_soon(ref.close)
        await trio.sleep(1)
        gate.set()
    assert journal.kinds() == ["started", "holding", "held", "handed_back", "stopping"]


async def test_shutdown_handles_what_was_accepted_and_accepts_no_more() -> None:
    journal, gate = Journal(), trio.Event()
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Probe, journal))
        ref.tell_nowait(Probe.hold, gate)
        ref.tell_nowait(Probe.note, 1)
        await journal.wait_for("holding")
        nursery.start_soon(ref.shutdown)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ActorStoppedError, match="shut down"):
            ref.tell_nowait(Probe.note, 2)
        gate.set()
        assert await ref.wait_stopped() == Exit(Stop.SHUTDOWN)
    assert journal.entries[2:] == [("held",), ("note", 1), ("stopping", Stop.SHUTDOWN)]


async def test_close_cuts_a_shutdown_short(autojump_clock: trio.testing.MockClock) -> None:
    journal = Journal()
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Probe, journal), grace=1.0)
        ref.tell_nowait(Probe.hold, trio.Event())
        ref.tell_nowait(Probe.note, 1)
        nursery.start_soon(ref.shutdown)
        await trio.sleep(100)
        assert await ref.close() == Exit(Stop.CLOSED)
    assert [name for name, _ in journal.values("handed_back")[0]] == ["hold", "note"]


async def test_unhandled_messages_become_dead_letters_by_default() -> None:
    class Silent(Probe):
        handed_back = Actor.handed_back

    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Silent, journal), name="silent")
        gate = await hold(ref, journal)
        ref.tell_nowait(Probe.note, 1)
        await close(ref, gate)
        assert top.dead_letters == {("top/silent", "unhandled"): 1}


async def test_the_base_hook_may_be_called_for_messages_one_does_not_want() -> None:
    class Picky(Probe):
        async def handed_back(self, messages: Sequence[Message]) -> None:
            await super(Probe, self).handed_back(messages[1:])

    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Picky, journal), name="picky")
        gate = await hold(ref, journal)
        for number in range(3):
            ref.tell_nowait(Probe.note, number)
        await close(ref, gate)
        assert top.dead_letters == {("top/picky", "unhandled"): 2}


async def test_askers_are_released_before_their_messages_are_handed_back() -> None:
    journal, released = Journal(), trio.Event()

    class Slow(Probe):
        async def handed_back(self, messages: Sequence[Message]) -> None:
            self.journal.write("asked", [message.is_asked for message in messages])
            await released.wait()

    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Slow, journal))
        gate = await hold(ref, journal)

        async def ask() -> None:
            with pytest.raises(ActorStoppedError):
                await ref.ask(Probe.echo, 1)
            released.set()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await close(ref, gate)
    assert journal.values("asked") == [[False]]


async def test_stop_ends_normally_after_the_message_in_hand() -> None:
    journal = Journal()

    class Quitter(Probe):
        async def quit(self) -> str:
            assert self.ctx is not None
            self.ctx.stop()
            await trio.lowlevel.checkpoint()
            return "bye"

    async with open_supervisor() as top:
        ref = await top.spawn(partial(Quitter, journal))
        ref.tell_nowait(Probe.note, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.ask, Quitter.quit)
            await trio.lowlevel.checkpoint()
            assert await ref.wait_stopped() == Exit(Stop.NORMAL)
    assert journal.entries[-1] == ("stopping", Stop.NORMAL)


async def test_children_stop_before_the_owner_the_last_one_first() -> None:
    journal = Journal()

    @attrs.define
    class Named(Probe):
        name: str = ""

        async def stopping(self, reason: Stop) -> None:
            self.journal.write("stopping", self.name, reason)

    class Owner(Named):
        async def started(self, ctx: Context[Probe]) -> None:
            for name in ("a", "b"):
                await ctx.spawn(partial(Named, journal, name=name), name=name)
            ctx.start_soon(self.work)

        async def work(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                self.journal.write("background", "ended")

    async with open_supervisor() as top:
        await top.spawn(partial(Owner, journal, name="owner"), name="owner")
        assert top.get("owner/a", Named).path == "top/owner/a"
    assert [entry[1] for entry in journal if entry[0] != "started"] == ["b", "a", "owner", "ended"]


async def test_stopping_can_do_io_though_the_block_was_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()

    class Writer(Probe):
        async def stopping(self, reason: Stop) -> None:
            await trio.sleep(1)
            self.journal.write("written", reason)

    with trio.CancelScope() as scope:
        async with open_supervisor() as top:
            await top.spawn(partial(Writer, journal), grace=2.0)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert journal.entries[-1] == ("written", Stop.CLOSED)


async def test_a_hook_that_takes_longer_than_the_grace_is_cut_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    events: list[Event] = []

    class Slow(Probe):
        async def handed_back(self, messages: Sequence[Message]) -> None:
            await trio.sleep(100)

        async def stopping(self, reason: Stop) -> None:
            self.journal.write("stopping", reason)
            async with trio.open_nursery() as nursery:  # its Cancelled comes in a group
                nursery.start_soon(trio.sleep, 100)

    journal = Journal()
    async with open_supervisor(name="top", observers=(events.append,)) as top:
        ref = await top.spawn(partial(Slow, journal), name="slow", grace=2.0)
        gate = await hold(ref, journal)
        ref.tell_nowait(Probe.note, 1)
        begun = trio.current_time()
        await close(ref, gate)
        assert trio.current_time() - begun == pytest.approx(2.0)
        assert top.dead_letters == {("top/slow", "hand back failed"): 1}
    assert [e.hook for e in events if isinstance(e, CutOff)] == ["handed_back", "stopping"]
    assert journal.entries[-1] == ("stopping", Stop.CLOSED)


@pytest.mark.parametrize("hook", ["stopping", "handed_back"])
async def test_an_error_in_a_hook_of_the_closing_makes_the_exit_a_crash(hook: str) -> None:
    plan = CrashPlan().crash(hook)
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(inject(partial(Probe, journal), plan))
        gate = await hold(ref, journal)
        ref.tell_nowait(Probe.note, 1)
        exit_ = await close(ref, gate)
        assert exit_.reason is Stop.CRASHED
        assert isinstance(exit_.error, InjectedCrash)
        if hook == "handed_back":
            assert top.dead_letters == {("top/probe", "hand back failed"): 1}
            assert journal.entries[-1] == ("stopping", Stop.CLOSED)


async def test_an_error_in_stopping_after_a_crash_is_noted_on_the_crash() -> None:
    plan = CrashPlan().crash("stopping", 1)
    with pytest.raises(ValueError, match="first") as caught:
        async with open_supervisor(max_restarts=0) as top:
            ref = await top.spawn(inject(Probe, plan))
            await ref.tell(Probe.crash, ValueError("first"))
            await trio.sleep_forever()
    assert any("injected into stopping" in note for note in caught.value.__notes__)


async def test_an_error_in_started_comes_out_of_spawn_as_it_is() -> None:
    crash = OSError("no")
    plan = CrashPlan().crash("started", error=crash)
    async with open_supervisor(max_restarts=0) as top:
        with pytest.raises(OSError, match="no") as caught:
            await top.spawn(inject(Probe, plan), name="x")
        assert caught.value is crash
        assert top.children == ()
        plan.calm("started")
        await top.spawn(inject(Probe, plan), name="x")


async def test_a_factory_that_raises_or_makes_no_actor_fails_the_start() -> None:
    def broken() -> Probe:
        raise LookupError("factory")

    async with open_supervisor(max_restarts=0) as top:
        with pytest.raises(LookupError, match="factory"):
            await top.spawn(broken)
        with pytest.raises(TypeError, match="made a int, no Actor"):
            await top.spawn(int)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType] - the point


async def test_a_background_crash_is_the_actors_crash() -> None:
    journal = Journal()
    crash = ValueError("background")

    class Worker(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await super().started(ctx)
            if self.journal.kinds().count("started") == 1:
                ctx.start_soon(self.work)

        async def work(self) -> None:
            await trio.lowlevel.checkpoint()
            raise crash

    events: list[Event] = []
    async with open_supervisor(observers=(events.append,)) as top:
        ref = await top.spawn(partial(Worker, journal))
        await journal.wait_for("started", count=2)
        assert await ref.ask(Probe.echo, 1) == 1
    assert [event.error for event in events if isinstance(event, Crashed)] == [crash]
    assert journal.entries[1] == ("stopping", Stop.CRASHED)


async def test_start_gives_the_value_and_its_errors_to_the_one_who_starts() -> None:
    async def good(value: int, *, task_status: trio.TaskStatus[int]) -> None:
        task_status.started(value + 1)
        await trio.sleep_forever()

    async def bad(*, task_status: trio.TaskStatus[None]) -> None:
        del task_status
        raise ValueError("before started")

    class Starter(Probe):
        async def run_both(self) -> object:
            assert self.ctx is not None
            with pytest.raises(ValueError, match="before started"):
                await self.ctx.start(bad)
            return await self.ctx.start(good, 1)

    async with open_supervisor(max_restarts=0) as top:
        ref = await top.spawn(Starter)
        assert await ref.ask(Starter.run_both) == 2


async def test_a_context_that_outlives_its_life_is_refused() -> None:
    kept: list[Context[Probe]] = []

    class Keeper(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            kept.append(ctx)

    async with open_supervisor() as top:
        ref = await top.spawn(Keeper)
        await ref.close()
        with pytest.raises(ActorStoppedError):
            kept[0].start_soon(trio.sleep_forever)
        with pytest.raises(ActorStoppedError):
            await kept[0].spawn(Probe)


async def test_a_group_raised_by_a_handler_is_an_ordinary_crash() -> None:
    async def fail_in_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    async def fail() -> None:
        raise ValueError("inner")

    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal))
        await ref.tell(Probe.call, fail_in_nursery)
        await journal.wait_for("started", count=2)
        assert await ref.ask(Probe.echo, 1) == 1


async def test_a_base_exception_is_not_restarted_and_leaves_the_block() -> None:
    journal = Journal()
    with pytest.raises(SystemExit) as caught:
        async with open_supervisor(max_restarts=100) as top:
            ref = await top.spawn(partial(Probe, journal))
            await ref.tell(Probe.crash, SystemExit(3))
            await trio.sleep_forever()
    assert caught.value.code == 3
    assert journal.kinds() == ["started", "stopping"]


async def test_a_base_exception_of_stopping_leaves_the_block() -> None:
    plan = CrashPlan().crash("stopping", error=SystemExit(4))
    with pytest.raises(SystemExit):
        async with open_supervisor() as top:
            await top.spawn(inject(Probe, plan))


async def test_a_stray_cancelled_is_a_crash() -> None:
    caught: list[BaseException] = []

    async def catch_one() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                caught.append(error)
                raise

    await catch_one()
    async with open_supervisor() as top:
        ref = await top.spawn(Probe)
        with pytest.raises(Exception, match="StrayCancelled") as raised:
            await ref.ask(Probe.crash, caught[0])
        assert isinstance(raised.value.__cause__, StrayCancelledError)


async def test_timers_arrive_as_messages(autojump_clock: trio.testing.MockClock) -> None:
    journal = Journal()

    class Clock(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.after(5, Probe.note, "once")
            ticks = ctx.every(2, Probe.note, value="tick")
            ctx.after(7, Probe.call, partial(self.cancel, ticks.cancel))

        async def cancel(self, fn: object) -> None:
            assert callable(fn)
            fn()

    async with open_supervisor() as top:
        await top.spawn(partial(Clock, journal))
        await trio.sleep(30)
    assert journal.values("note") == ["tick", "tick", "once", "tick"]


async def test_ticks_do_not_pile_up_behind_a_slow_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal, gate = Journal(), trio.Event()

    class Clock(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.every(1, Probe.note, "tick")

    async with open_supervisor() as top:
        ref = await top.spawn(partial(Clock, journal), mailbox=1)
        ref.tell_nowait(Probe.hold, gate)
        await trio.sleep(50.5)
        gate.set()
        await trio.sleep(0.4)
    assert len(journal.values("note")) <= 3


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
async def test_a_timer_that_makes_no_sense_is_refused(seconds: float) -> None:
    class Clock(Probe):
        async def set_timer(self) -> None:
            assert self.ctx is not None
            with pytest.raises(ValueError, match="seconds"):
                self.ctx.after(seconds, Probe.note, 1)
            with pytest.raises(ValueError, match="seconds"):
                self.ctx.every(min(seconds, 0), Probe.note, 1)

    async with open_supervisor() as top:
        await (await top.spawn(Clock)).ask(Clock.set_timer)


async def test_an_actor_cannot_wait_for_its_own_end() -> None:
    class Suicidal(Probe):
        async def end(self) -> None:
            assert self.ctx is not None
            for end in (self.ctx.ref.close, self.ctx.ref.shutdown):
                with pytest.raises(AskCycleError, match="its own end"):
                    await end()

    async with open_supervisor() as top:
        ref = await top.spawn(Suicidal)
        await ref.ask(Suicidal.end)


async def test_dead_letters_say_which_message_crashed_the_actor() -> None:
    events: list[Event] = []
    journal = Journal()
    async with open_supervisor(observers=(events.append,)) as top:
        ref = await top.spawn(partial(Probe, journal))
        ref.tell_nowait(Probe.crash, ValueError("x"))
        ref.tell_nowait(Probe.note, "behind it")
        await journal.wait_for("note", "behind it")
    letters = [event for event in events if isinstance(event, DeadLetter)]
    assert [(letter.message.name, letter.reason) for letter in letters] == [("crash", "crashed")]
