"""The client: enqueues tasks, one or many, and waits for their results.

It keeps nothing but its options; any number of clients and tasks may use one
connection. Everything is checked before Redis is touched (`_task.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, Unpack, overload

import attrs
import trio

from terzetto._shared._logging import Logger
from terzetto.codec import Codec
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis
from terzetto.tasks._broker import Broker, OutcomeWatch
from terzetto.tasks._broker_values import (
    CancelRequest,
    Conflict,
    Duplicate,
    Enqueue,
    Outcome,
    Placed,
    Placement,
)
from terzetto.tasks._errors import (
    DuplicateTaskError,
    TaskFailedError,
    TaskIdConflictError,
    TaskNotFoundError,
)
from terzetto.tasks._inspection import Inspection
from terzetto.tasks._memory_broker import MemoryBroker
from terzetto.tasks._message import TaskInfo, TaskState
from terzetto.tasks._partitions import check_partitions, partition_names, partition_of
from terzetto.tasks._redis_broker import broker_of
from terzetto.tasks._task import Settled, Task, TaskOptions, merge, settle
from terzetto.tasks._trace import current_trace

T = TypeVar("T")

DEFAULT_MAX_PAYLOAD: Final = 64 * 1024 * 1024
_FIRST_LOOK: Final = 0.05  # seconds until a task is looked at whose end nobody told
_LAST_LOOK: Final = 1.0  # the same, after some looks
_LONGEST_WAIT: Final = 10**6  # seconds

Inject = Callable[[dict[str, str]], object]
"""Writes trace headers into the dict that it is given."""


@attrs.frozen(eq=False, repr=False)
class TaskHandle:
    """A task that was enqueued.

    Attributes:
        id: its id.
        queue: the queue that it went into; of a partitioned one, the partition.
        state: the state that it began in.
    """

    _broker: Broker
    _inspection: Inspection
    id: str
    queue: str
    state: TaskState

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id!r} in {self.queue!r}>"

    async def info(self) -> TaskInfo:
        """Return what the queue knows of it at this moment.

        Raises:
            TaskNotFoundError: it is done and was not kept, or was deleted.
        """
        info = await self._inspection.read_task(self.queue, self.id)
        if info is None:
            raise self._gone()
        return info

    @overload
    async def result(self) -> bytes | None: ...
    @overload
    async def result(self, codec: Codec[T]) -> T: ...

    async def result(self, codec: Codec[Any] | None = None) -> Any:
        """Wait until it is done or given up; return what its function wrote.

        Retries are waited for, so give it a deadline (`trio.fail_after`). Servers of
        ours tell at once; a task that Go runs is looked at once a second. Cancelling
        leaves the task as it is.

        Args:
            codec: makes a value of the bytes; no result counts as none.

        Raises:
            TaskFailedError: it was given up; with the text of its last error.
            TaskNotFoundError: it was deleted, or was done before somebody waited and had
                no retention.
            InvalidPayloadError: `codec` cannot read the result.
        """
        found = await self._wait()
        return found if codec is None else codec.decode(found or b"")

    async def _wait(self) -> bytes | None:
        patience = _FIRST_LOOK
        async with self._broker.watch_outcome(self.queue, self.id) as watch:
            while True:
                with trio.move_on_after(patience):
                    outcome = await watch.wait()
                    if outcome is not None:
                        return self._read(outcome)
                info = await self._inspection.read_task(self.queue, self.id)
                if info is None:
                    return await self._wait_last(watch)
                if info.state is TaskState.COMPLETED:
                    return info.result
                if info.state is TaskState.ARCHIVED:
                    raise TaskFailedError(self.id, info.message.error)
                patience = min(2 * patience, _LAST_LOOK)

    async def _wait_last(self, watch: OutcomeWatch) -> bytes | None:
        """Wait for the word of an end that came between two looks; it may be on its way."""
        outcome = None
        if watch.was_there:
            with trio.move_on_after(_LAST_LOOK):
                outcome = await watch.wait()
        if outcome is None:
            raise self._gone()
        return self._read(outcome)

    def _read(self, outcome: Outcome) -> bytes | None:
        if outcome.state is TaskState.ARCHIVED:
            raise TaskFailedError(self.id, outcome.error)
        return outcome.result

    async def cancel(self, *, drop: bool = False) -> None:
        """Ask for it to be cancelled, if it is running.

        It is tried again like one that failed, or with `drop`, which Go does not
        understand, archived. This only says that the wish was sent.
        """
        await self._broker.send_cancel(CancelRequest(task_id=self.id, queue=self.queue, drop=drop))

    def _gone(self) -> TaskNotFoundError:
        return TaskNotFoundError(
            f"queue {self.queue!r} has no task {self.id!r} any more: it was deleted, or is done"
            " and had no retention"
        )


@attrs.define(eq=False, repr=False, init=False)
class Client:
    """Enqueues tasks.

    Args:
        redis: a connection, or `terzetto.tasks.testing.MemoryBroker`.
        partitions: for queues that are spread over several slots of a cluster, over how
            many; all clients of the queue have to agree. Go's see the first one only.
        inject: called for each task with its headers, to write trace context into them.
        max_payload: bytes that a payload may have.
        replicas: how many replicas must have a task before `enqueue` returns, so that a
            fail-over does not lose it; 0 does not ask. Asking takes a round trip more
            for each queue.
        replicated_within: seconds that they have for it.
        logger: default: the standard library's ``terzetto.tasks``.

    Raises:
        InvalidNameError, InvalidOptionError: an option is wrong.
    """

    _broker: Broker
    _inspection: Inspection
    _partitions: Mapping[str, int]
    _inject: Inject | None
    _max_payload: int
    _replicas: int
    _within: float

    def __init__(
        self,
        redis: Redis | MemoryBroker,
        *,
        partitions: Mapping[str, int] | None = None,
        inject: Inject | None = None,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        replicas: int = 0,
        replicated_within: float = 1.0,
        logger: Logger | None = None,
    ) -> None:
        if max_payload < 0:
            raise InvalidOptionError(f"max_payload is {max_payload}: give bytes, at least 0")
        if replicas < 0 or not 0 < replicated_within < _LONGEST_WAIT:
            raise InvalidOptionError(
                f"replicas is {replicas!r}, replicated_within {replicated_within!r}: give 0 or"
                " more, and seconds"
            )
        broker = broker_of(redis, logger)
        self._broker = self._inspection = broker
        self._partitions = check_partitions(partitions or {})
        self._inject = inject
        self._max_payload = max_payload
        self._replicas = replicas
        self._within = replicated_within

    def __repr__(self) -> str:
        return f"<Client of {self._broker!r}>"

    async def enqueue(self, task: Task, **options: Unpack[TaskOptions]) -> TaskHandle:
        """Enqueue a task; options given here override its own, headers are put together.

        Cancelling: the task was enqueued, or not; with a `task_id` it can be tried again.

        Raises:
            DuplicateTaskError: it is unique, and another one holds the lock.
            TaskIdConflictError: the queue has a task with this id, in whatever state.
            InvalidNameError, InvalidOptionError, InvalidPayloadError: nothing was sent.
            LinkLostError: the reply was lost, and the task is not in Redis now; or nothing
                is known of it, if replicas were to have it.
            NotReplicatedError: it was enqueued, but too few replicas have it.
        """
        entry = self._entry(task, options)
        (placement,) = await self._place([entry])
        outcome = self._outcome(entry, placement)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def enqueue_many(
        self, tasks: Iterable[Task], **options: Unpack[TaskOptions]
    ) -> list[TaskHandle | DuplicateTaskError | TaskIdConflictError]:
        """Enqueue tasks with one write; return a handle, or the refusal, for each in its place.

        As `enqueue`, which says what is raised and when; `options` hold for all. Each is
        enqueued or refused for itself. Cancelling: each was enqueued, or not; those with a
        `task_id` can be tried again.
        """
        entries = [self._entry(task, options) for task in tasks]
        placements = await self._place(entries)
        return [
            self._outcome(entry, placement)
            for entry, placement in zip(entries, placements, strict=True)
        ]

    async def _place(self, entries: Sequence[Enqueue]) -> list[Placement]:
        return await self._broker.enqueue(entries, replicas=self._replicas, within=self._within)

    def _entry(self, task: Task, options: TaskOptions) -> Enqueue:
        settled = settle(merge(task, options), max_payload=self._max_payload, task=task)
        headers = self._headers(task, settled)
        if settled.queue not in self._partitions:
            return settled.entry(task, queue=settled.queue, headers=headers)
        names = partition_names(settled.queue, self._partitions[settled.queue])
        return self._partitioned(settled, task, names, headers)

    def _headers(self, task: Task, settled: Settled) -> Mapping[str, str]:
        own = task.options.get("headers")
        trace = current_trace()
        if not own and not trace and self._inject is None:
            return settled.headers
        headers = {**trace, **(own or {}), **settled.headers}
        if self._inject is not None:
            self._inject(headers)
        return headers

    def _partitioned(
        self,
        settled: Settled,
        task: Task,
        names: tuple[str, ...],
        headers: Mapping[str, str],
    ) -> Enqueue:
        """Choose the partition so that what has to meet does: ids, groups, unique tasks."""
        if settled.unique_for:
            key = f"{task.type}:".encode() + (task.payload or b"")
        else:
            key = (settled.group or settled.task_id).encode()
        if key:
            queue = partition_of(names, key)
            return settled.entry(task, queue=queue, headers=headers)
        entry = settled.entry(task, queue=names[0], headers=headers)
        queue = partition_of(names, entry.message.id.encode())
        return attrs.evolve(entry, message=attrs.evolve(entry.message, queue=queue))

    def _outcome(
        self, entry: Enqueue, placement: Placement
    ) -> TaskHandle | DuplicateTaskError | TaskIdConflictError:
        message = entry.message
        match placement:
            case Placed(state):
                return TaskHandle(self._broker, self._inspection, message.id, message.queue, state)
            case Duplicate(holder):
                return DuplicateTaskError(message.id, holder)
            case Conflict():
                return TaskIdConflictError(message.id, message.queue)
            case _:
                raise AssertionError(f"{placement} without a tick")
