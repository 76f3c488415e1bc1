"""Every public await of the kernel is cancelled while it waits, and leaves everything in order."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from terzetto.actor import (
    Context,
    Exit,
    Ref,
    Stop,
    Supervisor,
    Tree,
    as_channel,
    feed,
    open_supervisor,
    run_actor,
    serve,
)
from terzetto.testing import Journal, Probe


class SlowStart(Probe):
    async def started(self, ctx: Context[Probe]) -> None:
        await trio.sleep_forever()


async def forever() -> AsyncIterator[int]:
    while True:
        yield 1


async def watch(top: Supervisor) -> None:
    async with top.events() as events:
        async for _ in events:
            pass


WAITS: dict[str, Callable[[Supervisor, Ref[Probe]], Awaitable[object]]] = {
    "tell": lambda top, ref: ref.tell(Probe.note, 1),
    "ask": lambda top, ref: ref.ask(Probe.echo, 1),
    "close": lambda top, ref: ref.close(),
    "shutdown": lambda top, ref: ref.shutdown(),
    "wait_stopped": lambda top, ref: ref.wait_stopped(),
    "as_channel": lambda top, ref: as_channel(ref, Probe.note).send(1),
    "feed": lambda top, ref: feed(ref, Probe.note, forever()),
    "spawn": lambda top, ref: top.spawn(SlowStart, name="slow", grace=0.5),
    "stop_child": lambda top, ref: top.stop_child("held"),
    "restart_child": lambda top, ref: top.restart_child("held"),
    "remove_child": lambda top, ref: top.remove_child("held"),
    "supervisor.close": lambda top, ref: top.close(),
    "supervisor.shutdown": lambda top, ref: top.shutdown(),
    "supervisor.wait_stopped": lambda top, ref: top.wait_stopped(),
    "events": lambda top, ref: watch(top),
    "run_actor": lambda top, ref: run_actor(Probe),
    "serve": lambda top, ref: serve(Tree()),
}


@pytest.mark.parametrize("name", WAITS)
async def test_a_wait_that_is_cancelled_ends_at_once_and_harms_nobody(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    journal, gate = Journal(), trio.Event()
    async with open_supervisor() as top:
        ref = await top.spawn(partial(Probe, journal), name="held", mailbox=1, grace=20.0)
        other = await top.spawn(Probe, name="other")
        ref.tell_nowait(Probe.hold, gate)
        await journal.wait_for("holding")
        ref.tell_nowait(Probe.note, "in the mailbox")
        with trio.move_on_after(1) as scope:
            await WAITS[name](top, ref)
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(1)
        if not name.startswith("supervisor."):
            assert await other.ask(Probe.echo, 1) == 1
            await trio.sleep(1)
            assert "slow" not in top.children
        gate.set()
        if name == "restart_child":
            await journal.wait_for("started", count=2)
        await ref.shutdown()
    handled = journal.values("note") + [
        args[0] for m in journal.values("handed_back") for _, args in m
    ]
    assert handled == ["in the mailbox"]
    assert await other.wait_stopped() == Exit(
        Stop.SHUTDOWN if name == "supervisor.shutdown" else Stop.CLOSED
    )


@pytest.mark.parametrize("name", WAITS)
async def test_a_wait_in_a_cancelled_scope_is_a_cancel_point(name: str) -> None:
    async with open_supervisor() as top:
        ref = await top.spawn(Probe, name="held")
        with trio.CancelScope() as scope:
            scope.cancel()
            await WAITS[name](top, ref)
            if name not in ("as_channel", "close"):
                raise AssertionError("it was no cancel point")
        assert scope.cancelled_caught
