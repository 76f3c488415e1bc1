"""The lanes of a worker: whoever ends them hears of it."""

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from terzetto.pool._lane import Lanes
from terzetto.pool._names import STOP
from terzetto.pool._order import Order


async def test_everybody_who_ends_the_lanes_waits_for_the_same_end() -> None:
    """A worker that leaves and is found to be evicted ends them twice at the same time."""
    may_end = trio.Event()
    ended: list[str] = []

    async def carry_out(order: Order) -> None:
        await may_end.wait()
        ended.append(order.key)

    async with trio.open_nursery() as nursery:

        def spawn(lane: Callable[..., Awaitable[None]], *args: object) -> trio.CancelScope:
            nursery.start_soon(lane, *args)
            return trio.CancelScope()  # no start is broken off here

        lanes = Lanes(spawn, carry_out, lambda _: False)
        lanes.accept(Order(STOP, "a"))
        with trio.fail_after(10):
            async with trio.open_nursery() as callers:
                for _ in range(2):
                    callers.start_soon(lanes.end)
                await trio.testing.wait_all_tasks_blocked()
                assert ended == []
                may_end.set()
        assert ended == ["a"]
        await lanes.end()  # there is nothing more to wait for
