"""The router of a node: it reads the pool's stream and sees each event to its worker.

`_routes.py` decides; this carries it out: reads the sink, offers events to the
node's own workers, adds them to the streams of others, hears the answers, tells
the dispatchers, and acknowledges. A batch goes out with one write. Run by the
node, as two background tasks: `run` and `retry`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import trio
from redis.exceptions import RedisError, ResponseError

from terzetto._shared._encoding import decode_text, encode_text
from terzetto.errors import ClosedError
from terzetto.pool._asking import Claim
from terzetto.pool._claims import Bid
from terzetto.pool._codec import (
    Ack,
    JobBody,
    Told,
    decode_ack,
    decode_envelope,
    encode_ack,
    encode_envelope,
)
from terzetto.pool._core import Core, LocalWorker
from terzetto.pool._errors import MalformedBodyError
from terzetto.pool._keys import add_if_exists, content_key
from terzetto.pool._names import NOTIFY, RETURN, START, STOP
from terzetto.pool._order import Order, Reply, read_order
from terzetto.pool._routes import (
    TOO_OLD,
    Deliver,
    PoolEvent,
    Routes,
    Verdict,
    decide,
    read_event,
)
from terzetto.redis import Arg
from terzetto.streaming import Event

_KNOWN = frozenset({START, STOP, NOTIFY})
_KEPT = 100  # events that are kept from coming again; more of them are a jam, and may go round


class Source(Protocol):
    """The part of a sink that a router reads."""

    @property
    def consumer(self) -> str:
        """The name of this instance in the group."""
        ...

    async def read(self) -> list[Event]:
        """Wait for the next events."""
        ...

    async def extend(self, event: Event) -> bool:
        """Start the grace period of an event again; False if another node has it now."""
        ...

    async def reject(self, event: Event, why: str) -> None:
        """Move an event to the dead letters of the stream."""
        ...


@attrs.define(eq=False, kw_only=True)
class Router:
    """The router of one life of a node."""

    core: Core
    source: Source
    returned: Callable[[str, str], None]
    _routes: Routes = attrs.field(factory=Routes)
    _disowned: list[tuple[str, str]] = attrs.field(factory=list[tuple[str, str]])
    """Workers of this node, gone or leaving, and jobs that they own and never heard of."""
    _wake: trio.Event = attrs.field(factory=trio.Event)

    def __len__(self) -> int:
        return len(self._routes)

    async def run(self) -> None:
        """Route what the sink brings, until it is closed."""
        while True:
            try:
                batch = await self.source.read()
            except ClosedError:
                return
            now = trio.current_time()
            events: list[PoolEvent] = []
            for entry in batch:
                event = await self._read(entry)
                if event is not None and self._routes.arrive(event, now):
                    events.append(event)
            await self._forward(events)
            if self._routes.has_held:
                self._wake.set()  # `retry` may have to be there sooner

    @property
    def consumer(self) -> str:
        """The consumer of the pool's sink that reads for this node."""
        return self.source.consumer

    def worker_for(self, job: JobBody, now: float) -> LocalWorker | None:
        """Return the worker of this node that keeps the place of a job to be dispatched.

        None if the job belongs to another node, or its worker cannot take it now.
        """
        worker = self.core.workers.get(self.core.fleet.place(job.key, now) or "")
        return worker if worker is not None and worker.keep_place(job) else None

    def take(self, bid: Bid, claim: Claim, now: float) -> None:
        """See a start to the worker that kept its place; it was read when it was sent."""
        event_id, keeper = claim.event_id, bid.keeper
        if keeper is None:
            return
        job = bid.job.brought_by(event_id)
        event = PoolEvent(event_id, START, job.key, bid.body, job)
        if not self._routes.arrive(event, now):
            keeper.give_place_up(job.key)  # it has come round by itself, and waits behind
            return
        self._routes.deliver_here(event_id, keeper.worker_id)
        replies = [self._reply_to(event_id)]
        keeper.fill_place(Order(START, job.key, job=job, replies=replies, is_owned=claim.is_owned))

    def adopt(self, told: Told) -> None:
        """See a start to its worker that was read for this node when another sent it.

        One that comes late is left to come round: by then another may have it, or is done.

        Raises:
            MalformedBodyError: it is broken.
        """
        event = read_event(told.event_id, START, told.body)
        options, now = self.core.options, trio.current_time()
        patience = min(options.worker_ttl, options.ack_grace_period) / 2
        if self.core.clock.ms_at(now) - event.sent_ms > patience * 1000:
            return
        if not self._routes.arrive(event, now):
            return
        worker = self.core.workers.get(told.worker_id)
        if worker is None or worker.is_leaving:
            self._disowned.append((told.worker_id, event.key))
            self._routes.hold(event.event_id, now)
            self._wake.set()
            return
        self._routes.deliver_here(event.event_id, told.worker_id)
        replies = [self._reply_to(event.event_id)]
        worker.offer(
            Order(START, event.key, job=event.job, replies=replies, is_owned=told.is_owned)
        )

    async def retry(self) -> None:
        """Route again what nobody could take, for ever."""
        while True:
            due = self._routes.next_due()
            with trio.move_on_at(float("inf") if due is None else due):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._disown()
            await self._forward(self._routes.due(trio.current_time()))

    async def _disown(self) -> None:
        """Take jobs from workers of this node that had left, or begun to, when told of them."""
        while self._disowned:
            worker_id, key = self._disowned.pop()
            try:
                await self.core.store.change_jobs(worker_id, "", [("end", key, b"", "")])
            except ResponseError as error:
                self.core.warn("a job was not taken from a worker that left", key, error)

    async def keep(self) -> None:
        """Keep what is with a worker of this node, or held, from coming again; for ever.

        Otherwise a start that takes longer than the grace period would be given to
        some node again. One that another node has all the same is that node's.
        """
        while True:
            await trio.sleep(self.core.options.ack_grace_period / 3)
            for event in self._routes.kept_here()[:_KEPT]:
                entry = Event(event.event_id, self.core.names.stream, event.name, event.body)
                try:
                    if not await self.source.extend(entry):
                        self._routes.lose(event.event_id)
                except RedisError as error:
                    self.core.log.debug("an event could not be kept", error=str(error))

    def fleet_changed(self) -> None:
        """Route again what was held, and what went to workers that have gone."""
        now = trio.current_time()
        self._routes.strand(self.core.fleet, now)
        self._routes.hurry(now)
        self._wake.set()

    def hear(self, event: Event) -> None:
        """Take in an answer from this node's stream.

        Raises:
            MalformedBodyError: it is broken.
        """
        envelope = decode_envelope(event.payload)
        ack = decode_ack(envelope.body)
        pool_event = self._routes.answered(envelope.sender, ack.event_id, ack.error)
        if pool_event is not None:
            self._conclude(pool_event, ack.error)

    async def _read(self, entry: Event) -> PoolEvent | None:
        """Read an event; what cannot be read is put away."""
        if entry.name not in _KNOWN:
            # Peers of another version may know it; nobody needs it for ever.
            now_ms = self.core.clock.ms_at(trio.current_time())
            if now_ms - int(entry.id.partition("-")[0]) > TOO_OLD * 1000:
                self.core.claims.acknowledge(entry.id)
            return None
        try:
            return read_event(entry.id, entry.name, entry.payload)
        except MalformedBodyError as error:
            self.core.report("dead_letter", text=f"{entry.name} {entry.id}: {error}")
            try:
                await self.source.reject(entry, str(error))
            except RedisError as refusal:  # it stays pending, and comes again
                self.core.log.warning("a dead letter was not written", error=str(refusal))
            return None

    async def _forward(self, events: Sequence[PoolEvent]) -> None:
        now = trio.current_time()
        there: list[tuple[PoolEvent, str]] = []
        asked: list[PoolEvent] = []
        for event in events:
            decision = self._decide(event, now)
            if isinstance(decision, Deliver):
                if not self._offer(event, decision.worker_id):
                    there.append((event, decision.worker_id))
            elif decision is Verdict.ASK_PAYLOAD:
                asked.append(event)
            elif decision is Verdict.DROP:
                self.core.report("dead_letter", key=event.key, text=f"{event.name}: too old")
                self._routes.end(event.event_id)
                self.core.claims.acknowledge(event.event_id)
            else:
                self._routes.hold(event.event_id, now)
        if there or asked:
            try:
                await self._send(there, asked)
            except ResponseError as error:
                self.core.log.warning("Redis refused to route events", error=str(error))
                for event in [*(event for event, _ in there), *asked]:
                    self._routes.hold(event.event_id, trio.current_time())

    def _decide(self, event: PoolEvent, now: float) -> Deliver | Verdict:
        server_ms = self.core.clock.ms_at(now)
        start = self._routes.start_of(event)
        return decide(event, self.core.fleet, now=now, server_ms=server_ms, start=start)

    def _offer(self, event: PoolEvent, worker_id: str) -> bool:
        """Try the short road; False if the worker is not of this node."""
        worker = self.core.workers.get(worker_id)
        if worker is None:
            return False
        self._routes.deliver_here(event.event_id, worker_id)
        worker.offer(read_order(event.name, event.body, self._reply_to(event.event_id), event.job))
        return True

    def _reply_to(self, event_id: str) -> Reply:
        def reply(outcome: str | None) -> None:
            if outcome is not None:
                self._conclude(event_id, outcome)
            else:
                self._routes.hold(event_id, trio.current_time())
                self._wake.set()

        return reply

    async def _send(
        self, there: Sequence[tuple[PoolEvent, str]], asked: Sequence[PoolEvent]
    ) -> None:
        names, node_id = self.core.names, self.core.node_id
        commands: list[Sequence[Arg]] = [
            add_if_exists(
                names.worker_stream(worker_id),
                event.name,
                encode_envelope(node_id, event.body),
                # A worker of ours acknowledges a start for a router that is gone by its end.
                topic=event.event_id if event.name == START else "",
            )
            for event, worker_id in there
        ]
        for event in asked:
            key = encode_text(event.key)
            commands.append(("HEXISTS", content_key(names.payloads), key))
            commands.append(("HEXISTS", content_key(names.pending), key))
        replies = await self.core.store.execute_many(commands)
        now = trio.current_time()
        for (event, worker_id), reply in zip(there, replies, strict=False):
            if not isinstance(reply, bytes):  # the worker has no stream (any more)
                self._routes.hold(event.event_id, now)
                continue
            answer = self._routes.deliver_there(event.event_id, worker_id, decode_text(reply))
            if answer is not None:
                self._conclude(event.event_id, answer)
        flags = replies[len(there) :]
        for index, event in enumerate(asked):
            if flags[2 * index] or flags[2 * index + 1]:
                self._routes.hold(event.event_id, now)
            else:
                self._routes.end(event.event_id)
                self.core.claims.acknowledge(event.event_id)

    def _conclude(self, event_id: str, error: str) -> None:
        """End an event that a worker answered for."""
        route = self._routes.end(event_id)
        if route is None:
            return
        job = route.event.job
        if job is not None and job.node_id == self.core.node_id:
            self.returned(event_id, error)
        elif job is not None:
            stream = self.core.names.node_stream(job.node_id)
            self.core.outbox.answer(stream, RETURN, encode_ack(Ack(event_id, error)))
        self.core.claims.acknowledge(event_id)
