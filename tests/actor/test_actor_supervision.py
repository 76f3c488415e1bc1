"""Supervision of real trees: strategies, limits, starts, groups, and children by name."""

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
    ChildLimitError,
    ChildNameError,
    Context,
    Exit,
    Ref,
    Restart,
    SpecError,
    Stop,
    Strategy,
    Supervisor,
    Tree,
    UnknownChildError,
    open_supervisor,
    open_tree,
)
from terzetto.testing import CrashPlan, InjectedCrash, Journal, Probe, inject, run_seeded


@attrs.define
class Named(Probe):
    """Writes its name with all that happens to it."""

    name: str = ""

    async def started(self, ctx: Context[Probe]) -> None:
        self.ctx = ctx
        self.journal.write("+" + self.name)

    async def stopping(self, reason: Stop) -> None:
        self.journal.write("-" + self.name)


class Quitter(Probe):
    async def quit(self) -> None:
        assert self.ctx is not None
        self.ctx.stop()


def named(journal: Journal, name: str, *, restart: Restart = "transient") -> Child[Ref[Named]]:
    return Child(partial(Named, journal, name=name), name=name, restart=restart, grace=1.0)


def family(journal: Journal, strategy: Strategy, names: str = "abc") -> Tree:
    return Tree(strategy=strategy, children=tuple(named(journal, name) for name in names))


async def crash(top: Supervisor, path: str) -> None:
    with pytest.raises(ActorCrashedError):
        await top.get(path, Probe).ask(Probe.crash, ValueError(path))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", "-b +b"),
        ("rest_for_one", "-b -c +b +c"),
        ("one_for_all", "-b -c -a +a +b +c"),
    ],
)
async def test_a_crash_restarts_whom_the_strategy_says_in_order(
    strategy: Strategy, expected: str, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Journal()
    async with open_tree(family(journal, strategy)) as top:
        assert journal.kinds() == ["+a", "+b", "+c"]
        await crash(top, "b")
        await trio.sleep(5)
        assert " ".join(journal.kinds()[3:]) == expected
    assert journal.kinds()[-3:] == ["-c", "-b", "-a"]


@pytest.mark.parametrize("strategy", ["rest_for_one", "one_for_all"])
async def test_a_group_restart_keeps_refs_and_mailboxes(
    strategy: Strategy, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Journal()
    async with open_tree(family(journal, strategy)) as top:
        ref = top.get("c", Named)
        gate = trio.Event()
        ref.tell_nowait(Probe.hold, gate)
        await journal.wait_for("holding")
        ref.tell_nowait(Probe.note, "waits through the restart")
        await crash(top, "a")
        await journal.wait_for("note", "waits through the restart")
        assert top.dead_letters == {("tree/a", "crashed"): 1, ("tree/c", "restarted"): 1}
        assert not ref.is_stopped


async def test_a_temporary_sibling_falls_with_its_group_and_does_not_come_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    children = (named(journal, "a"), named(journal, "t", restart="temporary"), named(journal, "c"))
    async with open_tree(Tree(strategy="one_for_all", children=children)) as top:
        ref = top.get("t", Named)
        await crash(top, "a")
        await trio.sleep(5)
        assert journal.kinds()[3:] == ["-a", "-c", "-t", "+a", "+c"]
        assert await ref.wait_stopped() == Exit(Stop.CLOSED)


@pytest.mark.parametrize(
    ("restart", "end", "lives"),
    [
        ("permanent", "crash", 2),
        ("permanent", "quit", 2),
        ("transient", "crash", 2),
        ("transient", "quit", 1),
        ("temporary", "crash", 1),
        ("temporary", "quit", 1),
    ],
)
async def test_who_is_restarted_after_what(
    restart: Restart,
    end: str,
    lives: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Quitter, journal), restart=restart)
        if end == "crash":
            await ref.tell(Probe.crash, ValueError())
        else:
            await ref.tell(Quitter.quit)
        if lives == 2:
            await ref.tell(Probe.note, 1)
        await trio.sleep(5)
        assert journal.kinds().count("started") == lives
        assert ref.is_stopped == (lives == 1)
        assert journal.values("note") == [1] * (lives - 1)
        # What is spawned at run time is forgotten when it has ended.
        assert len(top.children) == lives - 1


async def test_restarts_are_forgotten_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    async with open_supervisor(max_restarts=1, within=5.0) as top:
        await top.spawn(Probe, name="p")
        for _ in range(4):
            await crash(top, "p")
            await trio.sleep(6)
        await top.get("p", Probe).ask(Probe.echo, 1)


async def test_a_failed_subtree_is_restarted_as_a_whole_by_the_one_above(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    inner = Tree(name="inner", max_restarts=0, children=(named(journal, "a"), named(journal, "b")))
    async with open_tree(Tree(name="top", children=(inner,))) as top:
        ref = top.get("inner/b", Named)
        extra = await top.get("inner", Supervisor).spawn(named(journal, "extra"))
        await crash(top, "inner/a")
        await trio.sleep(5)
        assert journal.kinds() == ["+a", "+b", "+extra", "-a", "-extra", "-b", "+a", "+b"]
        assert await ref.ask(Probe.echo, "the same ref") == "the same ref"
        assert await extra.wait_stopped() == Exit(Stop.CLOSED)


async def test_a_restart_that_cannot_start_has_a_limit_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    plan = CrashPlan().crash("started", *range(2, 100))
    with pytest.raises(InjectedCrash) as caught:
        async with open_supervisor(max_restarts=1, max_failed_starts=4) as top:
            ref = await top.spawn(inject(Probe, plan))
            await ref.tell(Probe.crash, ValueError())
            await trio.sleep_forever()
    assert plan.calls["started"] == 1 + 5
    assert "failed to start 5 times in a row" in caught.value.__notes__[0]


async def test_a_restart_that_starts_in_the_end_is_forgiven(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()
    plan = CrashPlan().crash("started", 2, 3)
    tree = Tree(
        strategy="one_for_all",
        children=(
            Child(inject(partial(Named, journal, name="a"), plan), name="a"),
            named(journal, "b"),
        ),
    )
    async with open_tree(tree) as top:
        await crash(top, "a")
        await trio.sleep(60)
        assert journal.kinds() == ["+a", "+b", "-a", "-b", "+a", "+b"]


@pytest.mark.parametrize(("rule", "left"), [("any", 1), ("all", 2), ("never", 3)])
async def test_significant_children_close_their_supervisor(
    rule: str, left: int, autojump_clock: trio.testing.MockClock
) -> None:
    tree = Tree(
        name="inner",
        auto_shutdown=rule,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - a table of literals
        children=tuple(Child(Quitter, name=name, significant=name != "c") for name in "abc"),
    )

    async def stop(top: Supervisor, name: str) -> None:
        ref = top.get(f"inner/{name}", Quitter)
        await ref.tell(Quitter.quit)
        await ref.wait_stopped()

    async with open_tree(Tree(name="top", children=(tree,))) as top:
        inner = top.get("inner", Supervisor)
        await stop(top, "a")
        if left == 1:
            assert await inner.wait_stopped() == Exit(Stop.NORMAL)
            return
        await stop(top, "b")
        if left == 2:
            assert await inner.wait_stopped() == Exit(Stop.NORMAL)
        else:
            await trio.sleep(10)
            assert not inner.is_stopped


async def test_dynamic_children_stop_together_and_have_a_cap(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Probe):
        async def stopping(self, reason: Stop) -> None:
            await trio.sleep(1)

    async with open_supervisor(dynamic=True, max_children=20) as top:
        refs = [await top.spawn(Slow) for _ in range(20)]
        with pytest.raises(ChildLimitError, match="20 children"):
            await top.spawn(Slow)
        await refs[0].close()
        await top.spawn(Slow)
        begun = trio.current_time()
        await top.close()
        assert trio.current_time() - begun == pytest.approx(1)


async def test_ordered_children_stop_one_after_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Named):
        async def stopping(self, reason: Stop) -> None:
            await trio.sleep(1)
            await super().stopping(reason)

    journal = Journal()
    async with open_supervisor() as top:
        for name in "abc":
            await top.spawn(partial(Slow, journal, name=name), name=name)
        begun = trio.current_time()
        await top.close()
        assert trio.current_time() - begun == pytest.approx(3)
    assert journal.kinds()[-3:] == ["-c", "-b", "-a"]


async def test_a_tree_has_a_grace_for_all(autojump_clock: trio.testing.MockClock) -> None:
    children = tuple(Child(Probe, name=name, grace=10.0) for name in "abcd")
    async with open_tree(Tree(children=children, grace=2.0)) as top:
        for name in "abcd":
            top.get(name, Probe).tell_nowait(Probe.hold, trio.Event())
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await top.close()
        assert trio.current_time() - begun == pytest.approx(2)


async def test_children_are_started_stopped_restarted_and_removed_by_name() -> None:
    journal = Journal()
    async with open_tree(family(journal, "one_for_one")) as top:
        old = top.get("b", Named)
        assert await top.stop_child("b") == Exit(Stop.CLOSED)
        assert list(top.children) == ["a", "b", "c"]
        with pytest.raises(ActorStoppedError):
            await old.tell(Probe.note, 1)
        new = await top.start_child("b")
        assert new == top.get("b", Named) != old
        with pytest.raises(SpecError, match="has not stopped"):
            await top.start_child("b")
        new.tell_nowait(Probe.note, "kept")
        await top.restart_child("b")
        await new.ask(Probe.echo, 1)
        await top.remove_child("b")
        assert list(top.children) == ["a", "c"]
        for call in (top.stop_child, top.start_child, top.restart_child, top.remove_child):
            with pytest.raises(UnknownChildError, match="no child 'b'; it has: a, c"):
                await call("b")
        await top.spawn(named(journal, "b"))
    kinds = [kind for kind in journal.kinds() if kind[1] == "b" or kind == "note"]
    assert kinds[:4] == ["+b", "-b", "+b", "note"] or kinds[:5] == ["+b", "-b", "+b", "-b", "+b"]
    assert journal.kinds().count("+b") == 4


async def test_a_child_that_waits_for_its_back_off_can_be_restarted_at_once() -> None:
    backoff = Backoff(first=1000.0, ceiling=1000.0, jitter=0.0)
    async with open_supervisor(backoff=backoff) as top:
        ref = await top.spawn(Probe, name="p")
        await crash(top, "p")
        await top.restart_child("p")
        assert await ref.ask(Probe.echo, 1) == 1


async def test_names_are_unique_among_siblings_and_made_up_if_not_given() -> None:
    async with open_supervisor() as top:
        await top.spawn(Probe)
        await top.spawn(Probe)
        await top.spawn(partial(Probe))
        assert top.children == ("probe", "probe-2", "probe-3")
        with pytest.raises(ChildNameError, match="'probe-2' already"):
            await top.spawn(Probe, name="probe-2")
        for name in ("", "a/b"):
            with pytest.raises(ChildNameError):
                await top.spawn(Probe, name=name)


@pytest.mark.parametrize(
    "options",
    [
        {"grace": -1},
        {"grace": float("inf")},
        {"grace": float("nan")},
        {"mailbox": 0},
        {"mailbox": 1.5},
        {"restart": "always"},
        {"restart": "permanent", "significant": True},
        {"factory": 3},
    ],
)
def test_a_child_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        Child(**{"factory": Probe, **options})  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType] - the point


@pytest.mark.parametrize(
    "options",
    [
        {"children": (Child(Probe, name="x"), Child(Probe, name="x"))},
        {"children": (Child(Probe, name="x"), Tree(name="x"))},
        {"children": (Probe,)},
        {"children": [Child(Probe)]},
        {"strategy": "all_for_one"},
        {"restart": "never"},
        {"auto_shutdown": "some"},
        {"max_restarts": -1},
        {"max_failed_starts": -1},
        {"within": -1.0},
        {"grace": -1.0},
        {"max_children": 0},
        {"max_children": 1, "children": (Child(Probe), Child(Probe))},
        {"dynamic": True, "strategy": "one_for_all"},
        {"restart": "permanent", "significant": True},
    ],
)
def test_a_tree_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        Tree(**options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the point


@pytest.mark.parametrize(
    "options",
    [
        {"first": -1.0},
        {"ceiling": float("inf")},
        {"quiet": -1.0},
        {"factor": 0.5},
        {"jitter": 1.5},
    ],
)
def test_a_back_off_that_cannot_work_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        Backoff(**options)


async def test_options_beside_a_spec_are_refused() -> None:
    async with open_supervisor() as top:
        with pytest.raises(SpecError, match="has its options in itself"):
            await top.spawn(Child(Probe), name="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType] - the point


async def test_a_child_is_looked_up_by_path_and_type() -> None:
    @attrs.frozen
    class Face:
        ref: Ref[Probe]

    inner = Tree(name="inner", children=(Child(Probe, name="p", face=Face), Child(Probe, name="q")))
    async with open_tree(Tree(name="top", children=(inner,))) as top:
        assert top.get("inner/p", Face).ref == top.get("inner/p", Probe)
        assert top.get("inner", Supervisor).get("q", Probe).path == "top/inner/q"
        with pytest.raises(UnknownChildError, match="is no Named: it is a Probe"):
            top.get("inner/q", Named)
        with pytest.raises(UnknownChildError, match="no child 'x'; it has: p, q"):
            top.get("inner/x", Probe)
        with pytest.raises(UnknownChildError, match="has no child 'x'"):
            top.get("inner/q/x", Probe)
        with pytest.raises(UnknownChildError, match="is no Probe"):
            top.get("inner", Probe)


async def test_children_of_an_actor_take_it_down_when_their_restarts_are_used_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal = Journal()

    class Owner(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await super().started(ctx)
            await ctx.spawn(Probe, name="kid")

    async with open_supervisor() as top:
        await top.spawn(partial(Owner, journal), name="owner")
        for _ in range(4):
            await crash(top, "owner/kid")
            await trio.sleep(0.5)
        await journal.wait_for("started", count=2)
        assert top.get("owner/kid", Probe).path == "top/owner/kid"


async def test_a_ref_survives_restarts() -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Probe)
        await crash(top, "probe")
        assert await ref.ask(Probe.echo, 1) == 1


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
def test_crashes_above_and_below_in_one_turn_leave_everybody_up(strategy: Strategy) -> None:
    async def main() -> None:
        inner = Tree(
            name="inner",
            max_restarts=0,
            children=(Child(Probe, name="a"), Child(Probe, name="b")),
        )
        children = (Child(Probe, name="first"), inner, Child(Probe, name="last"))
        tree = Tree(name="top", strategy=strategy, max_restarts=100, children=children)
        async with open_tree(tree) as top:
            paths = ("first", "inner/a", "inner/b", "last")
            refs = [top.get(path, Probe) for path in paths]
            for _ in range(3):
                for ref in refs:
                    ref.tell_nowait(Probe.crash, ValueError("all at once"))
                await trio.sleep(60)
            for ref in refs:
                assert await ref.ask(Probe.echo, 1) == 1

    for seed in range(30):
        run_seeded(main, seed=seed)


async def test_who_monitors_is_called_once_when_the_actor_has_ended_for_good(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Exit) -> None:
        raise KeyError("mine")

    ends: list[Exit] = []
    refs: list[Ref[Probe]] = []
    crash = ValueError("again")
    with pytest.raises(ValueError, match="again"):
        async with open_supervisor(max_restarts=1) as top:
            ref = await top.spawn(Probe)
            refs.append(ref)
            ref.when_stopped(fail)
            ref.when_stopped(ends.append)
            ref.tell_nowait(Probe.crash, ValueError("once"))
            assert await ref.ask(Probe.echo, 1) == 1, "it was restarted"
            assert ends == []
            ref.tell_nowait(Probe.crash, crash)
            await trio.sleep_forever()
    assert [end.error for end in ends] == [crash]
    refs[0].when_stopped(ends.append)
    assert ends[1:] == ends[:1]
    (record,) = [record for record in caplog.records if "a monitor raised" in record.message]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
