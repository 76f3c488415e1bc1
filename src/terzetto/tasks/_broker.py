"""What a server, a client and a scheduler need of the place where tasks are kept.

`Broker` has one method for each atomic step of the wire. `RedisBroker` carries
them out in Redis, in asynq's layout; `MemoryBroker` in this process, on trio's
clock. One contract suite runs over both. `_inspection.py` has the rest: what an
inspector needs; `_broker_values.py` what goes in and comes out.

Theory of operation
-------------------
A task is in one place at a time: pending, active, scheduled, retry, archived,
completed or aggregating. Whoever takes it out of pending holds a `Lease`: it is
active until the lease's end, which `extend` puts off. Each lease has a token of
its own, kept beside the task for as long as it is active under this lease. Every
outcome names its lease, and is written only if the task is still active under
that token; otherwise the method returns False and has changed nothing. So a
worker that lost its lease to a recoverer, to another worker or to an inspector
cannot overwrite what came after, while one whose lease merely ran out, with
nobody noticing, can still write its outcome. (The token stands in the field
`pending_since`, which every way out of pending that asynq has deletes: a task
that Go took over has no token that could match.)

All times are Unix seconds of one clock, `now`: for `RedisBroker` that of the
server, so that it does not matter what the clocks of clients say; for
`MemoryBroker` trio's.

Errors: whatever the link raises; `terzetto.redis.LinkLostError` comes out of
`enqueue` and the signals only: the others are sent again until the link answers,
which their tokens make safe. `MessageError` where a message cannot be written.
Cancelling: a call that was cancelled may have taken effect, or not. A task whose
`dequeue` was cancelled after it was sent is active under a token that nobody
knows, and comes back when its lease runs out.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from terzetto.tasks._broker_values import (
    Batch,
    CancelRequest,
    Completion,
    Enqueue,
    Forwarded,
    Lease,
    Outcome,
    Placement,
)
from terzetto.tasks._message import (
    EnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    WorkerInfo,
)

LEASE_SECONDS: Final = 30.0
"""How long a lease lasts, as in asynq: all who share a queue have to agree on it."""

BATCH: Final = 100
"""How many tasks one step of the upkeep moves at most."""

BATCH_SECONDS: Final = 120.0
"""How long a batch may take to become one task, as in asynq; then its tasks go back."""


class Wakeups(Protocol):
    """Hints that tasks have become pending. They may be missing or needless: poll as well."""

    async def wait(self) -> frozenset[str]:
        """Wait for hints; return the queues that they were about, all since the last call.

        After an outage that is every queue. Cancelling loses none.
        """
        ...


class OutcomeWatch(Protocol):
    """The end of one task, as those hear of it who watch. Ends written by Go are not heard."""

    @property
    def was_there(self) -> bool:
        """Whether there was such a task when watching began, or began again."""
        ...

    async def wait(self) -> Outcome | None:
        """Wait for the end; None after an outage: look for yourself, then wait again."""
        ...


class Broker(Protocol):
    """Where tasks are kept. See the module for times, errors, tokens and cancelling."""

    def now(self) -> float:
        """Return the time that all times of tasks are measured by, in Unix seconds."""
        ...

    async def sync_clock(self) -> None:
        """Compare clocks with the server, so that `now` is right; the others do when it is time."""
        ...

    # ------------------------------------------------------------ producers

    async def enqueue(
        self, entries: Sequence[Enqueue], *, replicas: int = 0, within: float = 1.0
    ) -> list[Placement]:
        """Enqueue tasks with one write; return what became of each, in their order.

        Each is enqueued as a whole or not at all, without regard to the others. Those
        of one queue keep their order. Servers of ours that are idle are woken.

        With `replicas`, it waits up to `within` seconds for so many to have them; that
        takes a write for each queue.

        Raises:
            LinkLostError: nothing is known of those that are not in Redis now; with
                `replicas`, of any.
            NotReplicatedError: they were enqueued, but fewer replicas have them.
            MessageError: a message cannot be written; nothing was enqueued.
        """
        ...

    def watch_outcome(self, queue: str, task_id: str) -> AbstractAsyncContextManager[OutcomeWatch]:
        """Watch for the end of a task for the time of a block."""
        ...

    # -------------------------------------------------------------- workers

    async def dequeue(
        self, queues: Sequence[str], limit: int, *, lease_for: float = LEASE_SECONDS
    ) -> list[Lease]:
        """Take up to `limit` tasks, from the first queue as long as it has some, then the next.

        Paused queues have none. The oldest come first. Returns at once, if need be
        with nothing. The lock of a unique task is made to last as long as the lease.
        An id in pending without a task is dropped.

        What Redis refuses after some were taken is logged, and those are returned.
        Cancelling hands back what was taken; what Redis is about to give lapses.
        """
        ...

    async def extend(
        self, leases: Sequence[Lease], *, lease_for: float = LEASE_SECONDS
    ) -> tuple[float, set[str]]:
        """Put off the end of leases to now + `lease_for`, and renew the locks of unique tasks.

        Returns the new end and the tokens of those that were lost: their tasks belong
        to somebody else, and no outcome of theirs will be written.
        """
        ...

    async def complete(
        self, lease: Lease, *, result: bytes | None = None, retain: bool = True
    ) -> bool:
        """Write that the task succeeded; release its lock; count it.

        It is kept for its retention, or deleted if that is 0 or `retain` is False.
        `result`, unless None, becomes the task's result. Returns False if the lease is lost.
        """
        ...

    async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
        """Write that tasks succeeded, as `complete`; those of a queue go together.

        If it raises, those of some queues may have been written.
        """
        ...

    async def requeue(self, lease: Lease) -> bool:
        """Give the task back, next to be taken; nothing is counted. False: the lease is lost."""
        ...

    async def retry(
        self, lease: Lease, *, at: float, error: str | None, is_failure: bool = True
    ) -> bool:
        """Let the task be tried again at `at` (Unix seconds). False: the lease is lost.

        `error` and the time are noted in the message, unless it is None. Only if
        `is_failure`, it counts as a retry and in the statistics.
        """
        ...

    async def archive(self, lease: Lease, *, error: str) -> bool:
        """Give the task up, with the text of its last error; count it. False: the lease is lost.

        Its lock remains, as in asynq, until its time is over or the task is deleted.
        """
        ...

    async def write_result(self, lease: Lease, data: bytes) -> bool:
        """Set the task's result while it is running. False: the lease is lost."""
        ...

    # --------------------------------------------------------------- upkeep

    async def forward(self, queue: str) -> Forwarded:
        """Move tasks that are due to pending, or to their group.

        Up to `BATCH` of those that were scheduled, then as many of the retried.
        """
        ...

    async def take_expired(
        self,
        queue: str,
        *,
        grace: float = 0.0,
        lease_for: float = LEASE_SECONDS,
    ) -> list[Lease]:
        """Take over up to `BATCH` active tasks whose leases ran out `grace` seconds ago or earlier.

        Those that Go's servers hold, by whose clocks leases may end later, must have
        run out `LEASE_SECONDS` ago. The caller holds new leases, and says what
        is to become of the tasks with `retry` or `archive`. Of several callers only
        one gets a task. Active ids without a task are dropped.
        """
        ...

    async def delete_expired(self, queue: str) -> int:
        """Delete completed and archived tasks whose time is over; return how many.

        Up to `BATCH` of each; the locks of unique ones are released.
        """
        ...

    async def list_groups(self, queue: str) -> list[str]:
        """Return the names of the groups that hold tasks."""
        ...

    async def take_batch(
        self,
        queue: str,
        group: str,
        *,
        max_size: int = 0,
        max_delay: float = 0.0,
        grace: float,
    ) -> Batch | None:
        """Take tasks of a group to aggregate them, if it is time to, for `BATCH_SECONDS`.

        It is if there are `max_size` (the oldest so many are taken), if the oldest
        waits for `max_delay` seconds, or if the last has joined `grace` seconds ago (all
        are taken); 0 switches the first two off.
        """
        ...

    async def finish_batch(self, batch: Batch, aggregate: Enqueue) -> Placement | None:
        """Enqueue what came of a batch, into the same queue, and delete its tasks, in one step.

        The locks of the deleted are released. Returns None, and does nothing, if the
        batch went back to its group before. Unless the placement is `Placed`, the
        batch stays, and goes back at its deadline.
        """
        ...

    async def reclaim_batches(self, queue: str) -> int:
        """Put the tasks of batches that are overdue back into their groups; return how many."""
        ...

    # -------------------------------------------------------------- signals

    def open_wakeups(self, queues: Sequence[str]) -> AbstractAsyncContextManager[Wakeups]:
        """Hear when tasks become pending in any of `queues`, for the time of a block.

        Tasks that Go enqueues or forwards are not heard.
        """
        ...

    def open_cancels(self) -> AbstractAsyncContextManager[AsyncIterator[CancelRequest]]:
        """Hear of all wishes to cancel running tasks, for the time of a block.

        Those sent during an outage are missed.
        """
        ...

    async def send_cancel(self, request: CancelRequest) -> None:
        """Send the wish that a task be cancelled to all servers."""
        ...

    # -------------------------------------------------- servers, schedulers

    async def write_server(
        self, info: ServerInfo, workers: Sequence[WorkerInfo], *, ttl: int = 10
    ) -> None:
        """Write what a server says of itself and all that it is running, for `ttl` seconds.

        Only what changed since this broker's last call for the server is sent.
        """
        ...

    async def clear_server(self, info: ServerInfo) -> None:
        """Delete what `write_server` wrote."""
        ...

    async def write_entries(
        self, scheduler_id: str, entries: Sequence[SchedulerEntry], *, ttl: int = 20
    ) -> None:
        """Write a scheduler's entries, all of them, for `ttl` seconds."""
        ...

    async def clear_entries(self, scheduler_id: str) -> None:
        """Delete what `write_entries` wrote."""
        ...

    async def record_event(self, entry_id: str, event: EnqueueEvent) -> None:
        """Add to an entry's history, of which the last 1000 are kept, for 90 days."""
        ...

    # --------------------------------------------------------------- limits

    async def acquire(self, scope: str, holder: str, *, limit: int, until: float) -> bool:
        """Take a place in a scope that has `limit` places; False if none is free.

        The place is given up by `release`, or at `until` (Unix seconds). Who holds one
        gets it again, with the new end. Go's semaphore of the same scope counts too.
        """
        ...

    async def release(self, scope: str, holder: str) -> None:
        """Give a place up; nothing happens if it is gone."""
        ...

    async def take_rate(self, scope: str, *, per_second: float, burst: int) -> float:
        """Take one of the turns of a scope; return 0.0, or the seconds until there is one.

        `burst` turns may come at once, and `per_second` on average.
        """
        ...
