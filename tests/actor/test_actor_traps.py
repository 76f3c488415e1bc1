"""One test for each trap that trials of a kernel had fallen into, named after the trap."""

import math
import random
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from terzetto.actor import (
    Actor,
    ActorCrashedError,
    ActorStoppedError,
    AskCycleError,
    Backoff,
    Child,
    Context,
    Crashed,
    Event,
    Message,
    Ref,
    Restarted,
    Tree,
    open_supervisor,
    open_tree,
)
from terzetto.testing import Journal, Probe


async def test_closing_the_last_receiver_drops_no_message() -> None:
    # An actor with a run of its own closes its inbox with messages left in the mailbox.
    journal = Journal()

    class Reader(Probe):
        async def run(self, ctx: Context[Probe], inbox: trio.MemoryReceiveChannel[Message]) -> None:
            message = await inbox.receive()
            self.journal.write("note", message.args[0])
            inbox.close()

    async with open_supervisor() as top:
        ref = await top.spawn(partial(Reader, journal))
        for number in range(5):
            ref.tell_nowait(Probe.note, number)
        await ref.wait_stopped()
    handed_back = [args[0] for _, args in journal.values("handed_back")[0]]
    assert journal.values("note") + handed_back == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("place", ["handler", "stopping", "handed_back", "background"])
async def test_no_shield_without_a_deadline(
    place: str, autojump_clock: trio.testing.MockClock
) -> None:
    # Whatever waits forever inside, a cancelled block is left within the grace periods.
    class Stuck(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            if place == "background":
                ctx.start_soon(trio.sleep_forever)

        async def stopping(self, reason: object) -> None:
            if place == "stopping":
                await trio.sleep_forever()

        async def handed_back(self, messages: object) -> None:
            if place == "handed_back":
                await trio.sleep_forever()

    with trio.move_on_after(10):
        async with open_supervisor() as top:
            ref = await top.spawn(Stuck, grace=3.0)
            if place in ("handler", "handed_back"):
                ref.tell_nowait(Probe.hold, trio.Event())
            await trio.sleep_forever()
    assert 10 <= trio.current_time() <= 16


async def test_a_shield_of_user_code_is_cut_by_nothing_but_does_not_hold_up_siblings(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # User code may shield itself; the kernel then waits for it, and for nothing else.
    journal = Journal()

    class Shielded(Probe):
        async def stopping(self, reason: object) -> None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 50):
                await trio.sleep_forever()

    async with open_supervisor(dynamic=True) as top:
        await top.spawn(Shielded, grace=1.0)
        ref = await top.spawn(partial(Probe, journal), grace=1.0)
        top_closed = trio.current_time()
        await ref.close()
        assert trio.current_time() == top_closed
    assert trio.current_time() - top_closed == pytest.approx(50)


@attrs.define
class Asker(Actor):
    """Asks the next one in a ring."""

    following: list[Ref["Asker"]]

    async def ask_on(self, hops: int) -> int:
        if hops == 0:
            return 0
        return 1 + await self.following[0].ask(Asker.ask_on, hops - 1)

    async def ask_in_nursery(self, hops: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, hops)

    async def _ask(self, hops: int) -> None:
        await self.following[0].ask(Asker.ask_on, hops)


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_an_ask_cycle_raises_instead_of_hanging(size: int) -> None:
    async with open_supervisor() as top:
        links: list[list[Ref[Asker]]] = [[] for _ in range(size)]
        refs = [
            await top.spawn(partial(Asker, link), name=f"a{number}")
            for number, link in enumerate(links)
        ]
        for number, link in enumerate(links):
            link.append(refs[(number + 1) % size])
        with pytest.raises(ActorCrashedError) as caught:
            await refs[0].ask(Asker.ask_on, size)
        error: BaseException | None = caught.value
        while error is not None and not isinstance(error, AskCycleError):
            error = error.__cause__
        ring = [f"'top/a{number}'" for number in range(size)]
        assert str(error).count(" waits for ") == size
        assert all(name.strip("'") in str(error) for name in ring)
        assert await refs[0].ask(Asker.ask_on, 0) == 0


async def test_an_ask_cycle_of_two_that_began_apart_raises_too() -> None:
    # Neither message of the two was sent on behalf of the other.
    both = trio.Event()

    @attrs.define
    class Meeting(Asker):
        arrived: list[int] = attrs.field(factory=list[int])

        async def meet(self) -> None:
            self.arrived.append(1)
            if len(self.arrived) == 2:
                both.set()
            await both.wait()
            await self.following[0].ask(Asker.ask_on, 0)

    arrived: list[int] = []
    journal: list[str] = []
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        one: list[Ref[Asker]] = []
        other: list[Ref[Asker]] = []
        first = await top.spawn(partial(Meeting, one, arrived))
        second = await top.spawn(partial(Meeting, other, arrived))
        one.append(second)
        other.append(first)

        async def ask(ref: Ref[Meeting]) -> None:
            try:
                await ref.ask(Meeting.meet)
            except ActorCrashedError as error:
                journal.append(type(error.__cause__).__name__)

        nursery.start_soon(ask, first)
        nursery.start_soon(ask, second)
    assert "AskCycleError" in journal


async def test_an_ask_cycle_through_a_handlers_nursery_raises_too() -> None:
    async with open_supervisor() as top:
        link: list[Ref[Asker]] = []
        ref = await top.spawn(partial(Asker, link))
        link.append(ref)
        with pytest.raises(ActorCrashedError, match="AskCycleError"):
            await ref.ask(Asker.ask_in_nursery, 0)


async def test_an_actor_may_ask_itself_in_a_background_task() -> None:
    journal = Journal()

    class Self(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.start_soon(self.work, ctx.ref)

        async def work(self, ref: Ref[Probe]) -> None:
            self.journal.write("note", await ref.ask(Probe.echo, 1))

    async with open_supervisor(max_restarts=0) as top:
        await top.spawn(partial(Self, journal))
        await journal.wait_for("note", 1)


async def test_a_child_that_asks_its_parent_while_it_is_spawned_raises() -> None:
    @attrs.define
    class Parent(Probe):
        async def spawn_child(self) -> None:
            assert self.ctx is not None
            await self.ctx.spawn(partial(Curious, self.ctx.ref))

    @attrs.define
    class Curious(Actor):
        parent: Ref[Probe]

        async def started(self, ctx: Context["Curious"]) -> None:
            await self.parent.ask(Probe.echo, 1)

    async with open_supervisor() as top:
        ref = await top.spawn(Parent)
        with pytest.raises(ActorCrashedError, match="AskCycleError"):
            await ref.ask(Parent.spawn_child)


@pytest.mark.parametrize("end", ["close", "crash"])
async def test_no_captured_cancelled_is_raised_in_the_asker(
    end: str, autojump_clock: trio.testing.MockClock
) -> None:
    # The handler is cancelled by the kernel; its asker was not, and must not look like it.
    journal = Journal()

    class Fragile(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await super().started(ctx)
            if end == "crash":
                ctx.start_soon(self.fail)

        async def fail(self) -> None:
            await self.journal.wait_for("holding")
            raise ValueError("background")

    errors: list[BaseException] = []
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Fragile, journal), grace=1.0, restart="temporary")

        async def ask() -> None:
            try:
                await ref.ask(Probe.hold, trio.Event())
            except BaseException as error:  # noqa: BLE001 - a Cancelled is what must not come
                errors.append(error)

        nursery.start_soon(ask)
        await journal.wait_for("holding")
        if end == "close":
            await ref.close()
        else:
            await ref.wait_stopped()
    expected = ActorStoppedError if end == "close" else ActorCrashedError
    assert [type(error) for error in errors] == [expected]


async def test_a_restart_storm_is_slowed_down_and_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    events: list[Event] = []
    times: list[float] = []

    def watch(event: Event) -> None:
        events.append(event)
        if isinstance(event, Restarted):
            times.append(trio.current_time())

    class Doomed(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.start_soon(self.fail)

        async def fail(self) -> None:
            raise ValueError("at once")

    backoff = Backoff(first=1.0, factor=2.0, ceiling=4.0, jitter=0.0)
    with pytest.raises(ValueError, match="at once"):
        async with open_supervisor(
            max_restarts=4, within=100.0, backoff=backoff, observers=(watch,)
        ) as top:
            await top.spawn(Doomed)
            await trio.sleep_forever()
    assert times == pytest.approx([1.0, 3.0, 7.0, 11.0])
    assert sum(isinstance(event, Crashed) for event in events) == 6  # the supervisor's own too


@pytest.mark.parametrize("streak", [0, 1, 1_000, 10**6])
def test_2_to_the_k_does_not_overflow_in_the_back_off(streak: int) -> None:
    delay = Backoff(first=0.001, ceiling=60.0).delay(streak, random.random)
    assert 0 <= delay <= 60.0
    assert not math.isnan(delay)


async def test_a_back_off_does_not_hold_up_a_stop(autojump_clock: trio.testing.MockClock) -> None:
    backoff = Backoff(first=1000.0, ceiling=1000.0, jitter=0.0)
    async with open_supervisor(backoff=backoff) as top:
        ref = await top.spawn(Probe)
        other = await top.spawn(Probe)
        for probe in (ref, other):
            with pytest.raises(ActorCrashedError):
                await probe.ask(Probe.crash, ValueError())
        await trio.testing.wait_all_tasks_blocked()
        await ref.close()  # by name
    assert trio.current_time() < 1  # and the other one with the block


async def test_the_message_in_flight_is_not_lost_at_close(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal), grace=0.5)
        ref.tell_nowait(Probe.hold, trio.Event())
        await journal.wait_for("holding")
    assert [name for name, _ in journal.values("handed_back")[0]] == ["hold"]


async def test_an_asker_that_left_while_its_work_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal, gate = Journal(), trio.Event()
    async with open_supervisor(max_restarts=0) as top:
        ref = await top.spawn(partial(Probe, journal))
        with trio.move_on_after(1) as scope:
            await ref.ask(Probe.hold, gate)
        assert scope.cancelled_caught
        gate.set()
        await journal.wait_for("held")
        assert await ref.ask(Probe.echo, 1) == 1


async def test_no_exception_comes_out_in_a_group() -> None:
    # A crash three supervisors deep, and an error of the block's own.
    crash = ValueError("deep")
    tree: Tree = Tree(name="leaf", max_restarts=0, children=(Child(Probe, name="probe"),))
    for level in range(2):
        tree = Tree(name=f"level-{level}", max_restarts=0, children=(tree,))
    with pytest.raises(ValueError, match="deep") as caught:
        async with open_tree(tree) as top:
            await top.get("level-0/leaf/probe", Probe).tell(Probe.crash, crash)
            await trio.sleep_forever()
    assert caught.value is crash
    with pytest.raises(KeyError, match="own"):
        async with open_tree(tree):
            raise KeyError("own")
