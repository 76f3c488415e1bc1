"""What goes to a broker and comes back: entries, leases, outcomes and the like. Values only."""

import attrs

from terzetto.tasks._message import TaskMessage, TaskState


@attrs.frozen(kw_only=True)
class Tick:
    """A moment of a schedule, at which only one of all schedulers may enqueue.

    Attributes:
        schedule: what is the same for this schedule in all schedulers.
        at: the moment, in Unix seconds; those of a schedule only rise.
    """

    schedule: str
    at: float


@attrs.frozen(kw_only=True)
class Enqueue:
    """A task to be enqueued.

    It becomes scheduled if it is due later than now, else aggregating if its
    message has a group, else pending. A scheduled one with a group joins it when
    it is due.

    Attributes:
        message: the task; its `unique_key` is set exactly if it is unique.
        process_at: Unix seconds before which it may not start; 0: at once.
        process_in: the same, in seconds from now on.
        unique_for: whole seconds that its lock lasts, at least 1, if it is unique;
            they begin when it is due.
        tick: enqueue it only if nobody has enqueued this tick, or a later one.
    """

    message: TaskMessage
    process_at: float = 0.0
    process_in: float = 0.0
    unique_for: int = 0
    tick: Tick | None = None

    def due_at(self, now: float) -> float:
        """Return when it may start if it is enqueued at `now`, in Unix seconds."""
        return max(self.process_at, now + self.process_in)

    def state_at(self, now: float) -> TaskState:
        """Return the state that it begins in if it is enqueued at `now`."""
        if self.due_at(now) > now:
            return TaskState.SCHEDULED
        return TaskState.AGGREGATING if self.message.group else TaskState.PENDING

    def lock_seconds(self, now: float) -> int:
        """Return how many seconds its lock lasts from `now` on; 0: it has none."""
        if not self.message.unique_key:
            return 0
        return self.unique_for + int(self.due_at(now) - now)


@attrs.frozen
class Placed:
    """The task was enqueued and is in this state."""

    state: TaskState


@attrs.frozen
class Conflict:
    """Nothing was enqueued: the queue has a task with this id."""


@attrs.frozen
class Duplicate:
    """Nothing was enqueued: the task `holder` has the lock of tasks like this one."""

    holder: str


@attrs.frozen
class Ticked:
    """Nothing was enqueued: somebody has enqueued this tick, or a later one."""


Placement = Placed | Conflict | Duplicate | Ticked


@attrs.frozen(kw_only=True, eq=False)
class Lease:
    """The right to run a task and to say what came of it, until it is lost.

    Attributes:
        message: the task as it was when the lease began.
        token: unique to this lease.
        expires_at: Unix seconds at which others may take the task, unless it is
            extended. The lease itself does not change; `extend` returns the new end.
    """

    message: TaskMessage
    token: str
    expires_at: float

    @property
    def queue(self) -> str:
        """The queue that the task is in."""
        return self.message.queue


@attrs.frozen
class Completion:
    """The success of a task, to be written with others.

    Attributes:
        lease: the right to write it.
        result: becomes the task's result, unless None.
        retain: whether the task is kept for its retention.
    """

    lease: Lease
    result: bytes | None = None
    retain: bool = True


@attrs.frozen(kw_only=True)
class Forwarded:
    """What a round of forwarding did.

    Attributes:
        moved: how many tasks it moved.
        next_at: Unix seconds at which the next task is due, or None if there is
            none; not later than now if there was more than one round may move.
    """

    moved: int
    next_at: float | None


@attrs.frozen(kw_only=True)
class Batch:
    """Tasks of a group that somebody is aggregating.

    Attributes:
        queue: the queue that they are in.
        group: the group.
        set_id: unique to this batch.
        messages: the tasks in the order in which they joined.
        deadline: Unix seconds at which they go back to their group, unless
            `finish_batch` came first.
    """

    queue: str
    group: str
    set_id: str
    messages: tuple[TaskMessage, ...]
    deadline: float


@attrs.frozen(kw_only=True)
class Outcome:
    """How a task ended, as far as those who wait for it hear of it.

    Attributes:
        state: COMPLETED or ARCHIVED, also if nothing of the task was kept.
        result: what its handler wrote, or None.
        error: the text of its last failure, or ``""``.
    """

    state: TaskState
    result: bytes | None = None
    error: str = ""


@attrs.frozen(kw_only=True)
class CancelRequest:
    """The wish that a running task be cancelled.

    Attributes:
        task_id: the task.
        queue: only the one in this queue; None: of any queue, which Go understands too.
        drop: it is archived and not tried again; Go's servers don't hear such a request.
    """

    task_id: str
    queue: str | None = None
    drop: bool = False

    def is_for(self, task: TaskMessage) -> bool:
        """Return whether it is this one."""
        return task.id == self.task_id and self.queue in (None, task.queue)
