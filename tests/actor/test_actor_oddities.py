"""Odd ends and odd callers: each has an outcome that is stated, and none brings the tree down."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Never, cast

import attrs
import pytest
import trio
import trio.testing

from terzetto.actor import (
    Actor,
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
    Stop,
    Stopped,
    Tree,
    UnknownChildError,
    open_supervisor,
    open_tree,
)
from terzetto.testing import Journal, Probe

AT_ONCE = Backoff(first=0)


class Quitter(Probe):
    async def quit(self) -> None:
        assert self.ctx is not None
        self.ctx.stop()

    async def quit_and_crash(self) -> None:
        assert self.ctx is not None
        self.ctx.stop()
        raise ValueError("after ctx.stop()")


# Ends that meet each other ---------------------------------------------------------------


async def test_a_crash_after_ctx_stop_is_a_crash_and_the_next_life_takes_messages() -> None:
    async with open_supervisor(backoff=AT_ONCE) as top:
        ref = await top.spawn(Quitter)
        with pytest.raises(ActorCrashedError):
            await ref.ask(Quitter.quit_and_crash)
        await ref.tell(Probe.note, 1)
        assert await ref.ask(Probe.echo, 2) == 2


async def test_ctx_stop_in_the_closing_changes_nothing() -> None:
    class Late(Quitter):
        async def stopping(self, reason: Stop) -> None:
            await super().stopping(reason)
            await self.quit()

    journal = Journal()
    async with open_supervisor(backoff=AT_ONCE) as top:
        ref = await top.spawn(partial(Late, journal))
        ref.tell_nowait(Probe.crash, ValueError("crash"))
        ref.tell_nowait(Probe.note, 1)  # waits for the next life
        await journal.wait_for("note", 1)
        assert await ref.ask(Probe.echo, 2) == 2


async def test_a_permanent_child_that_ends_by_itself_too_often_fails_its_supervisor() -> None:
    with pytest.raises(ActorStoppedError, match="'top/quitter' has stopped by itself") as caught:
        async with open_supervisor(backoff=AT_ONCE, max_restarts=2) as top:
            ref = await top.spawn(Quitter, restart="permanent")
            for _ in range(3):
                await ref.ask(Quitter.quit)
                await trio.testing.wait_all_tasks_blocked()
            await trio.sleep_forever()
    assert caught.value.__notes__ == [
        "terzetto: 'top/quitter' ended, and its supervisor had used up its 2 restarts within 5 s"
    ]


async def test_an_old_crash_is_not_what_fails_the_supervisor() -> None:
    with pytest.raises(ActorStoppedError, match="has stopped by itself"):
        async with open_supervisor(backoff=AT_ONCE, max_restarts=1) as top:
            ref = await top.spawn(Quitter, restart="permanent")
            with pytest.raises(ActorCrashedError):
                await ref.ask(Probe.crash, ValueError("old"))
            await ref.ask(Quitter.quit)
            await trio.sleep_forever()


@pytest.mark.parametrize("restart", ["transient", "temporary", "permanent"])
async def test_a_tree_that_closes_by_itself_before_it_is_up(
    restart: Restart, autojump_clock: trio.testing.MockClock
) -> None:
    lives = Journal()

    class Short(Quitter):
        async def started(self, ctx: Context[Probe]) -> None:
            self.journal.write("started")
            ctx.stop()

    class Slow(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await trio.sleep_forever()

    inner = Tree(
        name="inner",
        restart=restart,
        auto_shutdown="any",
        children=(Child(partial(Short, lives), significant=True), Child(Slow, name="slow")),
    )
    tree = Tree(children=(inner, Child(Probe, name="other")), backoff=AT_ONCE, max_restarts=1)
    if restart == "permanent":
        with pytest.raises(ActorStoppedError, match="'tree/inner' has stopped by itself"):
            async with open_tree(tree):
                pytest.fail("it cannot be up")
        assert lives.kinds().count("started") == 2
        return
    async with open_tree(tree) as top:
        assert await top.get("other", Probe).ask(Probe.echo, 1) == 1
        assert [child.state for child in top.describe().children] == ["stopped", "running"]


@pytest.mark.parametrize("grace", [0.0, 1.0])
async def test_the_grace_of_a_tree_holds_from_its_first_moment(
    grace: float,
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await trio.sleep_forever()

    async with open_supervisor() as top:
        with trio.CancelScope() as scope:
            scope.cancel()
            await top.spawn(Tree(name="inner", grace=grace, children=(Child(Slow, grace=100.0),)))
        async with top.events() as events:
            async for event in events:
                if isinstance(event, Stopped) and event.path == "top/inner":
                    break
        assert trio.current_time() == grace


@pytest.mark.parametrize("dynamic", ["", "dynamic"])
async def test_without_grace_what_waits_is_cancelled_and_what_does_not_is_done(
    dynamic: str, autojump_clock: trio.testing.MockClock
) -> None:
    class Waiting(Probe):
        async def stopping(self, reason: Stop) -> None:
            await super().stopping(reason)
            await trio.sleep(1)
            pytest.fail("there is no time to wait")

    journal = Journal()
    async with open_supervisor(dynamic=bool(dynamic)) as top:
        for _ in range(3):
            ref = await top.spawn(partial(Waiting, journal), grace=0.0)
            ref.tell_nowait(Probe.hold, trio.Event())
        await trio.testing.wait_all_tasks_blocked()
    assert journal.kinds().count("held") == 0
    assert journal.kinds().count("stopping") == 3
    assert trio.current_time() == 0.0


# Children by name, by several at once ----------------------------------------------------


async def test_several_may_restart_one_child_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Probe, name="p")
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(top.restart_child, "p")
        assert await ref.ask(Probe.echo, 1) == 1


async def test_who_spawns_a_child_hears_of_it_though_others_restart_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await trio.sleep(1)

    async with open_supervisor() as top:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(top.spawn, Slow, name="p"))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(top.restart_child, "p")


async def test_several_may_remove_one_child_and_one_take_its_name() -> None:
    async with open_supervisor() as top:
        await top.spawn(Probe, name="p")
        failed: list[Exception] = []

        async def replace() -> None:
            try:
                await top.remove_child("p")
                await top.spawn(Probe, name="p")
            except (ChildNameError, UnknownChildError) as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(replace)
        assert len(failed) == 2
        assert await top.get("p", Probe).ask(Probe.echo, 1) == 1


async def test_a_cap_counts_living_children_only() -> None:
    async with open_supervisor(max_children=2) as top:
        for name in "ab":
            await top.spawn(Probe, name=name)
        with pytest.raises(ChildLimitError):
            await top.spawn(Probe)
        await top.stop_child("a")  # it stays listed
        await top.spawn(Probe, name="c")
        with pytest.raises(ChildLimitError):
            await top.start_child("a")


# Errors that cannot be handled like others -----------------------------------------------


@dataclass(frozen=True)
class FrozenError(Exception):
    number: int


class MuteError(Exception):
    def __str__(self) -> Never:
        raise RuntimeError("this error has no text")


class Raiser(Actor):
    async def raise_at_once(self, error: Exception) -> None:
        raise error

    async def raise_later(self, error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        raise error


@pytest.mark.parametrize("method", [Raiser.raise_at_once, Raiser.raise_later])
@pytest.mark.parametrize("error", [FrozenError(1), MuteError()], ids=["frozen", "mute"])
async def test_an_error_that_takes_no_note_or_has_no_text_is_a_crash_like_any(
    error: Exception, method: Callable[[Raiser, Exception], Any]
) -> None:
    with pytest.raises(type(error)) as caught:
        async with open_supervisor(max_restarts=0) as top:
            ref = await top.spawn(Raiser)
            with pytest.raises(ActorCrashedError) as asked:
                try:
                    raise ZeroDivisionError("what the asker is just handling")  # noqa: TRY301 - the point
                except ZeroDivisionError:
                    await ref.ask(method, error)
            assert asked.value.__cause__ is error
            await trio.sleep_forever()
    assert caught.value is error


def stray() -> BaseException:
    """Return a Cancelled that belongs to no scope any more."""
    kept: list[BaseException] = []

    async def get() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                kept.append(error)
                raise

    trio.run(get)
    return kept[0]


_STRAY = stray()
ERRORS: dict[str, Callable[[], BaseException]] = {
    "error": lambda: ValueError("odd"),
    "group": lambda: ExceptionGroup(
        "odd", [ValueError("one"), ExceptionGroup("two", [KeyError()])]
    ),
    "cancelled": lambda: _STRAY,
    "group of cancelled": lambda: BaseExceptionGroup("odd", [_STRAY]),
    "mixed": lambda: BaseExceptionGroup("odd", [_STRAY, ValueError("odd")]),
    "exit": lambda: SystemExit(3),
    "group of exit": lambda: BaseExceptionGroup("odd", [SystemExit(3)]),
}


@attrs.define
class Odd(Actor):
    """Raises in one place."""

    place: str
    error: BaseException
    up: trio.Event

    def raise_in(self, place: str) -> None:
        if place == self.place and not self.up.is_set():
            self.up.set()
            raise self.error

    async def started(self, ctx: Context["Odd"]) -> None:
        self.raise_in("started")
        ctx.after(0.1, Odd.tick)
        ctx.start_soon(self.work)

    async def tick(self) -> None:
        self.raise_in("timer")

    async def work(self) -> None:
        await trio.sleep(0.1)
        self.raise_in("background")

    async def handed_back(self, messages: object) -> None:
        self.raise_in("handed_back")

    async def stopping(self, reason: Stop) -> None:
        self.raise_in("stopping")

    async def hold(self) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("place", ["started", "timer", "background", "handed_back", "stopping"])
async def test_whatever_is_raised_wherever_is_a_crash_of_the_one_actor(
    place: str, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    error = ERRORS[kind]()
    is_fatal = "exit" in kind
    came_out: BaseException | None = None
    exits: list[Exit] = []
    try:
        async with open_supervisor(backoff=AT_ONCE) as top:
            other = await top.spawn(Probe)
            ref = await top.spawn(partial(Odd, place, error, trio.Event()), grace=1.0)
            await trio.sleep(1)
            assert await other.ask(Probe.echo, 1) == 1
            ref.tell_nowait(Odd.hold)
            ref.tell_nowait(Odd.hold)
            await trio.testing.wait_all_tasks_blocked()
            exits.append(await ref.close())
            await trio.sleep(1)
            assert await other.ask(Probe.echo, 1) == 1
    except BaseException as raised:  # noqa: BLE001 - looked at below
        came_out = raised
    if is_fatal:
        assert came_out is error
    elif place == "started":
        assert came_out is error or (kind != "error" and came_out is not None)
        assert not isinstance(came_out, trio.Cancelled)
    else:
        assert came_out is None
        crashed_late = place in {"handed_back", "stopping"}
        assert exits[0].reason is (Stop.CRASHED if crashed_late else Stop.CLOSED)
        assert not isinstance(exits[0].error, trio.Cancelled)


# Handlers that pass for others -----------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(inspect, "markcoroutinefunction"), reason="markcoroutinefunction: Python 3.12"
)
async def test_a_marked_function_is_no_brief_handler() -> None:
    async def wait() -> int:
        await trio.lowlevel.checkpoint()
        return 5

    def answer(_: Actor) -> Awaitable[int]:
        return wait()

    mark: Callable[[Any], Any] = getattr(inspect, "markcoroutinefunction")  # noqa: B009 - not in 3.11
    marked: Any = type("Marked", (Actor,), {"answer": mark(answer)})
    async with open_supervisor() as top:
        ref = cast("Ref[Any]", await top.spawn(marked))
        assert await ref.ask(marked.answer) == 5
        assert await ref.ask(marked.answer) == 5
