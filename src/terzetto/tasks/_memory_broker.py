"""Tasks in this process: what `Broker` and `Inspection` promise, without Redis.

For users' own tests, on trio's clock: under a virtual clock, retries and leases
take no time. The tasks are lost with the process. Every method is a checkpoint
and then runs without a pause, so each is as atomic as a script.

`terzetto.tasks.testing` exports it. One contract suite runs over it and Redis.
"""

import math
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import attrs
import trio

from terzetto.tasks._broker import BATCH, BATCH_SECONDS, LEASE_SECONDS, OutcomeWatch, Wakeups
from terzetto.tasks._broker_values import (
    Batch,
    CancelRequest,
    Completion,
    Conflict,
    Duplicate,
    Enqueue,
    Forwarded,
    Lease,
    Outcome,
    Placed,
    Placement,
    Ticked,
)
from terzetto.tasks._clock import Clock
from terzetto.tasks._memory_inspection import MemoryInspection
from terzetto.tasks._memory_state import Lock, MemoryQueue, Stored
from terzetto.tasks._message import TaskMessage, TaskState


class TrioClock:
    """Trio's clock as Unix seconds, which begin with `start` when it is first asked."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._zero: float | None = None

    def now(self) -> float:
        """Return the time."""
        current = trio.current_time()
        if self._zero is None:
            self._zero = current
        return self._start + current - self._zero


@attrs.define(eq=False)
class _Wakeups:
    queues: frozenset[str]
    woken: set[str] = attrs.field(factory=set[str])
    event: trio.Event = attrs.field(factory=trio.Event)

    def note(self, queue: str) -> None:
        if queue in self.queues:
            self.woken.add(queue)
            self.event.set()

    async def wait(self) -> frozenset[str]:
        """See `Wakeups.wait`."""
        await self.event.wait()
        found = frozenset(self.woken)
        self.woken.clear()
        self.event = trio.Event()
        return found


@attrs.define(eq=False)
class _Watch:
    receive: trio.MemoryReceiveChannel[Outcome]
    was_there: bool
    has_looked: bool = False

    async def wait(self) -> Outcome | None:
        """See `OutcomeWatch.wait`."""
        if not self.has_looked:
            self.has_looked = True
            await trio.lowlevel.checkpoint()
            return None
        return await self.receive.receive()


class MemoryBroker(MemoryInspection):
    """Everything that `Broker` and `Inspection` want, in this process.

    Args:
        start: the Unix seconds at which its clock begins; None: now.
        clock: another clock than trio's.
    """

    def __init__(self, *, start: float | None = None, clock: Clock | None = None) -> None:
        super().__init__(clock or TrioClock(time.time() if start is None else start))
        self._wakeups: set[_Wakeups] = set()
        self._cancels: set[trio.MemorySendChannel[CancelRequest]] = set()
        self._watches: dict[tuple[str, str], set[trio.MemorySendChannel[Outcome]]] = {}
        self._places: dict[str, dict[str, float]] = {}
        self._turns: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<MemoryBroker {len(self.queues)} queues>"

    async def sync_clock(self) -> None:
        """See `Broker.sync_clock`; there is nothing to compare with."""
        await trio.lowlevel.checkpoint()

    # ------------------------------------------------------------ producers

    async def enqueue(
        self, entries: Sequence[Enqueue], *, replicas: int = 0, within: float = 1.0
    ) -> list[Placement]:
        """See `Broker.enqueue`; what is lost here is lost with all replicas."""
        del replicas, within
        await trio.lowlevel.checkpoint()
        # Written and read again, it is what a worker would get from Redis.
        written = [
            attrs.evolve(entry, message=TaskMessage.decode(entry.message.encode()))
            for entry in entries
        ]
        return [self._place(entry) for entry in written]

    def _place(self, entry: Enqueue) -> Placement:
        now, message, tick = self.now(), entry.message, entry.tick
        queue = self.queues.setdefault(message.queue, MemoryQueue())
        if tick is not None and queue.ticks.get(tick.schedule, -math.inf) >= tick.at:
            return Ticked()
        if message.id in queue.tasks:
            return Conflict()
        if lasts := entry.lock_seconds(now):
            holder = queue.holder_of(message.unique_key, now)
            if holder is not None:
                return Duplicate(holder)
            queue.locks[message.unique_key] = Lock(holder=message.id, until=now + lasts)
        state = entry.state_at(now)
        at = entry.due_at(now) if state is TaskState.SCHEDULED else float(int(now))
        stored = Stored(message=message, state=state, at=at, group=message.group)
        queue.tasks[message.id] = stored
        if state is TaskState.PENDING:
            queue.make_pending(stored, now)
            self.wake(message.queue)
        if tick is not None:
            queue.ticks[tick.schedule] = tick.at
        return Placed(state)

    @asynccontextmanager
    async def watch_outcome(self, queue: str, task_id: str) -> AsyncGenerator[OutcomeWatch]:
        """See `Broker.watch_outcome`."""
        await trio.lowlevel.checkpoint()
        send, receive = trio.open_memory_channel[Outcome](1)
        watches = self._watches.setdefault((queue, task_id), set())
        watches.add(send)
        try:
            found = self.queues.get(queue)
            yield _Watch(receive, was_there=found is not None and task_id in found.tasks)
        finally:
            watches.discard(send)
            if not watches:
                self._watches.pop((queue, task_id), None)

    def _tell(self, lease: Lease, outcome: Outcome) -> None:
        for send in self._watches.get((lease.queue, lease.message.id), ()):
            with suppress(trio.WouldBlock):  # it has one to read already
                send.send_nowait(outcome)

    # -------------------------------------------------------------- workers

    async def dequeue(
        self, queues: Sequence[str], limit: int, *, lease_for: float = LEASE_SECONDS
    ) -> list[Lease]:
        """See `Broker.dequeue`."""
        await trio.lowlevel.checkpoint()
        leases: list[Lease] = []
        for name in queues:
            queue = self.queues.get(name)
            while queue and queue.pending and not queue.is_paused and len(leases) < limit:
                stored = queue.tasks[queue.pending[-1]]
                queue.move(stored, TaskState.ACTIVE, 0.0)
                leases.append(self._lease(queue, stored, lease_for))
        return leases

    def _lease(self, queue: MemoryQueue, stored: Stored, seconds: float) -> Lease:
        stored.token = uuid.uuid4().hex
        stored.lease_end = int(self.now() + seconds)
        queue.renew(stored, self.now(), seconds)
        return Lease(message=stored.message, token=stored.token, expires_at=stored.lease_end)

    def _held(self, lease: Lease) -> tuple[MemoryQueue, Stored] | None:
        """Return the task that is held under a lease, or None if the lease is lost."""
        queue = self.queues.get(lease.queue)
        stored = queue.tasks.get(lease.message.id) if queue else None
        if queue is None or stored is None or stored.token != lease.token:
            return None
        return queue, stored

    async def extend(
        self, leases: Sequence[Lease], *, lease_for: float = LEASE_SECONDS
    ) -> tuple[float, set[str]]:
        """See `Broker.extend`."""
        await trio.lowlevel.checkpoint()
        end = int(self.now() + lease_for)
        lost: set[str] = set()
        for lease in leases:
            held = self._held(lease)
            if held is None:
                lost.add(lease.token)
            else:
                queue, stored = held
                stored.lease_end = end
                queue.renew(stored, self.now(), lease_for)
        return end, lost

    async def complete(
        self, lease: Lease, *, result: bytes | None = None, retain: bool = True
    ) -> bool:
        """See `Broker.complete`."""
        await trio.lowlevel.checkpoint()
        held = self._held(lease)
        if held is None:
            return False
        queue, stored = held
        now = self.now()
        if result is not None:
            stored.result = result
        self._tell(lease, Outcome(state=TaskState.COMPLETED, result=stored.result))
        retention = lease.message.retention if retain else 0
        if retention > 0:
            queue.unlock(stored)
            stored.message = attrs.evolve(lease.message, completed_at=int(now))
            queue.move(stored, TaskState.COMPLETED, int(now) + retention)
        else:
            queue.erase(stored)
        queue.count(now, failed=False)
        return True

    async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
        """See `Broker.complete_many`."""
        return [
            await self.complete(each.lease, result=each.result, retain=each.retain)
            for each in completions
        ]

    async def requeue(self, lease: Lease) -> bool:
        """See `Broker.requeue`."""
        await trio.lowlevel.checkpoint()
        held = self._held(lease)
        if held is None:
            return False
        queue, stored = held
        queue.make_pending(stored, self.now(), is_next=True)
        self.wake(lease.queue)
        return True

    async def retry(
        self, lease: Lease, *, at: float, error: str | None, is_failure: bool = True
    ) -> bool:
        """See `Broker.retry`."""
        await trio.lowlevel.checkpoint()
        held = self._held(lease)
        if held is None:
            return False
        queue, stored = held
        now = self.now()
        stored.message = lease.message.with_failure(error, int(now), counts=is_failure)
        queue.move(stored, TaskState.RETRY, at)
        if is_failure:
            queue.count(now, failed=True)
        return True

    async def archive(self, lease: Lease, *, error: str) -> bool:
        """See `Broker.archive`."""
        await trio.lowlevel.checkpoint()
        held = self._held(lease)
        if held is None:
            return False
        queue, stored = held
        now = self.now()
        stored.message = lease.message.with_failure(error, int(now), counts=False)
        self._tell(lease, Outcome(state=TaskState.ARCHIVED, error=stored.message.error))
        queue.move(stored, TaskState.ARCHIVED, int(now))
        queue.trim(now)
        queue.count(now, failed=True)
        return True

    async def write_result(self, lease: Lease, data: bytes) -> bool:
        """See `Broker.write_result`."""
        await trio.lowlevel.checkpoint()
        held = self._held(lease)
        if held is None:
            return False
        held[1].result = data
        return True

    # --------------------------------------------------------------- upkeep

    async def forward(self, queue: str) -> Forwarded:
        """See `Broker.forward`."""
        await trio.lowlevel.checkpoint()
        found = self.queues.get(queue, MemoryQueue())
        now, moved, soonest = self.now(), 0, math.inf
        for state in (TaskState.SCHEDULED, TaskState.RETRY):
            waiting = found.sorted(state)
            due = [stored for stored in waiting if stored.at <= now][:BATCH]
            for stored in due:
                if stored.group:
                    found.move(stored, TaskState.AGGREGATING, int(now))
                else:
                    found.make_pending(stored, now)
                    self.wake(queue)
            moved += len(due)
            if len(waiting) > len(due):
                soonest = min(soonest, waiting[len(due)].at)
        return Forwarded(moved=moved, next_at=None if soonest == math.inf else soonest)

    async def take_expired(
        self,
        queue: str,
        *,
        grace: float = 0.0,
        lease_for: float = LEASE_SECONDS,
    ) -> list[Lease]:
        """See `Broker.take_expired`."""
        await trio.lowlevel.checkpoint()
        found = self.queues.get(queue, MemoryQueue())
        over = found.sorted(TaskState.ACTIVE, lambda stored: stored.lease_end <= self.now() - grace)
        return [self._lease(found, stored, lease_for) for stored in over[:BATCH]]

    async def delete_expired(self, queue: str) -> int:
        """See `Broker.delete_expired`."""
        await trio.lowlevel.checkpoint()
        found = self.queues.get(queue, MemoryQueue())
        over = found.sorted(TaskState.COMPLETED, lambda stored: stored.at <= self.now())
        return found.erase_all(over[:BATCH]) + found.trim(self.now())

    async def list_groups(self, queue: str) -> list[str]:
        """See `Broker.list_groups`."""
        await trio.lowlevel.checkpoint()
        return sorted(self.queues.get(queue, MemoryQueue()).groups())

    async def take_batch(
        self,
        queue: str,
        group: str,
        *,
        max_size: int = 0,
        max_delay: float = 0.0,
        grace: float,
    ) -> Batch | None:
        """See `Broker.take_batch`."""
        await trio.lowlevel.checkpoint()
        found = self.queues.get(queue, MemoryQueue())
        waiting, now = found.waiting(group), int(self.now())
        if not waiting:
            return None
        if max_size and len(waiting) >= max_size:
            waiting = waiting[:max_size]
        elif not (max_delay and waiting[0].at <= now - max_delay) and waiting[-1].at > now - grace:
            return None
        set_id, deadline = str(uuid.uuid4()), int(self.now() + BATCH_SECONDS)
        for stored in waiting:
            stored.batch = set_id
        found.batches[set_id] = (group, deadline)
        return Batch(
            queue=queue,
            group=group,
            set_id=set_id,
            messages=tuple(stored.message for stored in waiting),
            deadline=deadline,
        )

    async def finish_batch(self, batch: Batch, aggregate: Enqueue) -> Placement | None:
        """See `Broker.finish_batch`."""
        await trio.lowlevel.checkpoint()
        queue = self.queues.get(batch.queue)
        if queue is None or batch.set_id not in queue.batches:
            return None
        message = attrs.evolve(aggregate.message, queue=batch.queue)
        placement = self._place(attrs.evolve(aggregate, message=message))
        if isinstance(placement, Placed):
            queue.erase_all(queue.members(batch.set_id))
            del queue.batches[batch.set_id]
        return placement

    async def reclaim_batches(self, queue: str) -> int:
        """See `Broker.reclaim_batches`."""
        await trio.lowlevel.checkpoint()
        found = self.queues.get(queue, MemoryQueue())
        over = [name for name, (_, deadline) in found.batches.items() if deadline <= self.now()]
        for name in over:
            for stored in found.members(name):
                stored.batch = None
            del found.batches[name]
        return len(over)

    # -------------------------------------------------------------- signals

    def wake(self, queue: str) -> None:
        """Tell those who listen that tasks became pending."""
        for wakeups in self._wakeups:
            wakeups.note(queue)

    @asynccontextmanager
    async def open_wakeups(self, queues: Sequence[str]) -> AsyncGenerator[Wakeups]:
        """See `Broker.open_wakeups`."""
        await trio.lowlevel.checkpoint()
        wakeups = _Wakeups(frozenset(queues))
        self._wakeups.add(wakeups)
        try:
            yield wakeups
        finally:
            self._wakeups.discard(wakeups)

    @asynccontextmanager
    async def open_cancels(self) -> AsyncGenerator[AsyncIterator[CancelRequest]]:
        """See `Broker.open_cancels`."""
        await trio.lowlevel.checkpoint()
        send, receive = trio.open_memory_channel[CancelRequest](math.inf)
        self._cancels.add(send)
        try:
            yield receive
        finally:
            self._cancels.discard(send)

    async def send_cancel(self, request: CancelRequest) -> None:
        """See `Broker.send_cancel`."""
        await trio.lowlevel.checkpoint()
        for send in self._cancels:
            send.send_nowait(request)

    # --------------------------------------------------------------- limits

    async def acquire(self, scope: str, holder: str, *, limit: int, until: float) -> bool:
        """See `Broker.acquire`."""
        await trio.lowlevel.checkpoint()
        places = self._places.setdefault(scope, {})
        for name in [name for name, end in places.items() if end <= self.now()]:
            del places[name]
        if holder not in places and len(places) >= limit:
            return False
        places[holder] = until
        return True

    async def release(self, scope: str, holder: str) -> None:
        """See `Broker.release`."""
        await trio.lowlevel.checkpoint()
        self._places.get(scope, {}).pop(holder, None)

    async def take_rate(self, scope: str, *, per_second: float, burst: int) -> float:
        """See `Broker.take_rate`."""
        await trio.lowlevel.checkpoint()
        now, step = self.now(), 1 / per_second
        at = max(self._turns.get(scope, now), now)
        wait = at - now - step * (burst - 1)
        if wait > 0:
            return wait
        self._turns[scope] = at + step
        return 0.0
