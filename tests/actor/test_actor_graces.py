"""Grace periods of actors, their children and whole trees, when requests meet or repeat."""

from functools import partial

import attrs
import pytest
import trio
import trio.testing

from terzetto.actor import (
    ActorCrashedError,
    ActorStoppedError,
    Backoff,
    Child,
    Context,
    Ref,
    Stop,
    Supervisor,
    Tree,
    open_supervisor,
    open_tree,
)
from terzetto.actor._supervisor import SupervisorCell
from terzetto.testing import Journal, Probe


class Stubborn(Probe):
    """Takes as long to stop as it is let."""

    async def stopping(self, reason: Stop) -> None:
        await trio.sleep_forever()


@attrs.define
class Owner(Probe):
    async def started(self, ctx: Context[Probe]) -> None:
        await super().started(ctx)
        child = await ctx.spawn(Probe, name="child", grace=100.0)
        child.tell_nowait(Probe.hold, trio.Event())


async def keep_busy(ref: Ref[Probe]) -> None:
    """Give the actor a message that does not end."""
    ref.tell_nowait(Probe.hold, trio.Event())
    await trio.testing.wait_all_tasks_blocked()


async def test_a_close_does_not_lengthen_the_grace_of_a_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(Probe, name="p", grace=5.0)
        await keep_busy(ref)

        async def restart() -> None:
            with pytest.raises(ActorStoppedError):
                await top.restart_child("p")

        nursery.start_soon(restart)
        await trio.sleep(3)
        await ref.close()
        assert trio.current_time() == 5.0


async def test_a_close_does_not_lengthen_the_grace_of_a_tree(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        inner = await top.spawn(Tree(name="inner", grace=10.0))
        await keep_busy(await inner.spawn(Probe, grace=100.0))
        nursery.start_soon(inner.shutdown)
        await trio.sleep(8)
        await inner.close()
        assert trio.current_time() == 10.0


async def test_the_grace_of_a_tree_holds_for_the_children_of_its_actors(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top:
        inner = await top.spawn(Tree(name="inner", grace=1.0, children=(Child(Owner),)))
        await inner.close()
        assert trio.current_time() == 1.0


async def test_the_grace_of_a_tree_holds_for_hooks(autojump_clock: trio.testing.MockClock) -> None:
    async with open_supervisor() as top:
        inner = await top.spawn(Tree(name="inner", grace=1.0))
        await keep_busy(await inner.spawn(Stubborn, grace=100.0))
        await inner.close()
        assert trio.current_time() == 1.0


async def test_an_earlier_grace_of_a_tree_does_not_shorten_a_later_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top:
        inner = await top.spawn(Tree(name="inner", grace=10.0, children=(Child(Probe),)))
        await top.restart_child("inner")
        await trio.sleep(20)
        await keep_busy(inner.get("probe", Probe))
        await inner.close()
        assert trio.current_time() == 25.0  # the actor's own 5 s


async def test_an_asker_hears_that_its_actor_was_restarted_in_the_middle() -> None:
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        journal = Journal()
        ref = await top.spawn(partial(Probe, journal), name="p", grace=0.0)

        async def ask() -> None:
            with pytest.raises(ActorStoppedError, match="was restarted in the middle of it"):
                await ref.ask(Probe.hold, trio.Event())

        nursery.start_soon(ask)
        await journal.wait_for("holding")
        await top.restart_child("p")
        assert await ref.ask(Probe.echo, 1) == 1


async def test_a_child_that_is_being_stopped_does_not_come_back_with_its_supervisor(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inner_tree = Tree(
        name="inner",
        max_restarts=0,
        children=(Child(Probe, name="a", grace=5.0), Child(Probe, name="b")),
    )
    tree = Tree(children=(inner_tree,), backoff=Backoff(first=0))
    async with open_tree(tree) as top, trio.open_nursery() as nursery:
        inner = top.get("inner", Supervisor)
        await keep_busy(inner.get("a", Probe))
        nursery.start_soon(inner.stop_child, "a")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ActorCrashedError):
            await inner.get("b", Probe).ask(Probe.crash, ValueError("crash"))
        await trio.sleep(10)
        states = {child.name: child.state for child in inner.describe().children}
        assert states == {"a": "stopped", "b": "running"}


async def test_each_of_several_has_its_grace_when_the_block_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    with trio.move_on_after(1):
        async with open_supervisor() as top:
            for _ in range(3):
                ref = await top.spawn(partial(Probe, journal), grace=5.0)
                await keep_busy(ref)
            await trio.sleep_forever()
    assert trio.current_time() == 16.0
    assert journal.kinds().count("stopping") == 3


async def test_a_shutdown_does_not_take_back_a_close(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        await keep_busy(await top.spawn(Probe, grace=5.0))
        nursery.start_soon(top.close)
        await trio.sleep(1)
        assert (await top.shutdown()).reason is Stop.CLOSED
        assert trio.current_time() == 5.0


async def test_an_actor_has_not_stopped_before_its_background_tasks_have(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ended.append(trio.current_time())

    class Worker(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.start_soon(work)

    async with open_supervisor() as top:
        ref = await top.spawn(Worker)
        await trio.testing.wait_all_tasks_blocked()
        await ref.close()
        assert ended == [1.0]


async def test_who_waits_for_an_actor_that_was_cut_off_by_the_shield_hears_of_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    def bound(_: SupervisorCell) -> float:
        return 0.0

    monkeypatch.setattr(SupervisorCell, "bound", bound)
    async with open_supervisor() as top:
        ref = await top.spawn(Probe, grace=1000.0)
        await keep_busy(ref)
    with trio.fail_after(1):
        assert (await ref.wait_stopped()).reason is Stop.CLOSED
