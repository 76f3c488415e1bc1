"""Channels: actors that iterate their inbox, refs as send channels, feeding from iterables."""

from collections.abc import AsyncGenerator, Sequence
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
    Exit,
    Message,
    Stop,
    as_channel,
    feed,
    open_supervisor,
)
from terzetto.testing import Journal, Probe


@attrs.define
class Line(Actor):
    """Iterates its inbox; answers out of order when told to."""

    journal: Journal
    kept: list[Message] = attrs.field(factory=list[Message])

    async def run(self, ctx: Context["Line"], inbox: trio.MemoryReceiveChannel[Message]) -> None:
        async for message in inbox:
            if message.method is Line.keep:
                self.kept.append(message)
            else:
                await message.handle(self)
        self.journal.write("ended")

    async def handed_back(self, messages: Sequence[Message]) -> None:
        self.journal.write("handed_back", [message.name for message in messages])

    async def stopping(self, reason: Stop) -> None:
        self.journal.write("stopping", reason)

    async def add(self, number: int) -> int:
        self.journal.write("add", number)
        return number + 1

    async def keep(self, number: int) -> int:
        raise NotImplementedError(number)  # `run` answers these itself

    async def release(self) -> None:
        for message in reversed(self.kept):
            message.answer(message.args[0] * 10)

    async def hold(self, gate: trio.Event) -> None:
        self.journal.write("holding")
        await gate.wait()

    async def crash(self) -> None:
        raise ValueError("boom")


async def test_an_actor_that_iterates_its_inbox_takes_every_kind_of_message() -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Line, journal))
        await ref.tell(Line.add, 1)
        ref.tell_nowait(Line.add, 2)
        assert await ref.ask(Line.add, 3) == 4
        assert await ref.shutdown() == Exit(Stop.SHUTDOWN)
    assert journal.entries == [
        ("add", 1),
        ("add", 2),
        ("add", 3),
        ("ended",),
        ("stopping", Stop.SHUTDOWN),
    ]


async def test_it_may_answer_later_and_in_any_order() -> None:
    answers: list[int] = []
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Line, Journal()))

        async def ask(number: int) -> None:
            answers.append(await ref.ask(Line.keep, number))

        for number in (1, 2):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        await ref.ask(Line.release)
    assert sorted(answers) == [10, 20]


async def test_an_answer_that_is_owed_at_the_end_is_an_error_for_the_asker() -> None:
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Line, Journal()))

        async def ask() -> None:
            with pytest.raises(ActorStoppedError):
                await ref.ask(Line.keep, 1)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await ref.close()


async def test_its_crash_reaches_all_that_it_owes_an_answer() -> None:
    journal = Journal()
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Line, journal))

        async def ask() -> None:
            with pytest.raises(ActorCrashedError):
                await ref.ask(Line.keep, 1)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ActorCrashedError, match="boom"):
            await ref.ask(Line.crash)
        assert await ref.ask(Line.add, 1) == 2


async def test_close_ends_the_inbox_and_hands_back_the_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal, gate = Journal(), trio.Event()
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Line, journal))
        ref.tell_nowait(Line.hold, gate)
        for number in range(3):
            ref.tell_nowait(Line.add, number)
        await journal.wait_for("holding")
        nursery.start_soon(ref.close)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert journal.entries == [
        ("holding",),
        ("ended",),
        ("handed_back", ["add", "add", "add"]),
        ("stopping", Stop.CLOSED),
    ]


async def test_what_is_cut_off_by_the_grace_is_handed_back_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Line, journal), grace=1.0)
        ref.tell_nowait(Line.hold, trio.Event())
        ref.tell_nowait(Line.add, 1)
        await journal.wait_for("holding")
    assert journal.values("handed_back") == [["hold", "add"]]


async def test_a_cancelled_ask_is_taken_back_from_an_inbox_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal, gate = Journal(), trio.Event()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Line, journal), mailbox=1)
        ref.tell_nowait(Line.hold, gate)
        await journal.wait_for("holding")
        with trio.move_on_after(1):
            await ref.ask(Line.add, 1)
        ref.tell_nowait(Line.add, 2)
        gate.set()
        await journal.wait_for("add", 2)
    assert journal.values("add") == [2]


async def test_a_run_that_returns_is_a_normal_end() -> None:
    class Once(Actor):
        async def run(
            self, ctx: Context["Once"], inbox: trio.MemoryReceiveChannel[Message]
        ) -> None:
            await (await inbox.receive()).handle(self)

        async def go(self) -> str:
            return "gone"

    async with open_supervisor() as top:
        ref = await top.spawn(Once)
        assert await ref.ask(Once.go) == "gone"
        assert await ref.wait_stopped() == Exit(Stop.NORMAL)


async def test_the_base_run_may_be_called() -> None:
    class Wrapped(Probe):
        async def run(
            self, ctx: Context["Wrapped"], inbox: trio.MemoryReceiveChannel[Message]
        ) -> None:
            self.journal.write("before")
            await super(Probe, self).run(ctx, inbox)
            self.journal.write("after")

    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Wrapped, journal))
        assert await ref.ask(Probe.echo, 1) == 1
    assert journal.kinds() == ["started", "before", "after", "stopping"]


async def test_a_ref_becomes_a_send_channel() -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal))
        channel: trio.abc.SendChannel[object] = as_channel(ref, Probe.note)
        async with channel:
            for number in range(3):
                await channel.send(number)
        with pytest.raises(trio.ClosedResourceError):
            await channel.send(3)
        again = as_channel(ref, Probe.note)
        await ref.shutdown()
        with pytest.raises(trio.BrokenResourceError, match="shut down"):
            await again.send(4)
    assert journal.values("note") == [0, 1, 2]


async def test_an_actor_is_fed_from_an_async_iterable() -> None:
    closed: list[bool] = []

    async def numbers() -> AsyncGenerator[int]:
        try:
            for number in range(10):
                yield number
        finally:
            closed.append(True)

    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal), mailbox=1)
        assert await feed(ref, Probe.note, numbers()) == 10
        await ref.shutdown()
        with pytest.raises(ActorStoppedError):
            await feed(ref, Probe.note, numbers())
    assert journal.values("note") == list(range(10))
    assert closed == [True, True]


async def test_feeding_waits_for_room_and_can_be_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    drawn: list[int] = []

    async def numbers() -> AsyncGenerator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    journal, gate = Journal(), trio.Event()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal), mailbox=2)
        ref.tell_nowait(Probe.hold, gate)
        await journal.wait_for("holding")
        with trio.move_on_after(1) as scope:
            await feed(ref, Probe.note, numbers())
        assert scope.cancelled_caught
        gate.set()
        await ref.shutdown()
    assert drawn == [0, 1, 2]
    assert journal.values("note") == [0, 1]


@pytest.mark.parametrize("turns", range(8))
async def test_an_asker_that_leaves_in_any_turn_takes_no_other_message_with_it(turns: int) -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Line, journal))

        async def ask() -> None:
            await ref.ask(Line.keep, 1)

        async with trio.open_nursery() as nursery:
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            ref.tell_nowait(Line.add, 2)
            nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            await journal.wait_for("add", 2)


async def test_a_question_that_was_taken_back_does_not_come_to_the_inbox() -> None:
    journal, gate = Journal(), trio.Event()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Line, journal))
        ref.tell_nowait(Line.hold, gate)
        await journal.wait_for("holding")

        async def ask() -> None:
            await ref.ask(Line.add, 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()  # it is being offered to the inbox
            nursery.cancel_scope.cancel()
        ref.tell_nowait(Line.add, 2)
        gate.set()
        await journal.wait_for("add", 2)
    assert journal.values("add") == [2]
