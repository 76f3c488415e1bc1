"""Who waits for whom: identity of tasks, rings of senders, and stops between two lives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from terzetto.actor import (
    ActorCrashedError,
    ActorStoppedError,
    AskCycleError,
    Backoff,
    Context,
    DeadLetter,
    Event,
    Message,
    MessageError,
    Ref,
    Stop,
    Supervisor,
    open_supervisor,
)
from terzetto.actor._cell import ActorCell
from terzetto.testing import Journal, Probe

LONG = Backoff(first=1000.0, ceiling=1000.0, jitter=0.0)


async def test_a_task_that_a_handler_starts_elsewhere_is_not_the_actor() -> None:
    # It inherits the handler's context, but the actor does not wait for it.
    journal = Journal()

    class Starter(Probe):
        async def start(self, nursery: trio.Nursery, fn: Callable[..., Any]) -> None:
            nursery.start_soon(fn)

    async with open_supervisor(max_restarts=0) as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Starter, journal))

        async def ask_and_close() -> None:
            gate = trio.Event()
            ref.tell_nowait(Probe.hold, gate)  # the actor is busy: the question waits
            nursery.start_soon(_set, gate)
            assert await ref.ask(Probe.echo, 1) == 1
            await ref.close()

        await ref.ask(Starter.start, nursery, ask_and_close)
        await ref.wait_stopped()


async def _set(gate: trio.Event) -> None:
    gate.set()


@attrs.define
class Teller(Probe):
    """Tells the next one in a ring, again and again."""

    following: list[Ref["Teller"]] = attrs.field(factory=list[Ref["Teller"]])

    async def tell_on(self, gate: trio.Event) -> None:
        await gate.wait()
        for _ in range(3):
            await self.following[0].tell(Probe.note, 1)


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_a_ring_of_tells_to_full_mailboxes_raises_instead_of_hanging(size: int) -> None:
    gate = trio.Event()
    async with open_supervisor(max_restarts=0, within=0.0) as top:
        links: list[list[Ref[Teller]]] = [[] for _ in range(size)]
        refs = [
            await top.spawn(partial(Teller, following=link), mailbox=2, restart="temporary")
            for link in links
        ]
        for number, link in enumerate(links):
            link.append(refs[(number + 1) % size])
        for ref in refs:
            ref.tell_nowait(Teller.tell_on, gate)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        exits = [await ref.wait_stopped() for ref in refs]
    # One finds the ring; the others find their next one stopped, or have room again.
    rings = [exit_.error for exit_ in exits if isinstance(exit_.error, AskCycleError)]
    assert len(rings) == 1
    assert str(rings[0]).count("waits for top/teller") == size


async def test_a_full_mailbox_and_its_age_are_seen_in_the_description(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        await trio.sleep(5)  # a time that is not 0
        ref = await top.spawn(Probe, name="busy", mailbox=2)
        gate = trio.Event()

        async def tell(number: int) -> None:
            await ref.tell(Probe.note, number)

        ref.tell_nowait(Probe.hold, gate)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        for number in range(3):
            nursery.start_soon(tell, number)
            await trio.sleep(1)
        described = top.describe().children[0]
        assert (described.waiting, described.capacity, described.oldest) == (2, 2, 3.0)
        gate.set()


async def test_a_dead_letter_says_what_does_not_fit() -> None:
    letters: list[DeadLetter] = []

    def watch(event: Event) -> None:
        if isinstance(event, DeadLetter):
            letters.append(event)

    async with open_supervisor(observers=(watch,)) as top:
        ref = await top.spawn(Probe)
        ref.tell_nowait(Probe.note)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - the point
        await ref.shutdown()
    assert [letter.reason for letter in letters] == ["misfit"]
    assert isinstance(letters[0].error, MessageError)
    assert "missing 1 required positional argument: 'value'" in str(letters[0].error)


async def crash_with_mail(top: Supervisor, ref: Ref[Probe], *values: int) -> None:
    """Crash the actor; leave `values` in its mailbox while it waits for its restart."""
    with pytest.raises(ActorCrashedError):
        await ref.ask(Probe.crash, ValueError("crash"))
    await trio.testing.wait_all_tasks_blocked()
    for value in values:
        await ref.tell(Probe.note, value)


@pytest.mark.parametrize("whose", ["ref", "supervisor"])
@pytest.mark.parametrize("dynamic", ["", "dynamic"])
async def test_a_shutdown_between_two_lives_drains_the_mailbox(
    whose: str, dynamic: str, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Journal()
    async with open_supervisor(backoff=LONG, dynamic=bool(dynamic)) as top:
        ref = await top.spawn(partial(Probe, journal), name="p")
        await top.spawn(Probe, name="other")
        await crash_with_mail(top, ref, 1, 2)
        await (ref if whose == "ref" else top).shutdown()
        assert journal.values("note") == [1, 2]
        assert (await ref.wait_stopped()).reason is Stop.SHUTDOWN
        assert top.dead_letters == {("top/p", "crashed"): 1}
        assert trio.current_time() < 1, "the back-off was waited for"


async def test_a_close_between_two_lives_has_nobody_to_hand_back_to(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    async with open_supervisor(backoff=LONG) as top:
        ref = await top.spawn(partial(Probe, journal), name="p")
        await crash_with_mail(top, ref, 1, 2)
        await ref.close()
        assert journal.values("note") == []
        assert top.dead_letters == {("top/p", "crashed"): 1, ("top/p", "unhandled"): 2}


async def test_a_shutdown_leaves_nobody_waiting_for_one_between_two_lives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # The last child drains first, and asks one that will not be started again.
    journal, gate = Journal(), trio.Event()

    @attrs.define
    class Asking(Probe):
        target: Ref[Probe] | None = None

        async def ask_it(self) -> None:
            assert self.target is not None
            await gate.wait()
            try:
                await self.target.ask(Probe.echo, 1)
            except ActorStoppedError:
                self.journal.write("note", "stopped")

    async with open_supervisor(backoff=LONG) as top, trio.open_nursery() as nursery:
        first = await top.spawn(Probe)
        last = await top.spawn(partial(Asking, journal, target=first))
        last.tell_nowait(Asking.ask_it)
        await crash_with_mail(top, first)
        nursery.start_soon(top.shutdown)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert journal.values("note") == ["stopped"]


async def test_the_shield_around_the_tree_has_a_deadline(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    # Even what takes longer than the kernel itself reckons with is cancelled.
    def bound(_: ActorCell) -> float:
        return 0.0

    monkeypatch.setattr(ActorCell, "bound", bound)
    with trio.move_on_after(10):
        async with open_supervisor() as top:
            ref = await top.spawn(Probe, grace=1000.0)
            ref.tell_nowait(Probe.hold, trio.Event())
            await trio.sleep_forever()
    assert 10 <= trio.current_time() <= 12


async def test_many_actors_without_grace_have_time_for_their_turns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # Each turn of an ordered closing takes its time, and the shield waits for all of them.
    clock = autojump_clock

    class Slow(Probe):
        async def stopping(self, reason: Stop) -> None:
            clock.jump(0.001)  # the processor's time, not the actor's grace
            await super().stopping(reason)

    journal = Journal()
    async with open_supervisor() as top:
        for _ in range(1500):
            await top.spawn(partial(Slow, journal), grace=0.0)
    assert journal.kinds().count("stopping") == 1500


async def test_a_worker_of_an_actor_with_its_own_run_may_ask_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # While one of its tasks waits, the actor goes on with its inbox.
    journal = Journal()

    class Busy(Probe):
        async def run(self, ctx: Context[Probe], inbox: trio.MemoryReceiveChannel[Message]) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.work, ctx.ref)
                async for message in inbox:
                    await message.handle(self)

        async def work(self, ref: Ref[Probe]) -> None:
            self.journal.write("note", await ref.ask(Probe.echo, 1))

    async with open_supervisor(max_restarts=0) as top:
        ref = await top.spawn(partial(Busy, journal))
        await journal.wait_for("note", 1)
        await ref.close()
