"""Lanes: one blocking read for each slot whose streams a reader or sink reads.

Theory of operation
-------------------
A server answers one XREAD or XREADGROUP for several streams only if they share
a slot, even where it owns the slots of all of them, and a connection that waits
for one slot can wait for no other. So the streams of a slot make a lane, with a
dedicated link that follows the slot's owner and with loops of its own: what
holds up one owner, such as a fail-over, holds up the lanes of its slots and no
other. Where there is no cluster all streams are in one slot, and in one lane.

A lane begins with its first stream and ends when its loop finds that the last
one has gone. Between a loop's finding that and the lane's leaving the table there
is no checkpoint, so a stream that comes finds a lane that goes on, or none.

All lanes put into the same buffers. Each reserves room before it reads, so that
reads under way bring no more than there is room for; a lane may always read one
event into an empty buffer, however many lanes there are. A server's COUNT is for each
stream, so a lane shares its room out among its streams, and one event of each may
always come. Where events are so big that a reply was longer than the link takes, the
lane asks for fewer until a read has brought all there was.

The lanes outlive restarts of the actor that runs their loops. Used by the
engines of readers and sinks.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from typing import Final, Protocol, TypeAlias, TypeVar

import attrs
import trio
from redis.exceptions import RedisError

from terzetto.actor import ActorStoppedError
from terzetto.redis import Redis, ReplyTooLongError
from terzetto.streaming._buffer import Signal
from terzetto.streaming._claims import Dues
from terzetto.streaming._names import stream_key
from terzetto.streaming._poll import Poll

T = TypeVar("T")

_ANY: Final = 2**63 - 1
_LESS: Final = 4  # times fewer events in the read after one that was too long


@attrs.define(eq=False)
class Lane:
    """The streams of one slot.

    Attributes:
        slot: the slot.
        key: a key in it, which says where its link leads.
        names: the names of the streams, in the order in which they came.
        poll: the read of its loop.
        reserved: how many events the read under way may bring.
        most: how many events a read may bring, as replies with more were too long.
        last_end: when its last read ended, by `trio.current_time()`.
        behind: keys of streams of which the last read brought all that it might.
        hurry: raised when a sink's claims should look around before their time.
        dues: when a sink's events that rest can be claimed.
        is_over: whether it has ended.
        flushing: held while a sink's outbox is sent.
    """

    slot: int
    key: str
    names: list[str] = attrs.field(factory=list[str])
    poll: Poll | None = None
    reserved: int = 0
    most: int = _ANY
    last_end: float = float("-inf")
    behind: set[str] = attrs.field(factory=set[str])
    hurry: Signal = attrs.field(factory=Signal)
    dues: Dues = attrs.field(factory=Dues)
    is_over: bool = False
    flushing: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def count(self) -> int:
        """How many events of each stream the read may bring; one of each, whatever the room."""
        return max(1, self.reserved // max(1, len(self.names)))

    def note_failure(self, error: RedisError) -> None:
        """Ask for less from now on if the reply to the read was too long."""
        if isinstance(error.__cause__, ReplyTooLongError):
            self.most = max(1, self.reserved // _LESS)

    def note_reply(self, reply: Mapping[bytes, Sized], asked: int) -> None:
        """Ask for as much as there is room for again if a read brought all there was."""
        if max(map(len, reply.values()), default=0) < asked:
            self.most = _ANY

    async def interrupt(self) -> None:
        """End the read that is under way, if there is one."""
        if self.poll is not None:
            await self.poll.interrupt()


class Taker(Sized, Protocol):
    """What is filled by reading: a buffer, or what takes in place of one."""

    @property
    def size(self) -> int:
        """How many events it holds at most."""
        ...

    @property
    def room(self) -> int:
        """How many events a read may bring."""
        ...


Loop: TypeAlias = Callable[[Lane], Awaitable[None]]


class Lanes:
    """The lanes of one reader or sink; see the module's theory of operation."""

    def __init__(self, redis: Redis, loops: Mapping[str, Loop]) -> None:
        """Begin without a lane; `loops` are what runs for each lane, by name."""
        self._redis = redis
        self._loops = loops
        self._lanes: dict[int, Lane] = {}
        self._by_name: dict[str, Lane] = {}
        self._start_soon: Callable[..., object] | None = None

    def __iter__(self) -> Iterator[Lane]:
        return iter(tuple(self._lanes.values()))

    def __len__(self) -> int:
        return len(self._lanes)

    def of(self, stream: str) -> Lane | None:
        """Return the lane of a stream that is read."""
        return self._by_name.get(stream)

    def add(self, stream: str) -> Lane:
        """Put a stream into the lane of its slot; make and start that if there is none."""
        key = stream_key(stream)
        slot = self._redis.slot_of(key)
        lane = self._lanes.get(slot)
        if lane is None:
            self._lanes[slot] = lane = Lane(slot, key)
            self._start(lane)
        lane.names.append(stream)
        self._by_name[stream] = lane
        return lane

    def remove(self, stream: str) -> Lane:
        """Take a stream out of its lane, and return that; the lane's loop ends it if it can."""
        lane = self._by_name.pop(stream)
        lane.names.remove(stream)
        return lane

    def close(self, lane: Lane) -> None:
        """Take a lane without streams off the table; called by its loop, which then ends."""
        del self._lanes[lane.slot]
        lane.is_over = True
        lane.hurry.raise_()

    def start(self, start_soon: Callable[..., object]) -> None:
        """Run the loops of all lanes, and of those that come, by `Context.start_soon`."""
        self._start_soon = start_soon
        for lane in self:
            self._start(lane)

    def stop(self) -> None:
        """Start no more loops; the actor's life is over."""
        self._start_soon = None

    def _start(self, lane: Lane) -> None:
        if self._start_soon is not None:
            with suppress(ActorStoppedError):  # the actor's next life starts all lanes
                for name, loop in self._loops.items():
                    self._start_soon(loop, lane, name=name)

    async def interrupt(self) -> None:
        """End all reads that are under way."""
        await for_each(self, Lane.interrupt)

    def reserve(self, lane: Lane, buffers: Iterable[Taker], most: int) -> int:
        """Return how many events a lane may read, and keep the room; 0 if there is none now."""
        others = sum(other.reserved for other in self if other is not lane)
        room = min((self._share(buffer, others) for buffer in buffers), default=0)
        lane.reserved = min(room, most, lane.most)
        return lane.reserved

    def _share(self, buffer: Taker, reserved: int) -> int:
        if not buffer.room:
            return 0
        free = min(buffer.room - reserved, max(1, buffer.size // len(self)))
        return free if free > 0 else int(not len(buffer))

    def release(self, lane: Lane, wanted: Signal) -> None:
        """Give back the room that a lane's read has not used, for the other lanes."""
        lane.reserved = 0
        if len(self) > 1:
            wanted.raise_()


async def for_each(items: Iterable[T], act: Callable[[T], Awaitable[object]]) -> None:
    """Call `act` for every item, side by side; raise the first Redis error when all are through."""
    several = tuple(items)
    if len(several) == 1:
        await act(several[0])
        return
    errors: list[RedisError] = []

    async def run(item: T) -> None:
        try:
            await act(item)
        except RedisError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for item in several:
            nursery.start_soon(run, item)
    if errors:
        raise errors[0]
