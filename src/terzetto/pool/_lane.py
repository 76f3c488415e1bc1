"""The lanes of a worker: the orders for one key, carried out one after the other.

A lane is a task of the worker's; it comes with the first order for its key and ends when
there are none. Keys are independent, so a slow start holds up nobody but those who speak
of the same job. A start that waits for nothing needs none.

A place can be reserved for a job whose dispatch is still on its way to Redis: a lane
where orders wait until the job comes or the place is given up. Its task is made ready while
Redis is asked, which is nothing that the question has to wait for.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context

import attrs
import trio

from terzetto.pool._names import START
from terzetto.pool._order import RETRY, Order

Spawn = Callable[..., trio.CancelScope]


@attrs.define(eq=False)
class Lane:
    """The orders for one key; the first is being carried out, unless the lane is reserved."""

    key: str
    orders: deque[Order] = attrs.field(factory=deque)
    scope: trio.CancelScope | None = None
    """The scope of its task, once it has one."""
    reserved: trio.Event | None = None
    """What its task waits for, if it is a place that is kept."""


@attrs.define(eq=False)
class Lanes:
    """All lanes of one worker."""

    spawn: Spawn
    carry_out: Callable[[Order], Awaitable[None]]
    start_now: Callable[[Order], bool]
    """Carries out a start that waits for nothing, in this very turn; False for all others."""
    broken_off: list[Order] = attrs.field(factory=list[Order])
    """Starts that were broken off: whoever asked is to be told once the job has ended here,
    lest it be started elsewhere while it still runs."""
    abandoned: list[str] = attrs.field(factory=list[str])
    """Keys whose places were kept when the lanes ended: their jobs may be this worker's by now."""
    _context: Context = attrs.field(factory=copy_context)
    """What handlers see of context variables, whatever task brings an order."""
    _lanes: dict[str, Lane] = attrs.field(factory=dict[str, Lane])
    _done: trio.Event = attrs.field(factory=trio.Event)

    def __contains__(self, key: str) -> bool:
        return key in self._lanes

    def accept(self, order: Order) -> None:
        """Put an order into its lane; a start that is told again shares the first one's outcome."""
        lane = self._lanes.get(order.key)
        if lane is None:
            if self._is_done(order):
                return
            lane = self._lanes[order.key] = Lane(order.key)
            lane.orders.append(order)
            self._start(lane)
        elif lane.orders and order.repeats(lane.orders[-1]):
            lane.orders[-1].replies += order.replies
        else:
            lane.orders.append(order)

    def awaits(self, name: str, key: str) -> bool:
        """Tell whether an order of that name for a key is there."""
        lane = self._lanes.get(key)
        return lane is not None and any(order.name == name for order in lane.orders)

    def reserve(self, key: str) -> bool:
        """Keep the place of a key that nobody speaks of; False if somebody does."""
        if key in self._lanes:
            return False
        self._lanes[key] = Lane(key, reserved=trio.Event())
        return True

    def make_ready(self, key: str) -> None:
        """Start the task of a place that was just reserved; else that waits until it is filled."""
        lane = self._lanes.get(key)
        if lane is not None and lane.reserved is not None:
            self._start(lane)

    def is_reserved(self, key: str) -> bool:
        """Tell whether the place of a key is kept."""
        lane = self._lanes.get(key)
        return lane is not None and lane.reserved is not None

    def fill(self, order: Order) -> None:
        """Put the order into the place that was kept for it, before all that wait there."""
        if self._is_done(order):
            self.give_up(order.key)
            return
        lane = self._lanes[order.key]
        lane.orders.appendleft(order)
        self._open(lane)

    def give_up(self, key: str) -> None:
        """Keep a place no longer."""
        lane = self._lanes.get(key)
        if lane is not None and lane.reserved is not None:
            if not lane.orders:
                self._remove(lane)
            self._open(lane)

    async def end(self) -> None:
        """End every lane: a start is broken off, a stop or a move is let finish.

        Orders that wait are asked again, elsewhere.
        """
        for lane in list(self._lanes.values()):
            while len(lane.orders) > (1 if lane.reserved is None else 0):
                lane.orders.pop().reply(RETRY)
            if lane.reserved is not None:
                self.abandoned.append(lane.key)
                self._remove(lane)
                self._open(lane)
            elif lane.orders[0].name == START and lane.scope is not None:
                lane.scope.cancel()
        while self._lanes:
            if self._done.is_set():  # if not, others may be waiting for it
                self._done = trio.Event()
            await self._done.wait()

    def _is_done(self, order: Order) -> bool:
        """Carry out an order that needs no lane, with the context variables that it would have."""
        return self._context.copy().run(self.start_now, order)

    def _open(self, lane: Lane) -> None:
        """Let the task of a place that was kept go on, if there is something to do."""
        if lane.reserved is not None:
            lane.reserved.set()
            lane.reserved = None
        if lane.scope is None and lane.orders:
            self._start(lane)

    def _start(self, lane: Lane) -> None:
        lane.scope = self._context.run(self.spawn, self._run, lane, lane.reserved)

    async def _run(self, lane: Lane, opened: trio.Event | None) -> None:
        try:
            if opened is not None:
                await opened.wait()
            while lane.orders:
                await self.carry_out(lane.orders[0])
                lane.orders.popleft()
        finally:
            if lane.orders:
                self.broken_off.append(lane.orders[0])
            if self._lanes.get(lane.key) is lane:  # a place that was given up is none any more
                self._remove(lane)

    def _remove(self, lane: Lane) -> None:
        del self._lanes[lane.key]
        if not self._lanes:
            self._done.set()
