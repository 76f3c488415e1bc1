"""Shutdowns that meet a restart: what was accepted is handled, with all that it needs."""

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
    Strategy,
    Supervisor,
    Tree,
    open_supervisor,
    open_tree,
)
from terzetto.testing import CrashPlan, Journal, Probe, inject

LONG = Backoff(first=1000.0, ceiling=1000.0, jitter=0.0)


@attrs.define
class Member(Probe):
    """One of a group; each but the first asks the first one."""

    first: list[Ref[Probe]] = attrs.field(factory=list[Ref[Probe]])

    async def note(self, value: object) -> None:
        if self.first:
            value = await self.first[0].ask(Probe.echo, value)
        self.journal.write("note", value)


@attrs.define
class Owner(Probe):
    """Has a child from its start, and one more for each message."""

    async def started(self, ctx: Context[Probe]) -> None:
        await super().started(ctx)
        await ctx.spawn(Probe, name="first")

    async def note(self, value: object) -> None:
        assert self.ctx is not None
        await self.ctx.spawn(Probe, name=f"for-{value}")
        self.journal.write("note", value)


def group(journal: Journal, strategy: Strategy, *, name: str = "group") -> Tree:
    first: list[Ref[Probe]] = []

    def note_first(ref: Ref[Probe]) -> Ref[Probe]:
        first.append(ref)
        return ref

    return Tree(
        name=name,
        strategy=strategy,
        backoff=LONG,
        children=(
            Child(partial(Probe, journal), name="a", face=note_first),
            Child(partial(Member, journal, first=first), name="b"),
            Child(partial(Member, journal, first=first), name="c"),
        ),
    )


async def fill(tree: Supervisor, fallen: str, *, path: str = "") -> None:
    """Crash one child, and tell every one a message while the group is down."""
    with pytest.raises(ActorCrashedError):
        await tree.get(path + fallen, Probe).ask(Probe.crash, ValueError("crash"))
    await trio.testing.wait_all_tasks_blocked()
    for name in "abc":
        await tree.get(path + name, Probe).tell(Probe.note, name)


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_a_shutdown_lets_a_group_that_waits_for_its_restart_drain(
    strategy: Strategy, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Journal()
    async with open_tree(group(journal, strategy)) as top:
        await fill(top, "a")
        await top.shutdown()
        # The first one is up while the others drain: they need it.
        assert sorted(journal.values("note")) == ["a", "b", "c"]
        assert top.dead_letters == {("group/a", "crashed"): 1}
        assert trio.current_time() < 1, "the back-off was waited for"
    stopped = [name for name in journal.kinds() if name in {"started", "stopping"}]
    assert stopped[-6:] == ["started"] * 3 + ["stopping"] * 3


async def test_a_shutdown_in_the_middle_of_the_stops_of_a_group_drains_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    async with open_tree(group(journal, "one_for_all")) as top, trio.open_nursery() as nursery:
        gate = trio.Event()
        held = top.get("c", Probe)
        held.tell_nowait(Probe.hold, gate)  # it takes its grace to stop
        held.tell_nowait(Probe.note, "behind")
        await journal.wait_for("holding")
        with pytest.raises(ActorCrashedError):
            await top.get("a", Probe).ask(Probe.crash, ValueError("crash"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(top.shutdown)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await top.wait_stopped()
        assert journal.values("note") == ["behind"]


async def test_a_shutdown_lets_a_tree_that_waits_for_its_restart_drain(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    inner = attrs.evolve(group(journal, "one_for_one", name="inner"), max_restarts=0)
    async with open_tree(Tree(name="top", backoff=LONG, children=(inner,))) as top:
        await fill(top, "b", path="inner/")
        await top.shutdown()
        assert sorted(journal.values("note")) == ["a", "b", "c"]
        assert top.dead_letters == {("top/inner/b", "crashed"): 1}
        assert trio.current_time() < 1, "the back-off was waited for"


@pytest.mark.parametrize("whose", ["inner", "b"])
async def test_a_shutdown_by_name_drains_it_too(
    whose: str, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Journal()
    inner = group(journal, "one_for_all", name="inner")
    async with open_tree(Tree(name="top", children=(inner,))) as top:
        await fill(top, "a", path="inner/")
        if whose == "inner":
            await top.get("inner", Supervisor).shutdown()
            assert sorted(journal.values("note")) == ["a", "b", "c"]
        else:
            with trio.move_on_after(1):  # it needs the first one, which waits for its restart
                await top.get("inner/b", Probe).shutdown()
            await trio.sleep(2000)
            assert sorted(journal.values("note")) == ["a", "b", "c"]


async def test_a_close_cuts_such_a_shutdown_short(autojump_clock: trio.testing.MockClock) -> None:
    journal, plan = Journal(), CrashPlan()
    stuck = trio.Event()

    @attrs.define
    class Slow(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            if plan.calls["note"]:
                stuck.set()
                await trio.sleep_forever()
            plan.calls["note"] += 1

    tree = Tree(
        strategy="one_for_all",
        backoff=LONG,
        children=(Child(Slow, name="a"), Child(partial(Probe, journal), name="b")),
    )
    async with open_tree(tree) as top, trio.open_nursery() as nursery:
        with pytest.raises(ActorCrashedError):
            await top.get("b", Probe).ask(Probe.crash, ValueError("crash"))
        await trio.testing.wait_all_tasks_blocked()
        await top.get("b", Probe).tell(Probe.note, 1)
        nursery.start_soon(top.shutdown)
        await stuck.wait()
        await top.close()
        assert journal.values("note") == []
        assert top.dead_letters == {("tree/b", "crashed"): 1, ("tree/b", "unhandled"): 1}
        assert trio.current_time() < 10, "the close took longer than the grace"


@pytest.mark.parametrize("how", ["shutdown", "close"])
async def test_an_actor_that_drains_or_ends_its_message_may_spawn_children(how: str) -> None:
    journal, gate = Journal(), trio.Event()

    @attrs.define
    class Late(Owner):
        async def hold(self, gate: trio.Event) -> None:
            await super().hold(gate)
            await self.note("held")

    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(partial(Late, journal))
        ref.tell_nowait(Probe.hold, gate)
        ref.tell_nowait(Probe.note, 1)
        await journal.wait_for("holding")
        nursery.start_soon(ref.shutdown if how == "shutdown" else ref.close)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        assert (await ref.wait_stopped()).reason.value.startswith(how)
    assert journal.values("note") == (["held", 1] if how == "shutdown" else ["held"])


async def test_a_last_life_may_spawn_children_in_its_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    async with open_supervisor(backoff=LONG) as top:
        ref = await top.spawn(partial(Owner, journal), name="p")
        with pytest.raises(ActorCrashedError):
            await ref.ask(Probe.crash, ValueError("crash"))
        await trio.testing.wait_all_tasks_blocked()
        await ref.tell(Probe.note, 1)
        assert (await ref.shutdown()).reason is Stop.SHUTDOWN
        assert journal.values("note") == [1]
        assert top.dead_letters == {("top/p", "crashed"): 1}


@pytest.mark.parametrize("how", ["close", "crash", "stop"])
async def test_an_actor_that_is_closing_has_no_more_children(how: str) -> None:
    refused: list[Exception] = []

    class Late(Probe):
        async def stopping(self, reason: Stop) -> None:
            assert self.ctx is not None
            try:
                await self.ctx.spawn(Probe)
            except ActorStoppedError as error:
                refused.append(error)

        async def end(self) -> None:
            assert self.ctx is not None
            self.ctx.stop()

    async with open_supervisor() as top:
        ref = await top.spawn(Late, restart="temporary")
        if how == "close":
            await ref.close()
        elif how == "crash":
            ref.tell_nowait(Probe.crash, ValueError("crash"))
        else:
            ref.tell_nowait(Late.end)
        await ref.wait_stopped()
    assert len(refused) == 1


async def test_a_start_that_fails_in_a_last_life_ends_the_shutdown(
    autojump_clock: trio.testing.MockClock,
) -> None:
    plan = CrashPlan().crash("started", 2)
    async with open_supervisor(backoff=LONG) as top:
        ref = await top.spawn(inject(Probe, plan), name="p")
        with pytest.raises(ActorCrashedError):
            await ref.ask(Probe.crash, ValueError("crash"))
        await trio.testing.wait_all_tasks_blocked()
        await ref.tell(Probe.note, 1)
        assert (await ref.shutdown()).reason is Stop.CRASHED
        assert top.dead_letters == {("top/p", "crashed"): 1, ("top/p", "unhandled"): 1}
