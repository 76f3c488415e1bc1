"""What comes at odd moments: Ctrl-C, replies while a deadline is asked for, starts that fail."""

import signal
from functools import partial

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing

from terzetto.actor import (
    Actor,
    ActorCrashedError,
    ActorStoppedError,
    Child,
    Context,
    Event,
    Exit,
    Ref,
    Reject,
    Stop,
    Supervisor,
    Tree,
    open_supervisor,
    open_tree,
)
from terzetto.testing import CrashPlan, InjectedCrash, Journal, Probe, inject


def in_a_run_of_its_own(fn: object) -> None:
    """Run `fn` where Ctrl-C is trio's business, as in a program."""
    trio.run(fn)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - an async function without arguments


async def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)
    await trio.sleep_forever()


@pytest.mark.parametrize("place", ["block", "handler", "background", "stopping"])
def test_ctrl_c_closes_the_tree_and_comes_out_as_it_is(place: str) -> None:
    journal = Journal()

    class Fragile(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await super().started(ctx)
            if place == "background":
                ctx.start_soon(interrupt)

        async def stopping(self, reason: Stop) -> None:
            if place == "stopping":
                signal.raise_signal(signal.SIGINT)
            await trio.lowlevel.checkpoint()
            self.journal.write("stopping")

    async def main() -> None:
        async with open_supervisor() as top:
            await top.spawn(partial(Probe, journal), name="sibling")
            ref = await top.spawn(partial(Fragile, journal))
            if place == "block":
                await interrupt()
            elif place == "handler":
                await ref.tell(Probe.call, interrupt)
            if place != "stopping":
                await trio.sleep_forever()
        # An interrupt that came while stopping is raised at the main task's next checkpoint.
        await trio.lowlevel.checkpoint()

    with pytest.raises(KeyboardInterrupt):
        in_a_run_of_its_own(main)
    assert journal.kinds() == ["started", "started", "stopping", "stopping"]


class Brief(Probe):
    async def interrupt(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("place", ["observer", "asked handler", "asked brief handler"])
def test_ctrl_c_in_code_that_others_run_comes_out_as_it_is(place: str) -> None:
    journal = Journal()

    def observer(_: Event) -> None:
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with open_supervisor() as top:
            ref = await top.spawn(partial(Brief, journal))
            await trio.testing.wait_all_tasks_blocked()
            if place == "asked handler":
                await ref.ask(Probe.call, interrupt)
            elif place == "asked brief handler":
                await ref.ask(Brief.interrupt)
            top.observe(observer)
            await top.spawn(Probe)
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        in_a_run_of_its_own(main)
    assert journal.kinds() == ["started", "stopping"]


async def test_a_tree_that_cannot_start_raises_the_crash_in_spawn() -> None:
    journal = Journal()
    plan = CrashPlan().crash("started")
    bad = Tree(
        name="bad", children=(Child(partial(Probe, journal)), Child(inject(Probe, plan), name="x"))
    )
    async with open_supervisor(max_restarts=0) as top:
        with pytest.raises(InjectedCrash):
            await top.spawn(bad)
        assert top.children == ()
        plan.calm("started")
        await top.spawn(bad)
    assert journal.kinds() == ["started", "stopping", "started", "stopping"]


async def test_a_tree_that_ends_before_it_is_up_says_so() -> None:
    class Brief(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.stop()

    class Slow(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await trio.sleep_forever()

    tree = Tree(
        auto_shutdown="any",
        children=(Child(Brief, significant=True), Child(Slow, grace=0.01)),
    )
    with pytest.raises(ActorStoppedError, match="ended before it had started"):
        async with open_tree(tree):
            raise AssertionError("the block was entered")


@attrs.define
class Curious(Actor):
    """Looks at the deadline of its asker in every way."""

    journal: Journal
    following: Ref["Curious"] | None = None
    ctx: Context["Curious"] | None = None

    async def started(self, ctx: Context["Curious"]) -> None:
        self.ctx = ctx

    async def deadline(self) -> float:
        assert self.ctx is not None
        return await self.ctx.deadline()

    async def look_twice_at_once(self) -> list[float]:
        found: list[float] = []

        async def look() -> None:
            found.append(await self.deadline())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            nursery.start_soon(look)
        return found

    async def look_and_fail(self) -> None:
        assert self.ctx is not None

        async def fail() -> None:
            raise ValueError("while looking")

        self.ctx.start_soon(self.deadline)
        self.ctx.start_soon(fail)
        await trio.sleep_forever()

    async def look_and_refuse(self) -> None:
        await self.deadline()
        raise Reject(KeyError("late"))

    async def ask_on(self) -> float:
        assert self.following is not None
        return await self.following.ask(Curious.deadline)

    async def look_when_left(self) -> None:
        await trio.sleep(2)
        self.journal.write("deadline", await self.deadline())


async def test_a_deadline_may_be_asked_for_at_any_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    async with open_supervisor() as top:
        below = await top.spawn(partial(Curious, journal))
        ref = await top.spawn(partial(Curious, journal, below))
        with trio.move_on_after(10) as scope:
            assert await ref.ask(Curious.look_twice_at_once) == [scope.deadline] * 2
            assert await ref.ask(Curious.ask_on) == scope.deadline
            with pytest.raises(KeyError, match="late"):
                await ref.ask(Curious.look_and_refuse)
            with pytest.raises(ActorCrashedError, match="while looking"):
                await ref.ask(Curious.look_and_fail)
        assert not scope.cancelled_caught
        with trio.move_on_after(1):
            await ref.ask(Curious.look_when_left)
        await journal.wait_for("deadline", float("-inf"))


async def test_an_asker_may_leave_while_it_tells_its_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # The asker's own asker is asked in turn; there the leaving overtakes the inquiry.
    journal = Journal()
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        below = await top.spawn(partial(Curious, journal))
        ref = await top.spawn(partial(Curious, journal, below))
        scope = trio.CancelScope()

        async def ask() -> None:
            with scope:
                await ref.ask(Curious.ask_on)

        nursery.start_soon(ask)
        for _ in range(6):
            await trio.lowlevel.checkpoint()
        scope.cancel()
        await trio.sleep(1)
        assert await below.ask(Curious.deadline) == float("inf")


async def test_an_actor_may_end_its_namesake_in_another_tree() -> None:
    async with open_supervisor() as one, open_supervisor() as other:
        ref = await one.spawn(Probe, name="same")
        namesake = await other.spawn(Probe, name="same")
        assert ref.path == namesake.path
        exit_ = await ref.ask(Probe.call, namesake.close)
        assert exit_ == Exit(Stop.CLOSED)
        await ref.ask(Probe.call, other.close)


async def test_a_child_cannot_wait_for_the_end_of_those_above_it() -> None:
    class Owner(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await ctx.spawn(Probe, name="kid")

    async with open_supervisor() as top:
        owner = await top.spawn(Owner, name="owner")
        kid = top.get("owner/kid", Probe)
        for end in (
            kid.close,
            owner.close,
            owner.shutdown,
            top.close,
            partial(top.stop_child, "owner"),
        ):
            with pytest.raises(ActorCrashedError, match="its own end"):
                await kid.ask(Probe.call, end)
            await trio.lowlevel.checkpoint()
            kid = await _up_again(top)


async def _up_again(top: Supervisor) -> Ref[Probe]:
    """Return the kid once it, or its owner, has been restarted."""
    await top.get("owner", Probe).ask(Probe.echo, 1)
    return top.get("owner/kid", Probe)
