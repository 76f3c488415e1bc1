"""What the wire of asynq keeps as bytes, as values: tasks, servers, workers, schedulers.

Each type has `encode` and `decode`; the bytes are proto3 messages (`_asynq.proto`)
and the same that Go reads and writes. Times are Unix seconds: whole ones where
the wire has whole ones, floats where it has nanoseconds. Pure.

`decode` raises `MessageError` for bytes that are no such message; `encode` does
so for values that the wire cannot hold (a string that is no UTF-8, a number
beyond its bits). Only the text of an error is bent into shape instead, so that
no outcome is ever lost for the sake of its text.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Self, TypeVar

import attrs
from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from terzetto.tasks import _asynq_pb2 as pb
from terzetto.tasks._errors import MessageError

M = TypeVar("M", bound=Message)

_YEAR_ONE: Final = -62_135_596_800  # Go's zero time, in Unix seconds: "never"
_NANOS: Final = 1_000_000_000
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_REFUSALS: Final = (DecodeError, EncodeError, ValueError, TypeError, OverflowError)


class TaskState(enum.Enum):
    """Where a task is in its life; the values are those of the field `state` in Redis."""

    ACTIVE = "active"
    PENDING = "pending"
    SCHEDULED = "scheduled"
    RETRY = "retry"
    ARCHIVED = "archived"
    COMPLETED = "completed"
    AGGREGATING = "aggregating"


@attrs.frozen(kw_only=True)
class TaskMessage:
    """A task as the wire has it.

    Attributes:
        type: what kind of task it is; never blank.
        payload: the bytes that its handler gets.
        id: unique in its queue.
        queue: the queue that it is in.
        max_retry: how many retries there may be after the first attempt.
        retried: how many there were.
        error: the text of the last failure, or ``""``.
        timeout: seconds that one attempt may take; 0: no limit of this kind.
        deadline: Unix second at which an attempt ends; 0: none.
        unique_key: the whole key of its lock in Redis, or ``""``.
        last_failed_at: Unix second of the last failure; 0: never.
        retention: seconds that it is kept after its completion; 0: it is deleted.
        completed_at: Unix second of its completion; 0: not completed.
        group: the group that it is aggregated in, or ``""``.
        headers: texts that travel with it.
    """

    type: str
    payload: bytes = b""
    id: str
    queue: str
    max_retry: int = 0
    retried: int = 0
    error: str = ""
    timeout: int = 0
    deadline: int = 0
    unique_key: str = ""
    last_failed_at: int = 0
    retention: int = 0
    completed_at: int = 0
    group: str = ""
    headers: Mapping[str, str] = _NO_HEADERS

    def encode(self) -> bytes:
        """Return the bytes of this task.

        Raises:
            MessageError: a text is no UTF-8, or a number needs more bits than the wire has.
        """
        try:
            message = pb.TaskMessage(
                type=self.type,
                payload=self.payload,
                id=self.id,
                queue=self.queue,
                retry=self.max_retry,
                timeout=self.timeout,
            )
            # Of a new task these are nothing, and what is nothing is not on the wire.
            if self.retried or self.error or self.last_failed_at:
                message.retried = self.retried
                message.error_msg = _any_text(self.error)
                message.last_failed_at = self.last_failed_at
            if self.deadline:
                message.deadline = self.deadline
            if self.unique_key:
                message.unique_key = self.unique_key
            if self.retention or self.completed_at:
                message.retention = self.retention
                message.completed_at = self.completed_at
            if self.group:
                message.group_key = self.group
            if self.headers:
                message.headers.update(self.headers)
            return message.SerializeToString()
        except _REFUSALS as error:
            raise _unwritable(f"task {self.id!r} of type {self.type!r}", error) from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the task that `data` stands for; raises `MessageError` if it is none."""
        message = _parse(pb.TaskMessage, data)
        return cls(
            type=message.type,
            payload=message.payload,
            id=message.id,
            queue=message.queue,
            max_retry=message.retry,
            retried=message.retried,
            error=message.error_msg,
            timeout=message.timeout,
            deadline=message.deadline,
            unique_key=message.unique_key,
            last_failed_at=message.last_failed_at,
            retention=message.retention,
            completed_at=message.completed_at,
            group=message.group_key,
            headers=dict(message.headers) if message.headers else _NO_HEADERS,
        )

    def with_failure(self, error: str | None, at: int, *, counts: bool) -> Self:
        """Return the task after a failure at `at` (Unix seconds).

        An `error` of None means that it was no failure. If it `counts`, it was a retry.
        """
        if error is None:
            return self
        retried = self.retried + 1 if counts else self.retried
        return attrs.evolve(self, error=_any_text(error), last_failed_at=at, retried=retried)


@attrs.frozen(kw_only=True)
class TaskInfo:
    """A task and what its queue knows about it at one moment.

    Attributes:
        message: the task.
        state: where it is.
        next_process_at: Unix seconds at which it may start; None: at no certain time.
        result: the bytes that its handler wrote, or None.
        is_orphaned: it is active, but its worker has let its lease run out.
    """

    message: TaskMessage
    state: TaskState
    next_process_at: float | None = None
    result: bytes | None = None
    is_orphaned: bool = False

    @property
    def id(self) -> str:
        """The task's id."""
        return self.message.id

    @property
    def queue(self) -> str:
        """The task's queue."""
        return self.message.queue


@attrs.frozen(kw_only=True)
class ServerInfo:
    """What a running server says of itself.

    Attributes:
        host: the name of its machine.
        pid: the number of its process.
        server_id: unique to this server.
        concurrency: how many tasks it runs at once.
        queues: its queues and their priorities, as configured.
        strict_priority: whether a queue waits until those before it are empty.
        status: ``"new"``, ``"active"``, ``"stopped"`` or ``"closed"``.
        started_at: Unix seconds.
        active_workers: how many tasks it is running.
    """

    host: str
    pid: int
    server_id: str
    concurrency: int
    queues: Mapping[str, int]
    strict_priority: bool = False
    status: str = "active"
    started_at: float
    active_workers: int = 0

    def encode(self) -> bytes:
        """Return the bytes of this server; raises `MessageError` as `TaskMessage.encode`."""
        try:
            return pb.ServerInfo(
                host=self.host,
                pid=self.pid,
                server_id=self.server_id,
                concurrency=self.concurrency,
                queues=self.queues,
                strict_priority=self.strict_priority,
                status=self.status,
                start_time=_timestamp(self.started_at),
                active_worker_count=self.active_workers,
            ).SerializeToString()
        except _REFUSALS as error:
            raise _unwritable(f"server {self.server_id!r}", error) from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the server that `data` stands for; raises `MessageError` if it is none."""
        message = _parse(pb.ServerInfo, data)
        return cls(
            host=message.host,
            pid=message.pid,
            server_id=message.server_id,
            concurrency=message.concurrency,
            queues=dict(message.queues),
            strict_priority=message.strict_priority,
            status=message.status,
            started_at=_seconds(message.start_time),
            active_workers=message.active_worker_count,
        )


@attrs.frozen(kw_only=True)
class WorkerInfo:
    """A task that a server is running at this moment.

    Attributes:
        host: the name of the server's machine.
        pid: the number of its process.
        server_id: the server's id.
        task_id: the task's id.
        task_type: the task's type.
        payload: the task's payload.
        queue: the task's queue.
        started_at: Unix seconds at which this attempt began.
        deadline: Unix seconds at which this attempt ends.
    """

    host: str
    pid: int
    server_id: str
    task_id: str
    task_type: str
    payload: bytes
    queue: str
    started_at: float
    deadline: float

    def encode(self) -> bytes:
        """Return the bytes of this worker; raises `MessageError` as `TaskMessage.encode`."""
        try:
            return pb.WorkerInfo(
                host=self.host,
                pid=self.pid,
                server_id=self.server_id,
                task_id=self.task_id,
                task_type=self.task_type,
                task_payload=self.payload,
                queue=self.queue,
                start_time=_timestamp(self.started_at),
                deadline=_timestamp(self.deadline),
            ).SerializeToString()
        except _REFUSALS as error:
            raise _unwritable(f"worker of task {self.task_id!r}", error) from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the worker that `data` stands for; raises `MessageError` if it is none."""
        message = _parse(pb.WorkerInfo, data)
        return cls(
            host=message.host,
            pid=message.pid,
            server_id=message.server_id,
            task_id=message.task_id,
            task_type=message.task_type,
            payload=message.task_payload,
            queue=message.queue,
            started_at=_seconds(message.start_time),
            deadline=_seconds(message.deadline),
        )


@attrs.frozen(kw_only=True)
class SchedulerEntry:
    """A task that a scheduler enqueues again and again.

    Attributes:
        id: unique to this entry of this scheduler.
        spec: when, as a cron spec or ``@every 1m0s``.
        task_type: the task's type.
        payload: the task's payload.
        options: its options in asynq's text form, such as ``Queue("low")``.
        next_at: Unix seconds of the next time, or None.
        previous_at: Unix seconds of the last time, or None: not yet.
    """

    id: str
    spec: str
    task_type: str
    payload: bytes = b""
    options: tuple[str, ...] = ()
    next_at: float | None = None
    previous_at: float | None = None

    def encode(self) -> bytes:
        """Return the bytes of this entry.

        Raises:
            MessageError: as `TaskMessage.encode`, or an option has no bracket: Go's
                readers of entries would crash at it.
        """
        for option in self.options:
            if "(" not in option:
                raise MessageError(f"option {option!r} of entry {self.id!r} is not as Name(value)")
        try:
            return pb.SchedulerEntry(
                id=self.id,
                spec=self.spec,
                task_type=self.task_type,
                task_payload=self.payload,
                enqueue_options=self.options,
                next_enqueue_time=_timestamp(self.next_at),
                prev_enqueue_time=_timestamp(self.previous_at),
            ).SerializeToString()
        except _REFUSALS as error:
            raise _unwritable(f"scheduler entry {self.id!r}", error) from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the entry that `data` stands for; raises `MessageError` if it is none."""
        message = _parse(pb.SchedulerEntry, data)
        return cls(
            id=message.id,
            spec=message.spec,
            task_type=message.task_type,
            payload=message.task_payload,
            options=tuple(message.enqueue_options),
            next_at=_time_or_never(message.next_enqueue_time),
            previous_at=_time_or_never(message.prev_enqueue_time),
        )


@attrs.frozen(kw_only=True)
class EnqueueEvent:
    """A task that a scheduler has enqueued, and when (Unix seconds)."""

    task_id: str
    enqueued_at: float

    def encode(self) -> bytes:
        """Return the bytes of this event; raises `MessageError` as `TaskMessage.encode`."""
        try:
            return pb.SchedulerEnqueueEvent(
                task_id=self.task_id, enqueue_time=_timestamp(self.enqueued_at)
            ).SerializeToString()
        except _REFUSALS as error:
            raise _unwritable(f"event of task {self.task_id!r}", error) from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the event that `data` stands for; raises `MessageError` if it is none."""
        message = _parse(pb.SchedulerEnqueueEvent, data)
        return cls(task_id=message.task_id, enqueued_at=_seconds(message.enqueue_time))


def _parse(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except _REFUSALS as error:
        raise MessageError(f"{len(data)} bytes are no {kind.__name__}: {error}") from error


def _unwritable(what: str, error: Exception) -> MessageError:
    return MessageError(f"{what} cannot be written: {error}")


def _any_text(text: str) -> str:
    """Return `text` if it can be written as UTF-8, else with marks where it cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _timestamp(seconds: float | None) -> Timestamp:
    if seconds is None:
        return Timestamp(seconds=_YEAR_ONE)
    whole, nanos = divmod(round(seconds * 1_000_000), 1_000_000)  # a float has no more digits
    return Timestamp(seconds=whole, nanos=nanos * 1000)


def _seconds(timestamp: Timestamp) -> float:
    # One division, rounded once: a sum with a fraction may be off by the last bit.
    return (timestamp.seconds * _NANOS + timestamp.nanos) / _NANOS


def _time_or_never(timestamp: Timestamp) -> float | None:
    return None if timestamp.seconds <= _YEAR_ONE else _seconds(timestamp)
