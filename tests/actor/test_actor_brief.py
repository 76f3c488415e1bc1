"""Handlers that wait for nothing, which the asker's task may run: little tells the difference."""

from contextvars import ContextVar
from functools import partial

import attrs
import pytest
import trio

from terzetto.actor import (
    ActorCrashedError,
    ActorStoppedError,
    Context,
    DeadLetter,
    Event,
    MessageError,
    Reject,
    Restarted,
    Stop,
    open_supervisor,
)
from terzetto.testing import Journal, Probe

where: ContextVar[str] = ContextVar("where", default="nowhere")


@attrs.define
class Brief(Probe):
    """A probe whose messages, but for `later`, wait for nothing."""

    number: int = 0
    is_busy: bool = False

    async def started(self, ctx: Context[Probe]) -> None:
        await super().started(ctx)
        where.set("the actor")

    async def add(self, number: int) -> int:
        assert not self.is_busy, "two handlers at a time"
        self.number += number
        return self.number

    async def add_slowly(self, number: int) -> None:
        self.is_busy = True
        await trio.lowlevel.checkpoint()
        self.is_busy = False
        await self.add(number)

    async def look(self) -> tuple[str, trio.lowlevel.Task]:
        found = where.get()
        where.set("the handler")
        return found, trio.lowlevel.current_task()

    async def later(self) -> trio.lowlevel.Task:
        await trio.lowlevel.checkpoint()
        return trio.lowlevel.current_task()

    async def refuse(self) -> None:
        raise Reject(KeyError("no"))

    async def stop_and(self, error: BaseException | None) -> str:
        assert self.ctx is not None
        self.ctx.ref.tell_nowait(Probe.note, "behind")
        self.ctx.stop()
        if error is not None:
            raise error
        return "stopped"


async def test_a_handler_without_an_await_runs_in_its_askers_task_and_in_the_actors_context() -> (
    None
):
    async with open_supervisor() as top:
        ref = await top.spawn(Brief)
        here = trio.lowlevel.current_task()
        assert await ref.ask(Brief.look) == ("the actor", here)
        assert await ref.ask(Brief.look) == ("the handler", here)
        assert where.get() == "nowhere"
        assert await ref.ask(Brief.later) is not here
        ref.tell_nowait(Brief.add, 1)  # the actor rests no more
        assert (await ref.ask(Brief.look))[1] is not here


async def test_such_an_ask_is_a_cancel_point_and_a_schedule_point() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(Brief)
        nursery.start_soon(count)
        for _ in range(10):
            await ref.ask(Brief.add, 1)
        assert turns >= 8  # the order within a turn is left to chance
        with trio.CancelScope() as scope:
            scope.cancel()
            await ref.ask(Brief.add, 1)
        assert scope.cancelled_caught
        assert await ref.ask(Brief.add, 0) == 10
        nursery.cancel_scope.cancel()


async def test_it_comes_after_what_its_sender_told_before() -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Brief)
        for number in range(1, 5):
            await ref.tell(Brief.add, number)
            assert await ref.ask(Brief.add, 0) == sum(range(number + 1))


async def test_it_refuses_and_misfits_like_any_other() -> None:
    async with open_supervisor(max_restarts=0) as top:
        ref = await top.spawn(Brief)
        with pytest.raises(KeyError, match="no"):
            await ref.ask(Brief.refuse)
        with pytest.raises(MessageError, match=r"Brief\.add.*missing 1 required"):
            await ref.ask(Brief.add)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - the point
        assert await ref.ask(Brief.add, 1) == 1


async def test_its_crash_is_a_crash_in_the_actors_own_task() -> None:
    events: list[Event] = []
    journal = Journal()
    crash = ValueError("brief")
    async with open_supervisor(observers=(events.append,)) as top:
        ref = await top.spawn(partial(Brief, journal), name="brief")
        try:
            _ = dict[str, int]()["of the asker"]
        except KeyError:
            with pytest.raises(ActorCrashedError, match="brief") as caught:
                await ref.ask(Probe.crash, crash)
            assert caught.value.__cause__ is crash
        assert crash.__context__ is None, "what the asker was handling is no part of the crash"
        assert await ref.ask(Brief.add, 1) == 1
        assert top.dead_letters == {("top/brief", "crashed"): 1}
    assert any(isinstance(event, Restarted) for event in events)
    letters = [event for event in events if isinstance(event, DeadLetter)]
    assert [(letter.message.name, letter.error) for letter in letters] == [("crash", crash)]
    assert journal.kinds() == ["started", "stopping", "started", "stopping"]


async def test_a_captured_cancelled_that_it_raises_is_a_crash() -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Brief)
        captured: trio.Cancelled | None = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                captured = error
                raise
        assert captured is not None
        with pytest.raises(ActorCrashedError, match="belongs to no scope"):
            await ref.ask(Probe.crash, captured)


@pytest.mark.parametrize("error", [None, ValueError("after all")])
async def test_it_may_stop_its_actor(error: Exception | None) -> None:
    journal = Journal()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Brief, journal), restart="temporary")
        if error is None:
            assert await ref.ask(Brief.stop_and, None) == "stopped"
        else:
            with pytest.raises(ActorCrashedError, match="after all"):
                await ref.ask(Brief.stop_and, error)
        exit_ = await ref.wait_stopped()
        assert (exit_.reason, exit_.error) == (
            (Stop.NORMAL, None) if error is None else (Stop.CRASHED, error)
        )
        assert journal.values("note") == []
        with pytest.raises(ActorStoppedError):
            await ref.ask(Brief.add, 1)


async def test_only_one_handler_runs_at_a_time() -> None:
    async with open_supervisor(max_restarts=0) as top, trio.open_nursery() as nursery:
        ref = await top.spawn(Brief)

        async def ask() -> None:
            for _ in range(50):
                await ref.ask(Brief.add, 1)

        async def tell() -> None:
            for _ in range(50):
                await ref.tell(Brief.add_slowly, 1)
                await trio.lowlevel.checkpoint()

        for _ in range(5):
            nursery.start_soon(ask)
            nursery.start_soon(tell)
    assert ref.is_stopped


async def test_ctrl_c_in_it_closes_the_tree() -> None:
    with pytest.raises(KeyboardInterrupt):
        async with open_supervisor() as top:
            ref = await top.spawn(Brief)
            with pytest.raises(ActorCrashedError, match="KeyboardInterrupt"):
                await ref.ask(Probe.crash, KeyboardInterrupt())
            await trio.sleep_forever()
