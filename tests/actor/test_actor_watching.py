"""Watching: monitors, lifecycle events, observers, dead letters, descriptions."""

import logging
from functools import partial

import pytest
import trio
import trio.testing

from terzetto._shared._texts import describe_error
from terzetto.actor import (
    Actor,
    ActorCrashedError,
    Child,
    Context,
    Crashed,
    DeadLetter,
    Escalated,
    Event,
    Exit,
    Missed,
    Restarted,
    SpecError,
    Started,
    Stop,
    Stopped,
    Supervisor,
    Tree,
    open_supervisor,
    open_tree,
    render,
)
from terzetto.testing import Journal, Probe


async def crash(top: Supervisor, path: str, error: Exception) -> None:
    with pytest.raises(ActorCrashedError):
        await top.get(path, Probe).ask(Probe.crash, error)


async def test_a_monitor_is_told_at_the_final_stop_only() -> None:
    exits: list[Exit] = []
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(Probe)

        async def monitor() -> None:
            exits.append(await ref.wait_stopped())

        for _ in range(3):
            nursery.start_soon(monitor)
        await crash(top, "probe", ValueError())
        assert await ref.ask(Probe.echo, 1) == 1
        await trio.testing.wait_all_tasks_blocked()
        assert exits == []
        await ref.close()
    assert exits == [Exit(Stop.CLOSED)] * 3
    assert await ref.wait_stopped() == Exit(Stop.CLOSED)


async def test_events_tell_a_whole_story_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    first, second = ValueError("first"), ValueError("second")
    events: list[Event] = []
    tree = Tree(
        name="inner", max_restarts=1, restart="temporary", children=(Child(Probe, name="p"),)
    )
    async with open_supervisor(observers=(events.append,)) as top:
        inner = await top.spawn(tree)
        await crash(inner, "p", first)
        await trio.sleep(1)
        await crash(inner, "p", second)
        await inner.wait_stopped()
    story = [event for event in events if not isinstance(event, DeadLetter)]
    path = "top/inner/p"
    assert story[:2] == [Started(path="top"), Started(path=path)]
    assert story[2:-1] == [
        Started(path="top/inner"),
        Crashed(path=path, error=first),
        Restarted(path=path, restarts=1),
        Crashed(path=path, error=second),
        Escalated(
            path="top/inner",
            child=path,
            error=second,
            why="its supervisor had used up its 1 restarts within 5 s",
        ),
        Stopped(path=path, exit=Exit(Stop.CRASHED, second)),
        Crashed(path="top/inner", error=second),
        Stopped(path="top/inner", exit=Exit(Stop.CRASHED, second)),
    ]
    assert story[-1] == Stopped(path="top", exit=Exit(Stop.CLOSED))


async def test_events_of_a_subtree_only() -> None:
    async with open_supervisor() as top:
        inner = await top.spawn(Tree(name="inner"))
        async with inner.events() as events:
            await top.spawn(Probe, name="inner-2")
            await inner.spawn(Probe, name="p")
            async for event in events:
                assert event == Started(path="top/inner/p")
                break


async def test_a_slow_reader_of_events_loses_the_oldest_and_learns_how_many() -> None:
    async with open_supervisor() as top:
        async with top.events(buffer_size=3) as events:
            for _ in range(5):
                await top.spawn(Probe)
            received = [await anext(aiter(events)) for _ in range(4)]
        assert received == [
            Missed(count=2),
            Started(path="top/probe-3"),
            Started(path="top/probe-4"),
            Started(path="top/probe-5"),
        ]


async def test_iterating_events_ends_with_the_tree() -> None:
    seen: list[Event] = []
    async with trio.open_nursery() as nursery, open_supervisor() as top:

        async def watch(task_status: trio.TaskStatus[None]) -> None:
            async with top.events() as events:
                task_status.started()
                seen.extend([event async for event in events])

        await nursery.start(watch)
    assert seen == [Stopped(path="top", exit=Exit(Stop.CLOSED))]


async def test_an_observer_that_raises_is_logged_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Event] = []

    def bad(event: Event) -> None:
        seen.append(event)
        raise ValueError("observer")

    async def good(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        others.append(event)

    others: list[Event] = []
    async with open_supervisor(observers=(bad,)) as top:
        top.observe(good)
        ref = await top.spawn(Probe)
        assert await ref.ask(Probe.echo, 1) == 1
    assert len(seen) == 1
    assert [type(event) for event in others] == [Started, Stopped, Stopped]
    assert any("observer raised" in record.message for record in caplog.records)


async def test_an_observer_that_hangs_holds_up_neither_the_tree_nor_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def stuck(event: Event) -> None:
        await trio.sleep_forever()

    async with open_supervisor(observers=(stuck,)) as top:
        for _ in range(10):
            await top.spawn(Probe)
        assert trio.current_time() == 0
        await top.close()
        assert trio.current_time() == 0
    assert trio.current_time() <= 1


async def test_an_observer_that_raises_what_is_no_exception_closes_the_tree() -> None:
    def exiting(event: Event) -> None:
        raise SystemExit(3)

    journal = Journal()
    with pytest.raises(SystemExit):
        async with open_supervisor() as top:
            await top.spawn(partial(Probe, journal))
            top.observe(exiting)
            await top.spawn(Probe)
            await trio.sleep_forever()
    assert journal.kinds() == ["started", "stopping"]


async def test_an_observer_that_raises_an_old_cancelled_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept: list[BaseException] = []

    async def keep() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            kept.append(error)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    def observer(event: Event) -> None:
        raise kept[0]

    async with open_supervisor(observers=(observer,)) as top:
        ref = await top.spawn(Probe)
        await trio.testing.wait_all_tasks_blocked()
        assert await ref.ask(Probe.echo, 1) == 1
    assert any("observer raised" in record.message for record in caplog.records)


class BrokenLogger:
    """A logger that can write nothing."""

    def bind(self, **fields: object) -> "BrokenLogger":
        return self

    def debug(self, event: str, /, **fields: object) -> None:
        raise OSError("no room on the disk")

    info = warning = error = debug


async def test_a_logger_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with open_supervisor(logger=BrokenLogger()) as top:
        ref = await top.spawn(Probe)
        await trio.testing.wait_all_tasks_blocked()
        assert await ref.ask(Probe.echo, 1) == 1
    assert any("observer raised" in record.message for record in caplog.records)


async def test_who_watches_a_tree_that_has_ended_sees_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen: list[Event] = []
    async with open_supervisor() as top:
        await top.close()
        with trio.fail_after(1):
            async with top.events() as events:
                seen += [event async for event in events]
    top.observe(seen.append)
    await trio.testing.wait_all_tasks_blocked()
    assert seen == []


async def test_a_buffer_of_events_holds_at_least_one() -> None:
    async with open_supervisor() as top:
        with pytest.raises(SpecError, match="buffer_size=0"):
            async with top.events(buffer_size=0):
                pytest.fail("it cannot hold an event")
        with pytest.raises(SpecError, match="buffer_size=0"):
            top.observe(print, buffer_size=0)


async def test_what_happens_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "terzetto.actor")
    async with open_supervisor() as top:
        await top.spawn(Probe, name="p")
        await crash(top, "p", ValueError("logged"))
        await top.get("p", Probe).ask(Probe.echo, 1)
    levels = {
        record.getMessage().split(" actor=")[0]: record.levelname for record in caplog.records
    }
    assert levels == {
        "actor started": "DEBUG",
        "actor crashed": "ERROR",
        "actor restarted": "WARNING",
        "dead letter": "WARNING",
        "actor stopped": "DEBUG",
    }
    crashed = next(record for record in caplog.records if record.levelname == "ERROR")
    assert crashed.exc_info is not None
    assert str(crashed.exc_info[1]) == "logged"


async def test_an_error_that_comes_out_of_the_block_is_written_with_its_traceback_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            raise ValueError("told once")

    inner = Tree(name="inner", children=(Child(Broken, name="b"),))
    with pytest.raises(ValueError, match="told once"):
        async with open_tree(Tree(name="top", children=(inner,))):
            pytest.fail("it cannot be up")
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 1
    assert "actor='top/inner/b' error='ValueError: told once'" in tracebacks[0].getMessage()


async def test_a_start_that_a_stop_overtakes_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    class Asking(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            starting.set()
            await stopped.wait()
            await gone.ask(Probe.echo, 1)
            pytest.fail("it was closed")

    starting, stopped = trio.Event(), trio.Event()
    async with open_supervisor() as top:
        gone = await top.spawn(Probe)
        await gone.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(top.spawn, Asking, name="a"))
            await starting.wait()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        stopped.set()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_actors_own_log_has_its_path(caplog: pytest.LogCaptureFixture) -> None:
    class Logging(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.log.warning("hello", number=3)

    async with open_supervisor() as top:
        await top.spawn(Logging, name="l")
    assert [record.getMessage() for record in caplog.records] == ["hello actor='top/l' number=3"]


async def test_a_tree_describes_and_draws_itself(autojump_clock: trio.testing.MockClock) -> None:
    class Owner(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await super().started(ctx)
            await ctx.spawn(Probe, name="kid")

    tree = Tree(
        name="shop",
        strategy="rest_for_one",
        children=(
            Child(Owner, name="owner"),
            Tree(name="empty"),
            Child(Probe, name="busy", mailbox=5),
        ),
    )
    async with open_tree(tree) as top:
        await crash(top, "owner", ValueError())
        await trio.sleep(1)
        busy = top.get("busy", Probe)
        gate = trio.Event()
        for message in (gate, gate, gate):
            busy.tell_nowait(Probe.hold, message)
        await trio.sleep(2)
        picture = top.describe()
        assert [child.name for child in picture.children] == ["owner", "empty", "busy"]
        owner, empty, described = picture.children
        assert (owner.kind, owner.state, owner.restarts) == ("actor", "running", 1)
        assert owner.children[0].path == "shop/owner/kid"
        assert (empty.kind, empty.type_name) == ("supervisor", "one_for_one")
        assert (described.waiting, described.capacity, described.oldest) == (2, 5, 2.0)
        assert render(top) == "\n".join(  # noqa: FLY002 - one line a line
            [
                "shop (rest_for_one) running",
                "├─ owner (Owner) running, restarts 1",
                "│  └─ kid (Probe) running",
                "├─ empty (one_for_one) running, restarts 1",
                "└─ busy (Probe) running, restarts 1, mailbox 2/5, oldest 2.0 s",
            ]
        )
        assert render(picture) == render(top)
        gate.set()


async def test_dead_letters_are_counted_by_place_and_reason() -> None:
    class Plain(Actor):
        async def add(self, number: int) -> None:
            del number

    async with open_supervisor() as top:
        inner = await top.spawn(Tree(name="inner"))
        ref = await inner.spawn(Plain, name="p")
        for _ in range(2):
            ref.tell_nowait(Plain.add)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - the point
        await ref.ask(Plain.add, 1)
        await top.spawn(Probe, name="q")
        await crash(top, "q", ValueError())
        assert inner.dead_letters == {("top/inner/p", "misfit"): 2}
        assert top.dead_letters == {("top/inner/p", "misfit"): 2, ("top/q", "crashed"): 1}


async def test_actors_that_come_and_go_do_not_fill_the_memory_with_their_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("terzetto.actor._events.MAX_PLACES", 2)
    async with open_tree(Tree(name="top")) as top:
        for number in range(5):
            ref = await top.spawn(Probe, name=f"p{number}", restart="temporary")
            ref.tell_nowait(Probe.crash, ValueError())
            await ref.wait_stopped()
        counts = {("top/p0", "crashed"): 1, ("top/p1", "crashed"): 1}
        assert top.cell.system.hub.dead_letters == {**counts, ("", "crashed"): 3}


async def test_an_error_beside_a_cancelled_is_what_counts() -> None:
    class Both(Probe):
        async def both(self) -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                try:
                    await trio.lowlevel.checkpoint()
                except trio.Cancelled as cancelled:
                    kept.append(cancelled)
                    raise
            raise BaseExceptionGroup("both", [kept[0], ValueError("counts")])

    kept: list[BaseException] = []
    async with open_supervisor() as top:
        ref = await top.spawn(Both, restart="temporary")
        ref.tell_nowait(Both.both)
        error = (await ref.wait_stopped()).error
    assert isinstance(error, Exception), "a group without a Cancelled"
    assert describe_error(error) == "ExceptionGroup: both (ValueError: counts)"


async def test_the_state_of_a_ref_is_shown() -> None:
    async with open_supervisor() as top:
        journal = Journal()
        ref = await top.spawn(partial(Probe, journal))
        assert repr(ref) == "<Ref top/probe running>"
        await ref.close()
        assert repr(ref) == "<Ref top/probe stopped>"
        assert ref.is_stopped
        assert repr(top) == "<Supervisor top running, 0 children>"
