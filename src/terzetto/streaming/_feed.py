"""The engine of a reader: its cursors, its buffers and its poll loop.

Theory of operation
-------------------
The feed outlives restarts of the actor that runs it, so the loop goes on where
it stopped. For each stream it has a cursor, the id of the last entry that was
read. The streams of a slot are read by a loop of their own (`_lanes.py`); without
a cluster there is one. A turn of the loop is: sleep until every buffer has room;
XREAD from the cursors; move the cursors; filter; put the events into every buffer.
Nothing is read before somebody takes, for there is no buffer until then.

The newest position becomes a real id when a stream is opened or added, so
nothing slips between two polls. Where trimming may have overtaken a cursor, the
loop compares the stream's first entry with the batch and reports the gap; where
a stream ends before its cursor it was made anew, and is read from its start, unless
it still has entries that were read: then a replica took over that lacked the last ones.
An outage is waited out by the link; after an error the loop paces itself.

Where a function takes the events (`_delivery.py`), they are handed over in the task that read
their bytes, and the next read is sent from there; the loop sleeps meanwhile. It is woken when
something has to be looked at, and every half second, to look at its places and at the room.

Only its loop moves a cursor, or that task in its stead. Other tasks put streams into the
table and take them out; a loop copies the table before each read, and drops what it read
of a stream whose cursor is no longer the one it started from.

Used by `_reader.py`, the actor and the face.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar, cast

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._logging import Logger
from terzetto._shared._texts import describe_error
from terzetto.redis import Arg, LinkClosedError, Redis, Reply
from terzetto.streaming._buffer import Batch, Buffer, Signal
from terzetto.streaming._delivery import Delivery
from terzetto.streaming._edges import edges_command, edges_of, read_edges
from terzetto.streaming._event import Entry, Event, decode_entries
from terzetto.streaming._gap import Cursor, Edges, Gap
from terzetto.streaming._lanes import Lane, Lanes
from terzetto.streaming._names import stream_key
from terzetto.streaming._options import ReadOptions
from terzetto.streaming._pace import Pace
from terzetto.streaming._poll import Poll
from terzetto.streaming._positions import is_after
from terzetto.streaming._retry import insist

# A batch this long, a full one, or a read after a pause this long may have been
# overtaken: servers trim "about" a length in steps of a hundred entries. What is
# trimmed otherwise is found at the end of the stream, when there is nothing to read.
_SUSPICIOUS_BATCH: Final = 100
_SUSPICIOUS_PAUSE: Final = 0.05
_KEPT_GAPS: Final = 100
_LONGEST_READ: Final = 0.5  # seconds that a read may go on: then the loop looks at the places

B = TypeVar("B", Buffer, Delivery)


@attrs.define
class _Read:
    """A read that is under way.

    Attributes:
        cursors: those that it reads from, by key.
        count: how many events of each stream it may bring.
        is_suspicious: whether trimming may have overtaken it, whatever it brings.
        lanes: how many lanes share the room.
        ends_at: until when it may go on, by `trio.current_time()`.
        is_taken: whether what it brought has been taken in.
        has_gone_on: whether it did.
    """

    cursors: dict[str, Cursor]
    count: int
    is_suspicious: bool
    lanes: int
    ends_at: float
    is_taken: bool = False
    has_gone_on: bool = False

    @staticmethod
    def sort(reply: dict[bytes, list[Entry]]) -> list[tuple[str, list[Entry]]]:
        """Return what was brought for each key."""
        # decode_text, without the call
        return [(key.decode("utf-8", "surrogateescape"), entries) for key, entries in reply.items()]

    def may_be_overtaken(self, key: str, entries: list[Entry]) -> bool:
        """Tell whether trimming may have taken events before these; see `_SUSPICIOUS_BATCH`."""
        return (
            self.is_suspicious
            or len(entries) >= min(self.count, _SUSPICIOUS_BATCH)
            or self.cursors[key].number is None
        )


class Feed:
    """See the module's theory of operation."""

    def __init__(
        self,
        redis: Redis,
        options: ReadOptions,
        logger: Logger,
        on_gap: Callable[[Gap], None] | None,
    ) -> None:
        self.redis = redis
        self.options = options
        self.cursors: dict[str, Cursor] = {}
        self.gaps: deque[Gap] = deque(maxlen=_KEPT_GAPS)
        self.missed = 0
        self.skipped = 0
        self.lanes = Lanes(redis, {"reading": self._run_reading})
        self.has_started = False
        self.is_closed = False
        self._log = logger
        self._on_gap = on_gap
        self._buffers: list[Buffer | Delivery] = []
        self._wanted = Signal()
        self._changing = trio.Lock()  # held while a stream is added or removed

    # The callers' side

    def open_buffer(self, size: int) -> Buffer:
        """Add a buffer that gets every event from now on."""
        return self._open(Buffer(size, self._wanted))

    def open_delivery(self, take: Callable[[Event], None]) -> Delivery:
        """Have every event from now on handed to a function."""
        return self._open(Delivery(self.options.buffer_size, self._wanted, take))

    def _open(self, buffer: B) -> B:
        if self.is_closed:
            buffer.close()
        else:
            self._buffers.append(buffer)
        return buffer

    def close_buffer(self, buffer: Buffer | Delivery) -> None:
        """Take a buffer or a delivery away; the others no longer wait for it."""
        buffer.close()
        if buffer in self._buffers:
            self._buffers.remove(buffer)
        self._wanted.raise_()

    async def add(self, stream: str, find_place: Callable[[], Awaitable[Cursor]]) -> None:
        """Read one more stream from now on, unless it is read."""
        async with self._changing:
            if stream not in self.cursors:
                await self._look_around(self.enter(await find_place()))

    def enter(self, cursor: Cursor) -> Lane:
        """Put a stream into the table, and into its lane."""
        self.cursors[cursor.stream] = cursor
        return self.lanes.add(cursor.stream)

    async def remove(self, stream: str) -> None:
        """Read a stream no more; events of it that are in the buffers stay there."""
        async with self._changing:
            if self.cursors.pop(stream, None) is not None:
                await self._look_around(self.lanes.remove(stream))

    async def _look_around(self, lane: Lane) -> None:
        self._wanted.raise_()
        await lane.interrupt()

    def close(self) -> None:
        """Let no more events in; who takes gets what is there, then the end."""
        self.is_closed = True
        for buffer in self._buffers:
            buffer.close()

    def reopen(self) -> None:
        """Go on after a close, from the same places: the tree was started again."""
        self.is_closed = False
        for buffer in self._buffers:
            buffer.reopen()

    # The loop of a lane

    async def _run_reading(self, lane: Lane) -> None:
        """Poll until no stream is left, or cancelled, or until the link's block is left."""
        pace = Pace()
        name = f"reader of {', '.join(lane.names)}"
        async with self.redis.open_dedicated(name, key=lane.key) as link:
            lane.poll = Poll(link)
            try:
                while await self._wait_for_room(lane):
                    try:
                        await self._turn(lane, lane.poll)
                        pace.worked()
                        for buffer in self._buffers[:1]:
                            await buffer.give_way()
                    except LinkClosedError:
                        self.close()
                        return
                    except RedisError as error:
                        lane.note_failure(error)
                        lane.last_end = float("-inf")
                        self._log.warning(
                            "reading failed", reader=name, error=describe_error(error)
                        )
                        await trio.sleep(pace.failed())
                    finally:
                        self.lanes.release(lane, self._wanted)
            finally:
                lane.poll = None

    async def _wait_for_room(self, lane: Lane) -> bool:
        """Sleep until every buffer has room, and reserve it; False when no stream is left."""
        while lane.names:
            seen = self._wanted.count
            if self.lanes.reserve(lane, self._buffers, self.options.max_polled):
                return True
            await self._wanted.wait(seen)
        self.lanes.close(lane)
        return False

    async def _turn(self, lane: Lane, poll: Poll) -> None:
        now = trio.current_time()
        paused = now - lane.last_end > _SUSPICIOUS_PAUSE
        if paused:
            await self._check_places(self._cursors_by_key(lane))
        # No checkpoint from here to the read: a stream that is added would not be in it, and
        # there would be no read yet to interrupt.
        cursors = self._cursors_by_key(lane)
        if not cursors:
            return
        count = lane.count
        read = _Read(cursors, count, paused, len(self.lanes), now + _LONGEST_READ)
        commands = [self._command(cursors, count)]
        # Where more waits each batch is looked at, and this saves a round trip for each.
        behind = [key for key in cursors if key in lane.behind]
        commands += [edges_command(key) for key in behind]
        replies = await poll.read(commands, partial(self._take_at_once, lane, read))
        # While it went on nobody looked at the places: the next turn does.
        lane.last_end = float("-inf") if read.has_gone_on else trio.current_time()
        reply, *looks = replies or [None]
        if isinstance(reply, RedisError):
            raise reply
        lane.behind.clear()
        lane.note_reply(reply or {}, count)
        if not reply:
            await self._check_places(read.cursors)
            return
        if read.is_taken:
            return
        edges = {
            key: edges_of(look)
            for key, look in zip(behind, looks, strict=False)
            if not isinstance(look, RedisError)
        }
        for key, entries in read.sort(reply):
            if len(entries) == count:
                lane.behind.add(key)
            if read.may_be_overtaken(key, entries):
                await self._look_for_gap(read.cursors[key], entries, edges.get(key))
            self._take_in(read.cursors[key], entries)

    def _take_at_once(
        self, lane: Lane, read: "_Read", replies: list[Reply]
    ) -> Sequence[Sequence[Arg]] | None:
        """Take a read's events in the task that read the bytes, if nothing has to be looked at.

        A matcher is the user's, and may raise anything: it is called in our own task.

        Returns:
            The next read, if the loop has nothing to do before it.
        """
        read.is_taken = False
        reply = replies[0]
        if self.options.matcher is not None or len(replies) > 1 or not isinstance(reply, dict):
            return None
        batches = read.sort(cast("dict[bytes, list[Entry]]", reply))
        for key, entries in batches:
            if read.may_be_overtaken(key, entries):
                return None
        read.is_taken = True
        for key, entries in batches:
            self._take_in(read.cursors[key], entries)
        return self._read_on(lane, read)

    def _read_on(self, lane: Lane, read: "_Read") -> Sequence[Sequence[Arg]] | None:
        """Go on with a read, for a while, if a function takes what it brings.

        Not where streams or lanes have come or gone.
        """
        cursors = self._cursors_by_key(lane)
        is_same = cursors.keys() == read.cursors.keys() and len(self.lanes) == read.lanes
        if not (is_same and self._is_delivered()) or trio.current_time() > read.ends_at:
            return None
        read.cursors, read.is_suspicious, read.has_gone_on = cursors, False, True
        return [self._command(cursors, read.count)]

    def _is_delivered(self) -> bool:
        """Tell whether there is one taker, with room for whatever comes."""
        takers = self._buffers
        return len(takers) == 1 and isinstance(takers[0], Delivery) and takers[0].room > 0

    def _cursors_by_key(self, lane: Lane) -> dict[str, Cursor]:
        return {stream_key(name): self.cursors[name] for name in lane.names}

    def _command(self, cursors: dict[str, Cursor], count: int) -> Sequence[Arg]:
        command: list[Arg] = ["XREAD", "COUNT", count, "BLOCK", self.options.block_ms, "STREAMS"]
        command += cursors
        command += [cursor.last_id for cursor in cursors.values()]
        return command

    def _take_in(self, cursor: Cursor, entries: list[Entry]) -> None:
        if self.cursors.get(cursor.stream) is not cursor:
            return  # removed meanwhile, and perhaps added anew
        first_id, last_id = str(entries[0][0], "ascii"), str(entries[-1][0], "ascii")
        cursor.advance(first_id, last_id, len(entries))
        events = self._select(cursor.stream, entries)
        for buffer in tuple(self._buffers):  # a function that is given one may open and close some
            buffer.put(Batch(stream=cursor.stream, events=deque(events)))

    def _select(self, stream: str, entries: list[Entry]) -> list[Event]:
        events, poison = decode_entries(stream, entries)
        for entry in poison:
            self._skip(entry.id, stream, entry.why)
        select = self.options.select
        if select is None:
            return events
        selected: list[Event] = []
        for event in events:
            try:
                if select(event):
                    selected.append(event)
            except Exception as error:  # noqa: BLE001 - the matcher is the user's: whatever it raises, the loop lives on
                self._skip(event.id, stream, f"the matcher raised {describe_error(error)}")
        return selected

    def _skip(self, event_id: str, stream: str, why: str) -> None:
        self.skipped += 1
        self._log.warning("event skipped", stream=stream, event=event_id, why=why)

    # What the cursors cannot see

    async def _look_for_gap(
        self, cursor: Cursor, entries: list[Entry], edges: Edges | None
    ) -> None:
        """Compare a batch with what the stream held after it was read, as `edges` if known."""
        if edges is None:
            edges = await read_edges(self.redis, stream_key(cursor.stream))
        if is_after(str(entries[0][0], "ascii"), edges.first_id):
            return  # an older entry is there still, so nothing before the batch was trimmed
        ids = [str(entry[0], "ascii") for entry in entries]
        gap = cursor.gap(ids, edges)
        if gap is not None:
            self._report(gap)
        if edges.first_id in ids:
            cursor.number = edges.added - edges.length - ids.index(edges.first_id)

    async def _check_places(self, cursors: dict[str, Cursor]) -> None:
        """See whether the streams are what the cursors take them for."""
        for key, cursor in cursors.items():
            edges = await read_edges(self.redis, key)
            gap = cursor.gap_before(edges)
            if cursor.is_beyond(edges) and await self._was_cut_back(key, cursor, edges):
                self._log.warning("stream lost its end", stream=cursor.stream, end=edges.last_id)
                cursor.step_back(edges)
            elif cursor.is_beyond(edges):
                after = cursor.start_over()
                gap = Gap(stream=cursor.stream, after=after, before=edges.first_id, missed=None)
            if gap is not None:
                self._report(gap)

    async def _was_cut_back(self, key: str, cursor: Cursor, edges: Edges) -> bool:
        """Tell whether a stream has entries that we have read, and is thus no new one."""
        known = cursor.known_in(edges)
        if known is None:
            return False
        return bool(await insist(partial(self.redis.execute, "XRANGE", key, known, known)))

    def _report(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self.missed += gap.missed or 0
        self._log.warning(
            "events missed",
            stream=gap.stream,
            after=gap.after,
            before=gap.before,
            missed=gap.missed,
        )
        if self._on_gap is not None:
            self._on_gap(gap)
