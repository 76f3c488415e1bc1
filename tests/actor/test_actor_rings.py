"""Waits that could never end: each raises, in whoever closes the ring, instead of hanging."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from terzetto.actor import (
    ActorCrashedError,
    AskCycleError,
    Backoff,
    Child,
    Context,
    Message,
    Ref,
    Stop,
    Supervisor,
    Tree,
    open_supervisor,
    open_tree,
)
from terzetto.testing import Probe

AT_ONCE = Backoff(first=0)


@attrs.define
class Caller(Probe):
    """Calls what it is given once it is started again."""

    calls: list[Callable[[], Awaitable[Any]]] = attrs.field(
        factory=list[Callable[[], Awaitable[Any]]]
    )

    async def started(self, ctx: Context[Probe]) -> None:
        await super().started(ctx)
        for call in self.calls:
            await call()


async def cause_of(wait: Awaitable[Any]) -> BaseException | None:
    """Return what the asked actor crashed with; fail if it hangs."""
    with trio.fail_after(100), pytest.raises(ActorCrashedError) as caught:
        await wait
    return caught.value.__cause__


@pytest.mark.parametrize("whose", ["own", "supervisor", "root"])
async def test_an_actor_cannot_wait_for_its_own_end_unasked(
    whose: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_supervisor() as top:
        inner = await top.spawn(Tree(name="inner"))
        ref = await inner.spawn(Probe)
        waits = {
            "own": ref.wait_stopped,
            "supervisor": inner.wait_stopped,
            "root": top.wait_stopped,
        }
        assert isinstance(await cause_of(ref.ask(Probe.call, waits[whose])), AskCycleError)


@pytest.mark.parametrize("what", ["wait_stopped", "shutdown"])
async def test_two_actors_that_wait_for_answer_and_end_of_each_other(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_supervisor() as top:
        waiter = await top.spawn(Probe, name="waiter")
        other = await top.spawn(Probe, name="other", restart="temporary")

        async def wait() -> Stop:
            other.tell_nowait(Probe.call, partial(waiter.ask, Probe.echo, 1))
            exit_ = await (other.wait_stopped() if what == "wait_stopped" else other.shutdown())
            assert isinstance(exit_.error, AskCycleError)
            return exit_.reason

        with trio.fail_after(100):
            assert await waiter.ask(Probe.call, wait) is Stop.CRASHED


async def test_one_who_asks_already_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top:
        waiter = await top.spawn(Probe, name="waiter")
        other = await top.spawn(Probe, name="other")

        async def wait() -> None:
            other.tell_nowait(Probe.call, partial(waiter.ask, Probe.echo, 1))
            await trio.testing.wait_all_tasks_blocked()
            await other.shutdown()

        error = await cause_of(waiter.ask(Probe.call, wait))
        assert str(error).startswith(
            "this would wait forever: top/waiter waits for top/other waits for top/waiter"
        )
        assert not other.is_stopped, "the shutdown was not begun"


async def test_a_close_is_no_ring_it_ends_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with open_supervisor() as top:
        waiter = await top.spawn(Probe, name="waiter")
        other = await top.spawn(Probe, name="other", grace=3.0)

        async def wait() -> Stop:
            other.tell_nowait(Probe.call, partial(waiter.ask, Probe.echo, 1))
            await trio.testing.wait_all_tasks_blocked()
            return (await other.close()).reason

        assert await waiter.ask(Probe.call, wait) is Stop.CLOSED
        assert trio.current_time() == 3.0


async def test_one_below_a_tree_that_is_shut_down_cannot_ask_who_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Owner(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            await super().started(ctx)
            await ctx.spawn(Probe, name="child", restart="temporary")

    async with open_supervisor() as top:
        waiter = await top.spawn(Probe, name="waiter")
        inner = await top.spawn(Tree(name="inner", children=(Child(Owner, name="owner"),)))
        child = top.get("inner/owner/child", Probe)
        gate = trio.Event()

        async def ask_later() -> None:
            await gate.wait()
            await waiter.ask(Probe.echo, 1)

        child.tell_nowait(Probe.call, ask_later)

        async def wait() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(inner.shutdown)
                await trio.testing.wait_all_tasks_blocked()
                gate.set()

        with trio.fail_after(100):
            await waiter.ask(Probe.call, wait)
        assert isinstance((await child.wait_stopped()).error, AskCycleError)


async def test_a_child_that_asks_the_actor_which_restarts_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls: list[Callable[[], Awaitable[Any]]] = []
    with trio.fail_after(100), pytest.raises(AskCycleError):
        async with open_supervisor() as top:
            waiter = await top.spawn(Probe, name="waiter")
            await top.spawn(partial(Caller, calls=calls), name="child")
            calls.append(lambda: waiter.ask(Probe.echo, 1))
            await cause_of(waiter.ask(Probe.call, partial(top.restart_child, "child")))
            await trio.sleep_forever()


@pytest.mark.parametrize("what", ["ask", "spawn"])
async def test_a_start_cannot_wait_for_one_that_comes_after_it(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    calls: list[Callable[[], Awaitable[Any]]] = []
    tree = Tree(
        strategy="one_for_all",
        backoff=AT_ONCE,
        max_failed_starts=0,
        children=(Child(partial(Caller, calls=calls), name="a"), Child(Probe, name="b")),
    )
    with trio.fail_after(100), pytest.raises(AskCycleError):
        async with open_tree(tree) as top:
            later = top.get("b", Probe)
            calls.append(
                (lambda: later.ask(Probe.echo, 1))
                if what == "ask"
                else (lambda: top.spawn(Probe, name="c"))
            )
            later.tell_nowait(Probe.crash, ValueError("crash"))
            await trio.sleep_forever()


async def test_a_start_may_wait_for_one_that_waits_for_its_time_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor(backoff=Backoff(first=10.0, ceiling=10.0)) as top:
        other = await top.spawn(Probe, name="other")
        other.tell_nowait(Probe.crash, ValueError("crash"))
        await trio.testing.wait_all_tasks_blocked()
        calls: list[Callable[[], Awaitable[Any]]] = [lambda: other.ask(Probe.echo, 1)]
        await top.spawn(partial(Caller, calls=calls), name="caller")


async def test_a_ring_over_three_with_one_that_has_its_own_run(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Runner(Probe):
        async def run(self, ctx: Context[Probe], inbox: trio.MemoryReceiveChannel[Message]) -> None:
            async for message in inbox:
                await message.handle(self)

    async def pass_on(*refs: Ref[Probe]) -> object:
        if len(refs) == 1:
            return await refs[0].ask(Probe.echo, "round")
        return await refs[0].ask(Probe.call, partial(pass_on, *refs[1:]))

    async with open_supervisor() as top:
        a = await top.spawn(Probe, name="a", restart="temporary")
        b = await top.spawn(Runner, name="b", restart="temporary")
        c = await top.spawn(Probe, name="c", restart="temporary")
        error: BaseException | None
        with trio.fail_after(100), pytest.raises(ActorCrashedError) as caught:
            await pass_on(a, b, c, a)
        error = caught.value
        while isinstance(error, ActorCrashedError):
            error = error.__cause__
        assert isinstance(error, AskCycleError)
        assert "top/c waits for top/a waits for top/b waits for top/c" in str(error)


async def test_who_waits_from_outside_is_never_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor() as top, trio.open_nursery() as nursery:
        ref = await top.spawn(Probe)
        waits: list[Callable[[], Awaitable[Any]]] = [ref.wait_stopped, top.wait_stopped]
        for wait in waits:
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        supervisor: Supervisor = top
        await supervisor.shutdown()


async def test_who_has_waited_waits_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with open_supervisor() as top:
        a = await top.spawn(Probe, name="a", mailbox=1)
        b = await top.spawn(Probe, name="b", mailbox=1)

        async def wait_in_every_way() -> None:
            await b.ask(Probe.echo, 1)
            await b.ask(Probe.call, trio.lowlevel.checkpoint)
            with trio.move_on_after(1):
                await b.ask(Probe.hold, trio.Event())
            b.tell_nowait(Probe.call, partial(trio.sleep, 1))
            with trio.move_on_after(0.5):
                for _ in range(3):
                    await b.tell(Probe.note, 1)
            with trio.move_on_after(0.5):
                await b.wait_stopped()
            await top.restart_child("b")

        async def ask_back() -> None:
            await a.ask(Probe.call, trio.lowlevel.checkpoint)

        await a.ask(Probe.call, wait_in_every_way)
        await b.ask(Probe.call, ask_back)


@pytest.mark.parametrize("turns", range(8))
async def test_an_asker_may_leave_while_its_deadline_is_looked_for(
    turns: int, autojump_clock: trio.testing.MockClock
) -> None:
    class Looking(Probe):
        async def look(self) -> float:
            assert self.ctx is not None
            return await self.ctx.deadline()

    async with open_supervisor(max_restarts=0) as top:
        middle = await top.spawn(Probe, name="middle")
        looking = await top.spawn(Looking, name="looking")

        async def leave_early() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(looking.ask, Looking.look)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

        with trio.fail_after(10):
            await middle.ask(Probe.call, leave_early)
            assert await looking.ask(Looking.look) == 10.0
