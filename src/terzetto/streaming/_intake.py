"""The engine of a sink instance: what it holds, and two of its loops.

Theory of operation
-------------------
An entry of a stream is, for one sink, in one of these places:

    new -> in a buffer -> with a taker -> acknowledged
                |               |
                +--- pending ---+-------> dead letter

"Pending" is the server's record: which consumer has the entry, how long it has
been idle, how often it was delivered. That record decides; what is here is a
copy that may lapse. Three loops work on it, each at its own pace, so that none
can hold up another:

* reading (`run_reading`): waits for room, sends the acknowledgements that ride
  along and XREADGROUP on a dedicated link, sorts what comes. Events that the
  filter leaves out are acknowledged; poison goes to the dead letters.
* showing life (`run_keepalive`): writes the keep-alive every half grace period.
  An instance that failed to for two periods may have been deleted by a peer: it
  goes on under a new consumer name, with those of its entries that it still has.
* claims (`_reclaim.py`): a few times in a grace period sends what is in the
  outbox, renews what is in the buffer or being processed, and takes over what
  has been idle for a grace period, whoever had it; once in a period it sweeps.

A taker that does not come back for a grace period gives its buffer up: the
entries are handed back as if they had not been delivered, for an instance that
has time, and nothing is read or claimed until the taker comes.

The engine outlives restarts of the actor that runs its loops. Stopping for good
is `close`: end the read on the server, wait for what is being processed, hand
back the rest, and leave.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio
from redis.exceptions import RedisError
from ulid import ULID

from terzetto._shared._logging import Logger
from terzetto._shared._texts import describe_error
from terzetto.redis import Arg, LinkClosedError, Redis
from terzetto.streaming._buffer import Batch, Buffer, Signal
from terzetto.streaming._claims import LAPSE, keepalive_interval
from terzetto.streaming._event import Event, Fields, Poison
from terzetto.streaming._group import Group
from terzetto.streaming._members import Members
from terzetto.streaming._names import stream_key
from terzetto.streaming._options import ReadOptions
from terzetto.streaming._outbox import Outbox
from terzetto.streaming._pace import Pace
from terzetto.streaming._poll import Poll
from terzetto.streaming._positions import Start
from terzetto.streaming._retry import insist

if TYPE_CHECKING:
    from terzetto.streaming._stream import Stream

_AFTER_DUE: Final = 0.005  # seconds: the server counts idle time from when it hears of it
_MAX_OUTBOX: Final = 1000  # acknowledgements that may wait for the next write


class Intake:
    """See the module's theory of operation."""

    def __init__(
        self,
        redis: Redis,
        sink: str,
        options: ReadOptions,
        *,
        grace: float,
        no_ack: bool,
        max_deliveries: int | None,
        logger: Logger,
    ) -> None:
        self.redis = redis
        self.sink = sink
        self.options = options
        self.grace = grace
        self.no_ack = no_ack
        self.max_deliveries = max_deliveries
        self.log = logger
        self.groups: dict[str, Group] = {}
        self.home: str | None = None
        """The key of the first stream: in a cluster all others are in its slot."""
        self.consumer = str(ULID())
        self.is_closing = False
        self.is_closed = False
        self.closing = trio.Event()
        self.buried = 0
        self.due = float("inf")  # when the first of the events that rest can be claimed
        self.outbox = Outbox()
        self.wanted = Signal()
        self.hurry = Signal()
        self.buffer = Buffer(
            options.buffer_size,
            self.wanted,
            lapse=None if no_ack else grace * LAPSE,
            watched=True,
        )
        self.members = Members(redis, sink, grace)
        self.processing: dict[tuple[str, str], Batch] = {}
        self._done = trio.Event()
        self._had_taker = False
        self._poll: Poll | None = None
        self._alive_at = float("-inf")
        self._joining = trio.Lock()
        self._flushing = trio.Lock()

    @property
    def has_taker(self) -> bool:
        """Whether somebody takes events: waits for one, or took one within the grace period."""
        if self.buffer.tasks_waiting:
            return True
        return trio.current_time() - self.buffer.last_taken < self.grace

    # Opening and changing

    async def open(self, streams: Iterable[tuple["Stream", Start]]) -> None:
        """Join the sink on streams; on a restart, on those that are not joined yet.

        After a close, when the tree is started again, it joins as a new consumer.
        """
        if self.is_closing:
            self.is_closing = self.is_closed = False
            self.closing = trio.Event()
            self._alive_at = float("-inf")
            self.buffer.reopen()
        await insist(self.show_alive)
        for stream, start in streams:
            if stream.name not in self.groups:
                await self.add(stream, start, expire=True)

    async def add(self, stream: "Stream", start: Start, *, expire: bool = False) -> None:
        """Join the sink on one more stream, and read it from the next read on."""
        group = Group(stream, self.sink)
        await insist(partial(group.open, self.consumer, start, expire=expire))
        await insist(partial(self.members.enlist, group, self.consumer))
        self.groups[stream.name] = group
        if self.home is None:
            self.home = stream.key
        await self.look_around()

    async def remove(self, name: str) -> None:
        """Leave a stream; destroy its group if nobody is left and nothing is pending."""
        group = self.groups.pop(name)
        await self.look_around()
        for batch in self.buffer.batches():
            if batch.stream == name:
                await self._return_unseen(group, batch)
        left = await group.leave(self.consumer)
        if await self.members.strike(group, self.consumer) and not left:
            await group.destroy_if_done()

    async def look_around(self) -> None:
        """Let the reading loop see that something has changed."""
        self.wanted.raise_()
        if self._poll is not None:
            await self._poll.interrupt()

    # Showing life

    async def show_alive(self) -> None:
        """Write the keep-alive; take a new consumer name if we were silent for too long."""
        async with self._joining:
            now = trio.current_time()
            if self.is_closed:
                return  # or the keep-alive would be there for ever
            if now - self._alive_at <= 2 * self.grace:
                await self.members.show_alive(self.consumer)
            else:
                await self._join_again()
            self._alive_at = now

    async def _join_again(self) -> None:
        if self._poll is not None:
            await self._poll.interrupt()  # or it would go on reading for the old name
        old, new = self.consumer, str(ULID())
        await self.members.show_alive(new)
        for group in self.groups.values():
            await group.reopen(new)
            await self.members.enlist(group, new)
        self.consumer = new
        await self.renew(
            [
                batch
                for batch in (*self.buffer.batches(), *self.processing.values())
                if batch.consumer == old
            ],
            into=new,
        )

    async def run_keepalive(self) -> None:
        """Show life every half grace period, until the link's block is left."""
        pace = Pace()
        interval = keepalive_interval(self.grace)
        while True:
            delay = interval
            try:
                await self.show_alive()
                pace.worked()
            except LinkClosedError:
                return
            except RedisError as error:
                self.log.warning("keep-alive failed", error=describe_error(error))
                delay = min(interval, pace.failed())
            await trio.sleep(delay)

    # Reading

    async def run_reading(self) -> None:
        """Read until the sink closes or the link's block is left."""
        pace = Pace()
        name = f"sink {self.sink} of {', '.join(self.groups)}"
        async with self.redis.open_dedicated(name, key=self.home) as link:
            self._poll = Poll(self.redis, link)
            try:
                while (room := await self._wait_for_room()) is not None:
                    try:
                        await self._turn(self._poll, room)
                        pace.worked()
                    except LinkClosedError:
                        self.buffer.close()
                        return
                    except RedisError as error:
                        self.log.warning("reading failed", error=describe_error(error))
                        await trio.sleep(pace.failed())
                        await self.mend(error)
            finally:
                self._poll = None

    async def _wait_for_room(self) -> int | None:
        """Sleep until there is somebody to read for, and room; None when the sink closes."""
        while not self.is_closing:
            had_taker, self._had_taker = self._had_taker, self.has_taker
            if self._had_taker and not had_taker:
                self.hurry.raise_()  # what others left may be claimed at once
            room = self.buffer.room
            if room and self.groups and self._had_taker:
                return min(room, self.options.max_polled)
            await self.wanted.wait()
        return None

    async def _turn(self, poll: Poll, room: int) -> None:
        if trio.current_time() - self._alive_at > 2 * self.grace:
            await self.show_alive()
        if self.is_closing:
            return
        consumer, groups = self.consumer, {group.stream.key: group for group in self._live()}
        acknowledged = self.outbox.take_acknowledged()
        commands = [
            ("XACK", stream_key(stream), self.sink, *ids) for stream, ids in acknowledged.items()
        ]
        replies = None
        try:
            replies = await poll.read([*commands, self._command(consumer, tuple(groups), room)])
        finally:
            if replies is None:
                self.outbox.put_back(acknowledged)
        if replies is None:
            return
        if isinstance(replies[-1], RedisError):
            raise replies[-1]
        reply: dict[bytes, list[tuple[bytes, Fields | None]]] = replies[-1] or {}
        now = trio.current_time()
        for key, entries in reply.items():
            group = groups[key.decode("utf-8", "surrogateescape")]
            await self._take_in(group, consumer, entries, now)

    def _live(self) -> tuple[Group, ...]:
        return tuple(self.groups.values())

    def _command(self, consumer: str, keys: Sequence[str], room: int) -> Sequence[Arg]:
        head: list[Arg] = ["XREADGROUP", "GROUP", self.sink, consumer, "COUNT", room]
        head += ["BLOCK", self.options.block_ms]
        if self.no_ack:
            head.append("NOACK")
        return [*head, "STREAMS", *keys, *[">"] * len(keys)]

    async def _take_in(
        self,
        group: Group,
        consumer: str,
        entries: Sequence[tuple[bytes, Fields | None]],
        now: float,
    ) -> None:
        events, poison = group.decode(entries)
        if not self.no_ack and now - self._alive_at > self.grace:
            # This process may have been stopped since the server answered, and
            # the entries claimed by others: take what is still ours.
            ids = [*(event.id for event in events), *(entry.id for entry in poison)]
            kept = await group.extend(consumer, ids)
            events = [event for event in events if event.id in kept]
            poison = [entry for entry in poison if entry.id in kept]
        await self.admit(group, consumer, events, poison, now)

    async def admit(
        self,
        group: Group,
        consumer: str,
        events: Sequence[Event],
        poison: Sequence[Poison],
        now: float,
    ) -> None:
        """Sort what was delivered: into the buffer, done with, or to the dead letters."""
        select, limit = self.options.select, self.max_deliveries
        wanted: deque[Event] = deque()
        unwanted: list[str] = []
        dead: list[tuple[Event | Poison, str]] = [(entry, entry.why) for entry in poison]
        for event in events:
            if limit is not None and event.deliveries > limit:
                before = attrs.evolve(event, deliveries=event.deliveries - 1)
                dead.append((before, f"delivered {limit} times and not acknowledged"))
                continue
            try:
                chosen = select is None or select(event)
            except Exception as error:  # noqa: BLE001 - the matcher is the user's: whatever it raises, the loop lives on
                dead.append((event, f"the matcher raised {describe_error(error)}"))
                continue
            if chosen:
                wanted.append(event)
            else:
                unwanted.append(event.id)
        batch = Batch(stream=group.stream.name, events=wanted, consumer=consumer, since=now)
        if self.is_closing or self.groups.get(batch.stream) is not group:
            await self._return_unseen(group, batch)  # it was on its way when we left
        else:
            self.buffer.put(batch)
        if unwanted and not self.no_ack:
            self.outbox.acknowledge(group.stream.name, unwanted)
        for letter, why in dead:
            await self.bury(group, consumer, letter, why)

    async def bury(self, group: Group, consumer: str, letter: Event | Poison, why: str) -> None:
        """Move an entry to the dead letters of its stream."""
        buried = await group.bury(consumer, letter, why, owned=not self.no_ack)
        if buried is not None:
            self.buried += 1
            self.log.warning("dead letter", stream=letter.stream, event=letter.id, why=why)

    async def mend(self, error: RedisError) -> None:
        """Make groups again if `error` says that one is gone; log what else it says."""
        text = str(error)
        if not text.startswith(("NOGROUP", "UNBLOCKED")) and "no such key" not in text:
            return
        try:
            for group in self._live():
                if await group.reopen(self.consumer):
                    await self.members.enlist(group, self.consumer)
                    self.log.warning("group made again", stream=group.stream.name)
        except RedisError as failure:
            self.log.warning("group not made again", error=describe_error(failure))

    # Holding and handing back

    def start_processing(self, event: Event) -> None:
        """Note that a handler has `event`, so that its claim is renewed."""
        self.processing[event.stream, event.id] = Batch(
            stream=event.stream,
            events=deque((event,)),
            consumer=self.consumer,
            since=float("-inf"),  # it waited in the buffer for a while: renew it in the next round
        )

    def end_processing(self, event: Event) -> None:
        """Note that the handler of `event` has ended."""
        self.processing.pop((event.stream, event.id), None)
        if not self.processing:
            self._done.set()

    async def renew(self, batches: Iterable[Batch], *, into: str | None = None) -> None:
        """Renew the claims on batches; drop the buffered events that others have."""
        together: dict[tuple[str, str], list[Batch]] = {}
        for batch in batches:
            together.setdefault((batch.stream, batch.consumer), []).append(batch)
        for (stream, consumer), found in together.items():
            group = self.groups.get(stream)
            ids = [event.id for batch in found for event in batch.events]
            if group is None or not ids:
                continue
            now = trio.current_time()
            kept = await group.extend(consumer, ids, into=into)
            lost = set(ids) - kept
            for batch in found:
                batch.since, batch.consumer = now, into or consumer
                if lost:
                    self.buffer.drop(batch, lost)

    async def _return_unseen(self, group: Group, batch: Batch) -> None:
        ids = [event.id for event in batch.events]
        self.buffer.drop(batch)
        if ids and not self.no_ack:
            await group.hand_back(batch.consumer, ids, unseen=True)

    async def return_buffer(self) -> None:
        """Hand back, uncounted, all events that nobody has taken."""
        await self._return(self.buffer.drop_all())

    async def _return(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            group = self.groups.get(batch.stream)
            if group is not None:
                await self._return_unseen(group, batch)

    def acknowledge_later(self, event: Event) -> None:
        """Put an acknowledgement into the outbox."""
        self.outbox.acknowledge(event.stream, [event.id])
        if sum(map(len, self.outbox.acknowledged.values())) >= _MAX_OUTBOX:
            self.hurry.raise_()

    def hand_back_later(self, event: Event, idle_ms: int) -> None:
        """Put a return into the outbox, and have it sent, and claimed when it is due."""
        self.outbox.hand_back(event, idle_ms)
        rest = max(0.0, self.grace - idle_ms / 1000)
        self.due = min(self.due, trio.current_time() + rest + _AFTER_DUE)
        self.hurry.raise_()

    async def flush(self) -> None:
        """Send what is in the outbox."""
        async with self._flushing:
            acknowledged = self.outbox.take_acknowledged()
            if acknowledged:
                sent = False
                try:
                    await self.redis.execute_many(
                        [
                            ("XACK", stream_key(stream), self.sink, *ids)
                            for stream, ids in acknowledged.items()
                        ]
                    )
                    sent = True
                finally:
                    if not sent:
                        self.outbox.put_back(acknowledged)
            while self.outbox.returned:
                event, idle_ms = self.outbox.returned[0]
                group = self.groups.get(event.stream)
                if group is not None:
                    await group.hand_back(self.consumer, [event.id], idle_ms=idle_ms)
                self.outbox.returned.popleft()

    # Closing

    async def close(self, patience: float) -> None:
        """Stop for good: read no more, wait `patience` seconds for handlers, hand back, leave."""
        self.is_closing = True
        self.closing.set()
        untaken = self.buffer.drop_all()
        self.buffer.close()  # handlers that finish from now on take nothing more
        await self.look_around()
        await self._return(untaken)
        with trio.move_on_after(patience):
            while self.processing:
                self._done = trio.Event()
                await self._done.wait()
        await self.flush()
        async with self._joining:
            self.is_closed = True
            await self._leave()

    async def _leave(self) -> None:
        left = 0
        for group in self._live():
            left += await group.leave(self.consumer)
        if left:
            return  # the keep-alive stays, so that peers claim before they delete the consumer
        for group in self._live():
            await self.members.strike(group, self.consumer)
        await self.members.forget(self.consumer)
