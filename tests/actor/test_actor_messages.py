"""Messages: what tell, tell_nowait and ask promise their callers."""

from functools import partial

import attrs
import pytest
import trio
import trio.testing

from terzetto.actor import (
    Actor,
    ActorCrashedError,
    ActorStoppedError,
    Context,
    MessageError,
    Ref,
    Reject,
    Supervisor,
    open_supervisor,
)
from terzetto.testing import Journal, Probe


@attrs.define
class Counter(Actor):
    total: int = 0

    async def add(self, n: int, *, times: int = 1) -> int:
        self.total += n * times
        return self.total

    async def refuse(self) -> int:
        raise Reject(KeyError("not today"))

    def plain(self) -> int:
        return self.total

    async def _private(self) -> None: ...


class Doubler(Counter):
    async def add(self, n: int, *, times: int = 1) -> int:
        return await super().add(2 * n, times=times)


async def note(ref: Ref[Probe], value: object) -> None:
    await ref.tell(Probe.note, value)


async def held(top: Supervisor, *, mailbox: int = 100) -> tuple[Ref[Probe], Journal, trio.Event]:
    """Return a probe that is busy until the event is set."""
    journal, gate = Journal(), trio.Event()
    ref = await top.spawn(partial(Probe, journal), mailbox=mailbox)
    ref.tell_nowait(Probe.hold, gate)
    await journal.wait_for("holding")
    return ref, journal, gate


async def test_ask_returns_what_the_handler_returns() -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Counter)
        assert await ref.ask(Counter.add, 2) == 2
        assert await ref.ask(Counter.add, 2, times=3) == 8


async def test_tells_of_one_sender_keep_their_order() -> None:
    async with open_supervisor() as top:
        journal = Journal()
        ref = await top.spawn(partial(Probe, journal), mailbox=3)
        for number in range(200):
            await ref.tell(Probe.note, number)
        await ref.shutdown()
    assert journal.values("note") == list(range(200))


async def test_a_message_named_through_a_base_class_reaches_the_override() -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Doubler)
        assert await ref.ask(Counter.add, 2) == 4
        assert await ref.ask(Doubler.add, 2) == 8


async def test_a_refusal_reaches_the_asker_as_it_is_and_the_actor_lives_on() -> None:
    async with open_supervisor(max_restarts=0) as top:
        ref = await top.spawn(Counter)
        await ref.ask(Counter.add, 1)
        with pytest.raises(KeyError, match="not today"):
            await ref.ask(Counter.refuse)
        await ref.tell(Counter.refuse)
        assert await ref.ask(Counter.add, 1) == 2


async def test_a_crash_reaches_the_asker_with_its_cause() -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Probe)
        crash = ValueError("boom")
        with pytest.raises(ActorCrashedError, match="boom") as caught:
            await ref.ask(Probe.crash, crash)
        assert caught.value.__cause__ is crash


async def test_a_stopped_actor_refuses_every_kind_of_message() -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Counter)
        await ref.close()
        with pytest.raises(ActorStoppedError, match="was closed"):
            await ref.tell(Counter.add, 1)
        with pytest.raises(ActorStoppedError):
            ref.tell_nowait(Counter.add, 1)
        with pytest.raises(ActorStoppedError):
            await ref.ask(Counter.add, 1)


async def test_tell_nowait_raises_would_block_when_the_mailbox_is_full() -> None:
    async with open_supervisor() as top:
        ref, journal, gate = await held(top, mailbox=2)
        ref.tell_nowait(Probe.note, 1)
        ref.tell_nowait(Probe.note, 2)
        with pytest.raises(trio.WouldBlock):
            ref.tell_nowait(Probe.note, 3)
        gate.set()
        await ref.shutdown()
    assert journal.values("note") == [1, 2]


async def test_tell_waits_for_room(autojump_clock: trio.testing.MockClock) -> None:
    async with open_supervisor() as top:
        ref, journal, gate = await held(top, mailbox=1)
        await ref.tell(Probe.note, 1)
        with trio.move_on_after(5) as scope:
            await ref.tell(Probe.note, "taken back")
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, ref, 2)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        await ref.shutdown()
    assert journal.values("note") == [1, 2]
    assert autojump_clock.current_time() >= 5


async def test_a_sender_that_waits_for_room_hears_that_the_actor_stopped() -> None:
    async with open_supervisor() as top:
        ref, journal, gate = await held(top, mailbox=1)
        await ref.tell(Probe.note, 1)
        errors: list[str] = []

        async def send(verb: str) -> None:
            try:
                await (ref.ask(Probe.echo, 2) if verb == "ask" else ref.tell(Probe.note, 2))
            except ActorStoppedError as error:
                errors.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, "ask")
            nursery.start_soon(send, "tell")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ref.close)
            await trio.testing.wait_all_tasks_blocked()
            assert len(errors) == 2
            gate.set()
    assert journal.values("handed_back") == [[("note", (1,))]]


async def test_a_cancelled_ask_gives_its_place_back_if_it_has_not_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top:
        ref, journal, gate = await held(top, mailbox=1)
        with trio.move_on_after(1):
            await ref.ask(Probe.call, never_run)
        ref.tell_nowait(Probe.note, "the place is free")
        with trio.move_on_after(1):  # this one waits for room, in front of the full mailbox
            await ref.ask(Probe.call, never_run)
        gate.set()
        await ref.shutdown()
    assert journal.values("note") == ["the place is free"]
    assert autojump_clock.current_time() >= 2


async def never_run() -> None:
    raise AssertionError("a message that was taken back was handled")


async def test_a_withdrawn_ask_lets_the_next_sender_in() -> None:
    async with open_supervisor() as top:
        ref, journal, gate = await held(top, mailbox=1)
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def ask() -> None:
                with scope:
                    await ref.ask(Probe.echo, 0)

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(note, ref, 1)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert [task.name for task in nursery.child_tasks] == []
        gate.set()
        await ref.shutdown()
    assert journal.values("note") == [1]


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (Counter.plain, "async def"),
        (
            Counter._private,  # pyright: ignore[reportPrivateUsage] - the point
            "hooks and private",
        ),
        (Counter.started, "hooks and private"),
        (Probe.note, "no method of Counter"),
        (Counter().add, "through its class"),
        ("add", "through its class"),
        ([], "name the method"),
    ],
)
async def test_what_is_no_message_is_refused_where_it_is_sent(method: object, text: str) -> None:
    async with open_supervisor(max_restarts=0) as top:
        ref = await top.spawn(Counter)
        with pytest.raises(MessageError, match=text):
            ref.tell_nowait(method)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the point
        with pytest.raises(MessageError, match=text):
            await ref.tell(method)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the point
        with pytest.raises(MessageError, match=text):
            await ref.ask(method)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the point


async def test_arguments_that_do_not_fit_are_the_senders_fault() -> None:
    async with open_supervisor(max_restarts=0) as top:
        ref = await top.spawn(Counter)
        with pytest.raises(MessageError, match="unexpected keyword argument 'x'"):
            await ref.ask(Counter.add, x=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - the point
        ref.tell_nowait(Counter.add)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - the point
        assert await ref.ask(Counter.add, 1) == 1
        assert top.dead_letters == {("top/counter", "misfit"): 1}


async def test_a_type_error_inside_a_handler_is_a_crash() -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Counter)
        with pytest.raises(ActorCrashedError):
            await ref.ask(Counter.add, "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the point


async def test_the_callers_deadline_travels_with_the_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @attrs.define
    class Deadlines(Actor):
        below: Ref["Deadlines"] | None = None
        ctx: Context["Deadlines"] | None = None

        async def started(self, ctx: Context["Deadlines"]) -> None:
            self.ctx = ctx

        async def look(self) -> float:
            assert self.ctx is not None
            return await self.ctx.deadline()

        async def look_below(self) -> float:
            assert self.below is not None
            return await self.below.ask(Deadlines.look)

    async with open_supervisor() as top:
        below = await top.spawn(Deadlines)
        above = await top.spawn(partial(Deadlines, below))
        assert await below.ask(Deadlines.look) == float("inf")
        with trio.move_on_after(7) as scope:
            assert await below.ask(Deadlines.look) == scope.deadline
            assert await above.ask(Deadlines.look_below) == scope.deadline
    assert autojump_clock.current_time() < 7


async def test_tell_lets_others_run_at_every_64th_message() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref, _, gate = await held(top, mailbox=1000)
        nursery.start_soon(count)
        for _ in range(640):
            await ref.tell(Probe.note, None)
        assert turns >= 8
        nursery.cancel_scope.cancel()
        gate.set()


async def test_a_busy_actor_lets_others_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(Probe, mailbox=1000)
        for number in range(640):
            ref.tell_nowait(Probe.note, number)
        nursery.start_soon(count)
        await ref.shutdown()
        assert turns >= 8
        nursery.cancel_scope.cancel()


async def test_refs_are_equal_if_they_are_of_one_place() -> None:
    async with open_supervisor() as top:
        one, other = await top.spawn(Counter), await top.spawn(Counter)
        assert one == top.get(one.name, Counter)
        assert hash(one) == hash(top.get(one.name, Counter))
        assert one != other
        assert one != "counter"
        assert repr(one) == "<Ref top/counter running>"


async def test_a_timer_whose_message_raises_crashes_its_actor_like_any_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()

    class Clock(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await super().started(ctx)
            if len(journal.kinds()) == 1:
                ctx.after(5, Probe.crash, ValueError("as told"))

    async with open_supervisor() as top:
        ref = await top.spawn(partial(Clock, journal), name="clock")
        await trio.sleep(30)
        await ref.ask(Probe.note, "alive")
        assert top.dead_letters["top/clock", "crashed"] == 1
    assert journal.kinds().count("started") == 2
    assert journal.values("note") == ["alive"]


@pytest.mark.parametrize("other", ["plain", "trio"])
async def test_another_thread_cannot_wake_an_actor_and_does_it_no_harm(other: str) -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Counter)

        async def tell() -> None:
            ref.tell_nowait(Counter.add, 1)

        def tell_elsewhere() -> None:
            with pytest.raises((RuntimeError, AssertionError)):  # what trio raises
                ref.tell_nowait(Counter.add, 1) if other == "plain" else trio.run(tell)

        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(tell_elsewhere)
        await trio.to_thread.run_sync(trio.from_thread.run_sync, tell_by_trio, ref)
        assert await ref.ask(Counter.add, 0) == 1


def tell_by_trio(ref: Ref[Counter]) -> None:
    ref.tell_nowait(Counter.add, 1)
