"""The bounded buffer between a polling loop and those who take events from it.

No Redis here. The loops put batches in as long as there is room; any number of
tasks take events out, each event going to one of them. A loop asks `room`
before it polls and sleeps on `wanted` while there is none, so a task that does
not take stops the polling and nothing else.

Events stay in the batches they arrived in: a batch came with one reply, so one
claim and one time hold for all of it, and a sink renews or drops it as a whole.
"""

from collections import deque
from collections.abc import Collection, Iterable

import attrs
import trio
from trio.lowlevel import ParkingLot, checkpoint, checkpoint_if_cancelled

from terzetto.streaming._event import Event

# A task that takes from a full buffer never has to wait, so it gives way to the
# others by itself: a full checkpoint for every so many events.
_EVENTS_PER_CHECKPOINT = 64

_FEW = 10  # events whose takers do not have to wait for the next read to be sent
_TURNS = 3  # of the scheduler: the taker's, that of a task which it wakes, and then ours


@attrs.define(eq=False)
class Batch:
    """Events of one stream that came together.

    Attributes:
        stream: the stream's name.
        events: those not taken yet, in order.
        consumer: for which consumer of the group they were delivered; "" for a reader.
        since: when its claim was made or last renewed, by `trio.current_time()`.
    """

    stream: str
    events: deque[Event]
    consumer: str = ""
    since: float = 0.0


class Signal:
    """Tells loops that something has changed; a loop that looked before the change looks again.

    A loop notes `count`, looks at the state, and waits with what it noted. However
    often it is raised meanwhile, the loop goes on once.
    """

    __slots__ = ("_event", "_waited_for", "count")

    def __init__(self) -> None:
        self.count = 0
        self._event = trio.Event()
        self._waited_for = False

    def raise_(self) -> None:
        """Let all loops look again that have looked until now."""
        self.count += 1
        if self._waited_for:
            self._waited_for = False
            self._event.set()
            self._event = trio.Event()

    async def wait(self, seen: int) -> None:
        """Sleep until it has been raised since `count` was `seen`."""
        if self.count != seen:
            await checkpoint()
        else:
            self._waited_for = True
            await self._event.wait()


class Buffer:
    """A bounded queue of batches."""

    def __init__(self, size: int, wanted: Signal, *, lapse: float | None = None) -> None:
        """Make a buffer of `size` events.

        Args:
            size: how many events it holds at most.
            wanted: raised when the loops should poll again.
            lapse: a batch older than this many seconds, which may be infinite, is
                dropped untaken, and `last_taken` is kept; None does neither, and
                takes no time.
        """
        self.size = size
        self._low = size // 2  # so few or fewer events ask for more
        self._wanted = wanted
        self._lapse = lapse
        self._batches: deque[Batch] = deque()
        self._length = 0
        self._taken = 0
        self._fresh = 0  # events of the last batch, until somebody gives way to their takers
        self._waiting = ParkingLot()
        self._looked_at = 0.0
        self.last_taken = float("-inf")
        self.is_closed = False

    def __len__(self) -> int:
        return self._length

    @property
    def room(self) -> int:
        """How many events a poll may bring; 0 until half of the buffer is free.

        Polling for each place that becomes free would mean a round trip for
        each event.
        """
        return self.size - self._length if self._length <= self._low else 0

    @property
    def free(self) -> int:
        """How many more events fit."""
        return self.size - self._length

    @property
    def tasks_waiting(self) -> int:
        """How many tasks wait for an event at this moment."""
        return len(self._waiting)

    def batches(self) -> tuple[Batch, ...]:
        """Return the batches that still have events, oldest first."""
        return tuple(self._batches)

    def put(self, batch: Batch) -> None:
        """Add a batch; the loop has looked for room before it asked Redis for one."""
        if batch.events and not self.is_closed:
            self._batches.append(batch)
            self._fresh = len(batch.events)
            self._length += self._fresh
            self._waiting.unpark(count=len(batch.events))

    def drop(self, batch: Batch, ids: Iterable[str] | None = None) -> None:
        """Take events out that are not ours any more: those with `ids`, or all of the batch."""
        if batch not in self._batches:
            return
        before = len(batch.events)
        if ids is None:
            batch.events.clear()
        else:
            gone = set(ids)
            batch.events = deque(event for event in batch.events if event.id not in gone)
        self._length -= before - len(batch.events)
        if not batch.events:
            self._batches.remove(batch)
        self._ask_for_more()

    def drop_all(self, streams: Collection[str] | None = None) -> list[Batch]:
        """Take out all batches, or those of some streams; return them with their events."""
        dropped = [batch for batch in self._batches if streams is None or batch.stream in streams]
        for batch in dropped:
            self._batches.remove(batch)
            self._length -= len(batch.events)
        self._ask_for_more()
        return dropped

    def close(self) -> None:
        """Take no more; wake all who wait."""
        self.is_closed = True
        self._waiting.unpark_all()

    def reopen(self) -> None:
        """Take events again, after the component was started anew."""
        self.is_closed = False

    async def give_way(self) -> None:
        """Let those go first who have just been given few events.

        What they do with them would wait while the next read is packed and sent.
        """
        is_few, self._fresh = 0 < self._fresh <= _FEW, 0
        if is_few:
            for _ in range(_TURNS):
                await checkpoint()

    async def take(self) -> Event | None:
        """Wait for an event; None when the buffer is closed and empty.

        Cancelling takes nothing.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return None

    def __aiter__(self) -> "Buffer":
        return self

    async def __anext__(self) -> Event:
        """Wait for an event; the iteration ends when the buffer is closed and empty.

        Cancelling takes nothing. Iterations over readers and sinks come here for
        every event, with nothing in between, and this does no more than it has to.
        """
        self._taken += 1
        if self._taken % _EVENTS_PER_CHECKPOINT:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()
        batches = self._batches
        while not batches or (self._lapse is not None and not self._look()):
            if self.is_closed:
                raise StopAsyncIteration
            await self._sleep()
        events = batches[0].events
        event = events.popleft()
        if not events:
            batches.popleft()
        self._length = length = self._length - 1
        if length == self._low:  # it falls by one: below, the loops have been told
            self._wanted.raise_()
        if self._lapse is not None:
            self.last_taken = self._looked_at
        return event

    async def take_many(self, limit: int) -> list[Event] | None:
        """Wait for events; return all there are, `limit` at most; None when closed and empty.

        Cancelling takes nothing.
        """
        await checkpoint()
        while not self._look():
            if self.is_closed:
                return None
            await self._sleep()
        taken: list[Event] = []
        while len(taken) < limit and self._look():
            batch = self._batches[0]
            if len(taken) + len(batch.events) <= limit:
                taken += batch.events
                self._batches.popleft()
            else:
                taken += [batch.events.popleft() for _ in range(limit - len(taken))]
        self._length -= len(taken)
        self.last_taken = self._looked_at
        self._ask_for_more()
        return taken

    def _look(self) -> bool:
        """Drop what has lapsed; tell whether anything is left."""
        self._looked_at = now = trio.current_time()
        while self._batches:
            batch = self._batches[0]
            if self._lapse is None or now - batch.since < self._lapse:
                return True
            self._length -= len(batch.events)
            self._batches.popleft()
        return False

    def _ask_for_more(self) -> None:
        if self._length <= self._low:
            self._wanted.raise_()

    async def _sleep(self) -> None:
        self._wanted.raise_()
        await self._waiting.park()
