"""The names of everything that task queues keep in Redis. Pure.

All keys of one queue share the tag ``{queue}`` and with it one slot of a cluster.
Those that asynq does not know are marked; Go neither reads nor deletes them.
"""

import hashlib
from binascii import crc_hqx
from typing import Final

import attrs

SLOTS: Final = 16_384
"""How many slots a Redis cluster has."""

QUEUES: Final = "asynq:queues"
SERVERS: Final = "asynq:servers"
WORKERS: Final = "asynq:workers"
SCHEDULERS: Final = "asynq:schedulers"
CANCEL_CHANNEL: Final = "asynq:cancel"
OWN_CANCEL_CHANNEL: Final = "asynq:cancel:terzetto"
"""Our own: cancel messages that name a queue or say what is to become of the task."""

DAY: Final = 86_400
"""Seconds."""

STATISTICS_DAYS: Final = 90
"""How long the counters of a day, and archived tasks, are kept."""

MAX_ARCHIVED: Final = 10_000
"""How many archived tasks a queue keeps."""

MAX_EVENTS: Final = 1000
"""How many events the history of a scheduler's entry keeps."""


@attrs.frozen
class QueueKeys:
    """The keys and channels of one queue."""

    queue: str
    prefix: str = attrs.field(init=False)
    tasks: str = attrs.field(init=False)
    pending: str = attrs.field(init=False)
    active: str = attrs.field(init=False)
    lease: str = attrs.field(init=False)
    scheduled: str = attrs.field(init=False)
    retry: str = attrs.field(init=False)
    archived: str = attrs.field(init=False)
    completed: str = attrs.field(init=False)
    groups: str = attrs.field(init=False)
    sets: str = attrs.field(init=False)
    paused: str = attrs.field(init=False)
    processed: str = attrs.field(init=False)
    failed: str = attrs.field(init=False)
    ticks: str = attrs.field(init=False)
    """Our own: a hash of each schedule's last tick, so that many schedulers enqueue it once."""
    wake_channel: str = attrs.field(init=False)
    """Our own: something became pending."""

    def __attrs_post_init__(self) -> None:
        """Build the names once; they are used for every task."""
        prefix = f"asynq:{{{self.queue}}}:"
        for name, key in (
            ("prefix", prefix),
            ("tasks", f"{prefix}t:"),
            ("pending", f"{prefix}pending"),
            ("active", f"{prefix}active"),
            ("lease", f"{prefix}lease"),
            ("scheduled", f"{prefix}scheduled"),
            ("retry", f"{prefix}retry"),
            ("archived", f"{prefix}archived"),
            ("completed", f"{prefix}completed"),
            ("groups", f"{prefix}groups"),
            ("sets", f"{prefix}aggregation_sets"),
            ("paused", f"{prefix}paused"),
            ("processed", f"{prefix}processed"),
            ("failed", f"{prefix}failed"),
            ("ticks", f"{prefix}ticks"),
            ("wake_channel", f"{prefix}wake"),
        ):
            object.__setattr__(self, name, key)

    @property
    def slot(self) -> int:
        """The slot of a cluster that all of them are in."""
        tag = self.queue.partition("}")[0]  # where a cluster ends it
        return crc_hqx(tag.encode(), 0) % SLOTS

    def task(self, task_id: str) -> str:
        """Return the key of a task's hash."""
        return self.tasks + task_id

    def group(self, group: str) -> str:
        """Return the key of the tasks that wait in a group."""
        return f"{self.prefix}g:{group}"

    def aggregation_set(self, group: str, set_id: str) -> str:
        """Return the key of tasks of a group that are being aggregated."""
        return f"{self.prefix}g:{group}:{set_id}"

    def processed_on(self, day: str) -> str:
        """Return the key of a day's counter; `day` as 2026-01-31, UTC."""
        return f"{self.processed}:{day}"

    def failed_on(self, day: str) -> str:
        """Return the key of a day's counter of failures; `day` as 2026-01-31, UTC."""
        return f"{self.failed}:{day}"

    def unique(self, task_type: str, payload: bytes | None) -> str:
        """Return the key of the lock of unique tasks with this type and payload.

        A payload that is absent (None) is another than an empty one.
        """
        if payload is None:
            return f"{self.prefix}unique:{task_type}:"
        digest = hashlib.md5(payload, usedforsecurity=False).hexdigest()
        return f"{self.prefix}unique:{task_type}:{digest}"

    def outcome_channel(self, task_id: str) -> str:
        """Return the channel that hears of the task's end; our own."""
        return f"{self.prefix}done:{task_id}"


def server_key(host: str, pid: int, server_id: str) -> str:
    """Return the key of what a server says of itself."""
    return f"asynq:servers:{{{host}:{pid}:{server_id}}}"


def workers_key(host: str, pid: int, server_id: str) -> str:
    """Return the key of what a server is running."""
    return f"asynq:workers:{{{host}:{pid}:{server_id}}}"


def scheduler_key(scheduler_id: str) -> str:
    """Return the key of a scheduler's entries."""
    return f"asynq:schedulers:{{{scheduler_id}}}"


def history_key(entry_id: str) -> str:
    """Return the key of what an entry has enqueued."""
    return f"asynq:scheduler_history:{entry_id}"


def semaphore_key(scope: str) -> str:
    """Return the key of those who hold a place in a scope that is limited; also Go's."""
    return f"asynq:sema:{scope}"


def rate_key(scope: str) -> str:
    """Return the key of the clock of a scope whose rate is limited; our own."""
    return f"asynq:rate:{scope}"
