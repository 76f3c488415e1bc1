"""What an inspector needs of the place where tasks are kept, and what it is told.

`Inspection` is the part of a broker that looks at queues and puts them right by
hand; `Inspector` (`_inspector.py`) is its public face, and checks arguments.
The times are those of `Broker.now`. Errors, cancelling: as `Broker` says.
"""

import enum
from collections.abc import Sequence
from datetime import date
from typing import Protocol

import attrs

from terzetto.tasks._message import (
    EnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskInfo,
    TaskState,
    WorkerInfo,
)


class Move(enum.Enum):
    """What may be done to a task by hand."""

    RUN = "run"
    ARCHIVE = "archive"
    DELETE = "delete"


@attrs.frozen(kw_only=True)
class QueueInfo:
    """A queue at one moment.

    Attributes:
        queue: its name.
        is_paused: whether its tasks are kept from being taken.
        pending: how many tasks wait to be run at once.
        active: how many are running.
        scheduled: how many wait for their time.
        retry: how many wait for their next attempt.
        archived: how many were given up.
        completed: how many are kept after their completion.
        aggregating: how many wait in groups, or are being aggregated.
        groups: how many groups those are in.
        processed: how many attempts ended today (UTC), with or without success.
        failed: how many of those failed.
        processed_total: as `processed`, since the queue began.
        failed_total: as `failed`, since the queue began.
        latency: seconds that the next task to run has been pending; 0.0 without one.
        memory: an estimate of the bytes that the queue takes, or None: not asked for.
        at: Unix seconds of this moment.
    """

    queue: str
    is_paused: bool
    pending: int
    active: int
    scheduled: int
    retry: int
    archived: int
    completed: int
    aggregating: int
    groups: int
    processed: int
    failed: int
    processed_total: int
    failed_total: int
    latency: float
    memory: int | None
    at: float

    @property
    def size(self) -> int:
        """How many tasks it holds, in all states."""
        return (
            self.pending
            + self.active
            + self.scheduled
            + self.retry
            + self.archived
            + self.completed
            + self.aggregating
        )


@attrs.frozen(kw_only=True)
class DayCount:
    """How many attempts ended on a day (UTC), and how many of those failed."""

    day: date
    processed: int
    failed: int


@attrs.frozen(kw_only=True)
class GroupInfo:
    """A group, and how many tasks wait in it."""

    group: str
    size: int


@attrs.frozen(kw_only=True)
class ServerState:
    """A server that is running, and the tasks that it is running."""

    info: ServerInfo
    workers: tuple[WorkerInfo, ...]


@attrs.frozen(kw_only=True)
class ClusterNode:
    """A member of a Redis cluster: its id and ``host:port``."""

    id: str
    address: str


class Inspection(Protocol):
    """Looks at queues and puts them right. See the module for errors and cancelling."""

    async def has_queue(self, queue: str) -> bool:
        """Tell whether there is a queue of this name."""
        ...

    async def list_queues(self) -> list[str]:
        """Return the names of all queues, sorted."""
        ...

    async def read_queues(
        self, queues: Sequence[str], *, memory: bool = False
    ) -> list[QueueInfo | None]:
        """Return what is known of each queue, or None for one that does not exist.

        `memory`: estimate that too, which takes Redis longer.
        """
        ...

    async def read_history(self, queue: str, days: int) -> list[DayCount]:
        """Return the counts of today and the days before, newest first, `days` in all."""
        ...

    async def list_group_sizes(self, queue: str) -> list[GroupInfo]:
        """Return the groups in which tasks wait, sorted."""
        ...

    async def read_task(self, queue: str, task_id: str) -> TaskInfo | None:
        """Return a task, or None if the queue has no such; `MessageError` if it can't be read."""
        ...

    async def list_tasks(
        self, queue: str, state: TaskState, *, group: str = "", first: int, count: int
    ) -> list[TaskInfo]:
        """Return up to `count` tasks of a state from the `first` on, counted from 0.

        Pending and active ones: the next to run, or the longest running, first. The
        others: the soonest, or the one that has been there longest, first. Aggregating
        ones need `group`; those that are being aggregated come last. Tasks that cannot
        be read are left out.
        """
        ...

    async def move_task(self, queue: str, task_id: str, move: Move) -> TaskState | None:
        """Run, archive or delete a task; return the state that it was in, or None: no such task.

        Raises:
            TaskStateError: it is active, or pending and to be run, or archived and to be archived.
        """
        ...

    async def move_tasks(self, queue: str, state: TaskState, move: Move, *, group: str = "") -> int:
        """Run, archive or delete all tasks of a state (of a group); return how many.

        Others may get their share of Redis's time meanwhile, and add more.
        """
        ...

    async def update_payload(self, queue: str, task_id: str, payload: bytes) -> bool:
        """Give a scheduled task another payload; False: no such task.

        Raises:
            TaskStateError: it is not scheduled.
        """
        ...

    async def pause(self, queue: str) -> bool:
        """Keep tasks of a queue from being taken; False: they are already."""
        ...

    async def resume(self, queue: str) -> bool:
        """Let tasks of a queue be taken again; False: it is not paused."""
        ...

    async def delete_queue(self, queue: str, *, force: bool) -> None:
        """Delete a queue and all that it has: tasks, locks, counters.

        Raises:
            QueueNotEmptyError: it holds tasks and `force` is False, or they are running.
        """
        ...

    async def list_servers(self) -> list[ServerState]:
        """Return the servers that are running, sorted by host, process and id."""
        ...

    async def list_entries(self) -> list[SchedulerEntry]:
        """Return the entries of all schedulers that are running, sorted by spec and id."""
        ...

    async def list_events(self, entry_id: str, *, first: int, count: int) -> list[EnqueueEvent]:
        """Return what an entry has enqueued, the newest first."""
        ...

    async def find_nodes(self, queue: str) -> list[ClusterNode]:
        """Return the cluster's nodes that have a queue, the master first.

        Raises:
            TaskStateError: there is no cluster, or nobody serves the slot.
        """
        ...
