"""The engine of a sink instance: what it holds, and how it shows that it lives.

Theory of operation
-------------------
An entry of a stream is, for one sink, in one of these places:

    new -> in a buffer -> with a taker -> acknowledged
                |               |
                +--- pending ---+-------> dead letter

"Pending" is the server's record: which consumer has the entry, how long it has
been idle, how often it was delivered. That record decides; what is here is a
copy that may lapse. Three kinds of loops work on it, each at its own pace, so that
none can hold up another:

* reading (`_reading.py`), one for each lane: waits for room, sends the
  acknowledgements that ride along and XREADGROUP on a dedicated link, sorts what
  comes. Events that the filter leaves out are acknowledged; poison goes to the
  dead letters.
* showing life (`run_keepalive`): writes the keep-alive every half grace period.
  An instance that failed to for two periods may have been deleted by a peer: it
  goes on under a new consumer name, with those of its entries that it still has.
* claims (`_reclaim.py`), one for each lane: a few times in a grace period sends what
  is in the outbox, renews what is in the buffer or being processed, and takes over
  what has been idle for a grace period, whoever had it; once in a period it sweeps.

A lane is the streams of one slot of a cluster, and elsewhere all of them (`_lanes.py`).

A taker that does not come back for a grace period gives its buffer up: the
entries are handed back as if they had not been delivered, for an instance that
has time, and nothing is read or claimed until the taker comes.

The engine outlives restarts of the actor that runs its loops. Stopping for good
is `close`: end the read on the server, wait for what is being processed, hand
back the rest, and leave.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from redis.exceptions import RedisError
from ulid import ULID

from terzetto._shared._logging import Logger
from terzetto._shared._texts import describe_error
from terzetto.redis import Arg, LinkClosedError, Redis, Reply
from terzetto.streaming._buffer import Batch, Buffer, Signal
from terzetto.streaming._claims import LAPSE, keepalive_interval
from terzetto.streaming._event import Event, Poison
from terzetto.streaming._group import Group
from terzetto.streaming._lanes import Lane, Lanes, for_each
from terzetto.streaming._members import Members
from terzetto.streaming._names import stream_key
from terzetto.streaming._options import ReadOptions
from terzetto.streaming._outbox import Outbox
from terzetto.streaming._pace import Pace
from terzetto.streaming._positions import Start
from terzetto.streaming._retry import insist

if TYPE_CHECKING:
    from terzetto.streaming._stream import Stream

_RETURNED_AT_ONCE: Final = 100  # events in one script, which holds up the server meanwhile
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
        loops: Mapping[str, Callable[["Intake", Lane], Awaitable[None]]],
    ) -> None:
        self.redis = redis
        self.sink = sink
        self.options = options
        self.grace = grace
        self.no_ack = no_ack
        self.max_deliveries = max_deliveries
        self.log = logger
        self.groups: dict[str, Group] = {}
        self.leaving: dict[str, tuple[Group, Lane]] = {}
        """What is read no more and was not quite left yet."""
        self.lanes = Lanes(redis, {name: partial(loop, self) for name, loop in loops.items()})
        self.consumer = str(ULID())
        self.is_closing = False
        self.is_closed = False
        self.closing = trio.Event()
        self.buried = 0
        self.outbox = Outbox()
        self.wanted = Signal()
        self.buffer = Buffer(
            options.buffer_size,
            self.wanted,
            lapse=float("inf") if no_ack else grace * LAPSE,
        )
        self.members = Members(redis, sink, grace)
        self.processing: dict[tuple[str, str], Batch] = {}
        self._done = trio.Event()
        self._has_started = False
        self._had_taker = False
        self._alive_at = float("-inf")
        self._joining = trio.Lock()
        self._flushing = trio.Lock()
        self._changing = trio.Lock()  # held while a stream is joined or left

    @property
    def has_taker(self) -> bool:
        """Whether somebody takes events: waits for one, or took one within the grace period."""
        if self.buffer.tasks_waiting:
            return True
        return trio.current_time() - self.buffer.last_taken < self.grace

    # Opening and changing

    async def open(self, streams: Iterable[tuple["Stream", Start]]) -> None:
        """Join the sink on streams, in the first life; in later ones go on with those there are.

        After a close, when the tree is started again, it joins as a new consumer.
        """
        if self.is_closing:
            self.is_closing = self.is_closed = False
            self.closing = trio.Event()
            self._alive_at = float("-inf")
            self.buffer.reopen()
        await insist(self.show_alive)
        if not self._has_started:  # a stream that was removed since does not come back
            for stream, start in streams:
                await self.add(stream, start, expire=True)
            self._has_started = True

    async def add(self, stream: "Stream", start: Start, *, expire: bool = False) -> None:
        """Join the sink on one more stream, and read it from the next read on; twice is once."""
        async with self._changing:
            if stream.name in self.groups:
                return
            group = Group(stream, self.sink)
            await insist(partial(group.open, self.consumer, start, expire=expire))
            await insist(partial(self.members.enlist, group, self.consumer))
            self.groups[stream.name] = group
            self.leaving.pop(stream.name, None)
            await self._look_around(self.lanes.add(stream.name))

    async def remove(self, name: str) -> None:
        """Leave a stream; destroy its group if nobody is left and nothing is pending.

        Where that was cancelled, or failed, it goes on with what is left to be done.
        """
        async with self._changing:
            if name in self.groups:
                self.leaving[name] = self.groups.pop(name), self.lanes.remove(name)
            if name in self.leaving:
                await self._leave_one(name, *self.leaving[name])
                del self.leaving[name]

    async def _leave_one(self, name: str, group: Group, lane: Lane) -> None:
        await self._look_around(lane)
        await self.flush(lane)
        for batch in self.buffer.batches():
            if batch.stream == name:
                await self.return_unseen(group, batch)
        left = await group.leave(self.consumer)
        if await self.members.strike(group, self.consumer) and not left:
            await group.destroy_if_done()

    async def _look_around(self, lane: Lane) -> None:
        """Let the reading loop of a lane see that something has changed."""
        self.wanted.raise_()
        await lane.interrupt()

    def groups_of(self, lane: Lane) -> tuple[Group, ...]:
        """Return the groups of a lane's streams."""
        return tuple([self.groups[name] for name in lane.names])

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
        await self.lanes.interrupt()  # or they would go on reading for the old name
        old, new = self.consumer, str(ULID())
        await self.members.show_alive(new)
        for group in tuple(self.groups.values()):
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

    @property
    def silence(self) -> float:
        """How long ago it showed that it lives, in seconds."""
        return trio.current_time() - self._alive_at

    async def run_keepalive(self) -> None:
        """Show life every half grace period, until the link's block is left."""
        pace = Pace()
        interval = keepalive_interval(self.grace)
        while True:
            delay = interval
            try:
                await self.show_alive()
                if not self.lanes:
                    await self.flush(None)  # there is no claims' loop that would
                pace.worked()
            except LinkClosedError:
                return
            except RedisError as error:
                self.log.warning("keep-alive failed", error=describe_error(error))
                delay = min(interval, pace.failed())
            await trio.sleep(delay)

    # Reading

    async def wait_for_room(self, lane: Lane) -> bool:
        """Sleep until there is somebody to read for, and room, and reserve it.

        Returns False, and the lane has ended, when the sink closes or no stream is left.
        """
        while lane.names and not self.is_closing:
            seen = self.wanted.count
            had_taker, self._had_taker = self._had_taker, self.has_taker
            if self._had_taker:
                if not had_taker:
                    for each in self.lanes:
                        each.hurry.raise_()  # what others left may be claimed at once
                if self.lanes.reserve(lane, (self.buffer,), self.options.max_polled):
                    return True
            await self.wanted.wait(seen)
        if not lane.names:
            self.lanes.close(lane)
        return False

    @property
    def may_have_lost(self) -> bool:
        """Whether others may have claimed what was delivered: we did not show that we live."""
        return not self.no_ack and self.silence > self.grace

    @property
    def takes_all(self) -> bool:
        """Whether no event is left out, nor handed back."""
        return self.options.select is None and not self.is_closing

    def wants(self, group: Group, events: Sequence[Event]) -> bool:
        """Tell whether all events can go into the buffer, if `takes_all` says so."""
        limit = self.max_deliveries
        if limit is not None and any(event.deliveries > limit for event in events):
            return False
        return self.groups.get(group.stream.name) is group

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
                before = event._replace(deliveries=event.deliveries - 1)
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
            await self.return_unseen(group, batch)  # it was on its way when we left
        else:
            self.buffer.put(batch)
        if unwanted and not self.no_ack:
            self.outbox.acknowledge(group.stream.name, unwanted)
        for letter, why in dead:
            await self.bury(group, consumer, letter, why)

    async def bury(self, group: Group, consumer: str, letter: Event | Poison, why: str) -> None:
        """Move an entry to the dead letters of its stream.

        A lost reply is asked for again, unless nobody has to have the entry: then each
        asking would write a letter.
        """
        move = partial(group.bury, consumer, letter, why, owned=not self.no_ack)
        buried = await (move() if self.no_ack else insist(move))
        if buried is not None:
            self.buried += 1
            self.log.warning("dead letter", stream=letter.stream, event=letter.id, why=why)

    async def mend(self, lane: Lane, error: RedisError) -> None:
        """Make groups of a lane again if `error` says that one is gone; log what else it says."""
        text = str(error)
        if not text.startswith(("NOGROUP", "UNBLOCKED")) and "no such key" not in text:
            return
        try:
            for group in self.groups_of(lane):
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

    async def return_unseen(self, group: Group, batch: Batch) -> None:
        ids = [event.id for event in batch.events]
        self.buffer.drop(batch)
        if ids and not self.no_ack:
            await group.hand_back(batch.consumer, ids, unseen=True)

    async def return_buffer(self, lane: Lane) -> None:
        """Hand back, uncounted, all events of a lane that nobody has taken."""
        for batch in self.buffer.drop_all(lane.names):
            await self._return(batch)

    async def _return(self, batch: Batch) -> None:
        group = self._group(batch.stream)
        if group is not None:
            await self.return_unseen(group, batch)

    def _group(self, name: str) -> Group | None:
        """Return the group of a stream that is read, or being left."""
        group, _ = self.leaving.get(name, (None, None))
        return self.groups.get(name, group)

    def acknowledge_later(self, event: Event) -> None:
        """Put an acknowledgement into the outbox."""
        self.outbox.acknowledge(event.stream, [event.id])
        if len(self.outbox.acknowledged[event.stream]) >= _MAX_OUTBOX:
            self._hurry(event)

    def hand_back_later(self, event: Event, idle_ms: int) -> None:
        """Put a return into the outbox, and have it sent, and claimed when it is due."""
        self.outbox.hand_back(event, idle_ms)
        self._hurry(event)

    def _hurry(self, event: Event) -> None:
        lane = self.lanes.of(event.stream)
        if lane is not None:
            lane.hurry.raise_()

    async def flush(self, lane: Lane | None) -> None:
        """Send what is in the outbox for a lane's streams, and for those that no lane has."""
        async with self._flushing if lane is None else lane.flushing:
            waiting = self.outbox.streams()
            names = [name for name in waiting if self.lanes.of(name) in {lane, None}]
            acknowledged = self.outbox.take_acknowledged(names)
            if acknowledged:
                sent = False
                try:
                    replies = await self.redis.execute_many(self.acknowledgements(acknowledged))
                    sent = True
                finally:
                    if not sent:
                        self.outbox.put_back(acknowledged)
                self.keep_refused(acknowledged, replies)
            for name in names:
                await self._send_returned(name)

    def keep_refused(
        self, acknowledged: dict[str, list[str]], replies: Sequence[Reply | RedisError]
    ) -> None:
        """Send the acknowledgements again later that the server refused."""
        refusal = self.outbox.put_back_refused(acknowledged, replies)
        if refusal is not None:
            self.log.warning("acknowledgements refused", error=describe_error(refusal))

    def acknowledgements(self, acknowledged: Mapping[str, Sequence[str]]) -> list[Sequence[Arg]]:
        """Return the commands that acknowledge events, given by stream."""
        return [
            ("XACK", stream_key(stream), self.sink, *ids) for stream, ids in acknowledged.items()
        ]

    async def _send_returned(self, name: str) -> None:
        while taken := self.outbox.take_returned(name, _RETURNED_AT_ONCE):
            ids, idle_ms = [event.id for event, _ in taken], taken[0][1]
            group, lane = self._group(name), self.lanes.of(name)
            if group is not None:
                sent = False
                try:
                    await group.hand_back(self.consumer, ids, idle_ms=idle_ms)
                    sent = True
                finally:
                    if not sent:
                        self.outbox.put_back_returned(name, taken)
            if lane is not None:  # the server counts from a little before its reply
                lane.dues.add(trio.current_time() + max(0.0, self.grace - idle_ms / 1000))

    # Closing

    async def close(self, patience: float) -> None:
        """Stop for good: read no more, wait `patience` seconds for handlers, hand back, leave."""
        self.is_closing = True
        self.closing.set()
        untaken = self.buffer.drop_all()
        self.buffer.close()  # handlers that finish from now on take nothing more
        self.wanted.raise_()
        await self.lanes.interrupt()
        await for_each(untaken, self._return)
        with trio.move_on_after(patience):
            while self.processing:
                self._done = trio.Event()
                await self._done.wait()
        await for_each((*self.lanes, None), self.flush)
        async with self._joining:
            self.is_closed = True
            await self._leave()

    async def _leave(self) -> None:
        left = 0
        groups = [*self.groups.values(), *(group for group, _ in self.leaving.values())]

        async def leave(group: Group) -> None:
            nonlocal left
            left += await group.leave(self.consumer)

        await for_each(groups, leave)
        if left:
            return  # the keep-alive stays, so that peers claim before they delete the consumer
        await for_each(groups, lambda group: self.members.strike(group, self.consumer))
        await self.members.forget(self.consumer)
