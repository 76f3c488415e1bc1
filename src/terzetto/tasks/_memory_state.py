"""What `MemoryBroker` keeps of a queue, and the moves of its tasks. Pure.

As in Redis, a task is in one place at a time, which its state names; unlike
there, the place is nothing but the state, and lists are made by sorting.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable

import attrs

from terzetto.tasks._keys import DAY, MAX_ARCHIVED, STATISTICS_DAYS
from terzetto.tasks._message import TaskInfo, TaskMessage, TaskState


@attrs.define(kw_only=True)
class Stored:
    """A task, and what its hash and the scores of its places are in Redis.

    Attributes:
        message: the task.
        state: where it is.
        at: when it is due, joined its group, was archived, or may be deleted (Unix seconds).
        group: the group that it joins or is in, or ``""``.
        batch: the batch that it is in, or None.
        token: of the lease under which it is active, or ``""``.
        lease_end: Unix seconds.
        pending_since: Unix seconds.
        result: what its handler wrote, or None.
    """

    message: TaskMessage
    state: TaskState
    at: float
    group: str = ""
    batch: str | None = None
    token: str = ""
    lease_end: float = 0.0
    pending_since: float = 0.0
    result: bytes | None = None

    def info(self, now: float) -> TaskInfo:
        """Return it as an inspector sees it."""
        next_at = None
        if self.state is TaskState.PENDING:
            next_at = now
        elif self.state in {TaskState.SCHEDULED, TaskState.RETRY}:
            next_at = self.at
        return TaskInfo(
            message=self.message,
            state=self.state,
            next_process_at=next_at,
            result=self.result,
            is_orphaned=self.state is TaskState.ACTIVE and self.lease_end <= now,
        )


@attrs.define(kw_only=True)
class Lock:
    """The lock of a unique task: who holds it, and until when (Unix seconds)."""

    holder: str
    until: float


@attrs.define(kw_only=True)
class MemoryQueue:
    """One queue.

    Attributes:
        tasks: all its tasks by id.
        pending: ids; the next to be taken is the last.
        locks: by their key.
        is_paused: whether its tasks are kept from being taken.
        processed: attempts by day number, and -1 for all.
        failed: likewise.
        ticks: the last tick of each schedule.
        batches: deadline of each batch, with its group.
    """

    tasks: dict[str, Stored] = attrs.field(factory=dict[str, Stored])
    pending: deque[str] = attrs.field(factory=deque[str])
    locks: dict[str, Lock] = attrs.field(factory=dict[str, Lock])
    is_paused: bool = False
    processed: Counter[int] = attrs.field(factory=Counter[int])
    failed: Counter[int] = attrs.field(factory=Counter[int])
    ticks: dict[str, float] = attrs.field(factory=dict[str, float])
    batches: dict[str, tuple[str, float]] = attrs.field(factory=dict[str, tuple[str, float]])

    def sorted(
        self, state: TaskState, keep: Callable[[Stored], bool] | None = None
    ) -> list[Stored]:
        """Return the tasks of a state, the soonest or oldest first."""
        found = [
            stored
            for stored in self.tasks.values()
            if stored.state is state and (keep is None or keep(stored))
        ]
        return sorted(found, key=lambda stored: (stored.at, stored.message.id))

    def waiting(self, group: str) -> list[Stored]:
        """Return the tasks that wait in a group."""
        return self.sorted(
            TaskState.AGGREGATING, lambda stored: stored.batch is None and stored.group == group
        )

    def members(self, batch: str) -> list[Stored]:
        """Return the tasks of a batch."""
        return self.sorted(TaskState.AGGREGATING, lambda stored: stored.batch == batch)

    def groups(self) -> set[str]:
        """Return the groups in which tasks wait."""
        return {
            stored.group
            for stored in self.tasks.values()
            if stored.state is TaskState.AGGREGATING and stored.batch is None
        }

    def holder_of(self, lock: str, now: float) -> str | None:
        """Return who holds a lock."""
        found = self.locks.get(lock)
        return found.holder if found is not None and found.until > now else None

    def renew(self, stored: Stored, now: float, seconds: float) -> None:
        """Make the lock of a task last for `seconds` at least, if the task holds it."""
        lock = self.locks.get(stored.message.unique_key)
        if lock is not None and lock.holder == stored.message.id and lock.until > now:
            lock.until = max(lock.until, now + seconds)

    def unlock(self, stored: Stored) -> None:
        """Release the lock of a task, if the task holds it."""
        lock = self.locks.get(stored.message.unique_key)
        if lock is not None and lock.holder == stored.message.id:
            del self.locks[stored.message.unique_key]

    def make_pending(self, stored: Stored, now: float, *, is_next: bool = False) -> None:
        """Put a task into pending: as the last, or as the next."""
        self.move(stored, TaskState.PENDING, 0.0)
        stored.pending_since = now
        (self.pending.append if is_next else self.pending.appendleft)(stored.message.id)

    def move(self, stored: Stored, state: TaskState, at: float) -> None:
        """Put a task into another place."""
        if stored.state is TaskState.PENDING and stored.message.id in self.pending:
            self.pending.remove(stored.message.id)
        stored.state = state
        stored.at = at
        stored.token = ""
        stored.batch = None

    def erase(self, stored: Stored) -> None:
        """Delete a task and release its lock."""
        if stored.state is TaskState.PENDING:
            self.pending.remove(stored.message.id)
        self.unlock(stored)
        del self.tasks[stored.message.id]

    def erase_all(self, found: Iterable[Stored]) -> int:
        """Delete tasks; return how many."""
        doomed = list(found)
        for stored in doomed:
            self.erase(stored)
        return len(doomed)

    def trim(self, now: float) -> int:
        """Keep archived within its limits; return how many were deleted."""
        archived = self.sorted(TaskState.ARCHIVED)
        cutoff = now - STATISTICS_DAYS * DAY
        old = [stored for stored in archived if stored.at <= cutoff]
        return self.erase_all(old or archived[: max(0, len(archived) - MAX_ARCHIVED)])

    def count(self, now: float, *, failed: bool) -> None:
        """Count the end of an attempt."""
        for number in (int(now // DAY), -1):
            self.processed[number] += 1
            self.failed[number] += failed
