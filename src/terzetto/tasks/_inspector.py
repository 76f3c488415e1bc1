"""The inspector: looks at queues, and puts them right by hand.

Its answers are of one moment each; others go on meanwhile. What one step changes
is changed as a whole; a step on all tasks of a state is many small ones, so that
Redis serves others between them. Called by the command and by applications.
"""

from collections.abc import Mapping
from typing import Any, Final

from terzetto._shared._logging import Logger
from terzetto.codec import Codec
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis
from terzetto.tasks._broker_values import CancelRequest
from terzetto.tasks._errors import QueueNotFoundError, TaskNotFoundError
from terzetto.tasks._inspection import (
    ClusterNode,
    DayCount,
    GroupInfo,
    Move,
    QueueInfo,
    ServerState,
)
from terzetto.tasks._keys import QueueKeys
from terzetto.tasks._memory_broker import MemoryBroker
from terzetto.tasks._message import EnqueueEvent, SchedulerEntry, TaskInfo, TaskState
from terzetto.tasks._queues import check_queue
from terzetto.tasks._redis_broker import broker_of
from terzetto.tasks._task import check_text, encode_payload

PAGE_SIZE: Final = 30
_MOST: Final = 10_000  # of a page, and of the days of a history

_WAITING: Final = (TaskState.SCHEDULED, TaskState.RETRY, TaskState.AGGREGATING)
_MOVABLE: Final[Mapping[Move, tuple[TaskState, ...]]] = {
    Move.RUN: (*_WAITING, TaskState.ARCHIVED),
    Move.ARCHIVE: (*_WAITING, TaskState.PENDING),
    Move.DELETE: (*_WAITING, TaskState.PENDING, TaskState.ARCHIVED, TaskState.COMPLETED),
}


class Inspector:
    """Looks at queues, and puts them right by hand.

    Every method that is given a queue raises `QueueNotFoundError` if there is none of
    that name, and `InvalidNameError` for one that no queue can have, unless it says
    otherwise; and all raise what the link raises. Cancelling: what was asked for was
    done, or not, or in part where it is about many tasks.

    Args:
        redis: a connection, or `terzetto.tasks.testing.MemoryBroker`.
        logger: where what cannot be read is reported; default: ``terzetto.tasks``.
    """

    def __init__(self, redis: Redis | MemoryBroker, *, logger: Logger | None = None) -> None:
        self._broker = broker_of(redis, logger)

    def __repr__(self) -> str:
        return f"<Inspector of {self._broker!r}>"

    # --------------------------------------------------------------- queues

    async def list_queues(self) -> list[str]:
        """Return the names of all queues, sorted."""
        return await self._broker.list_queues()

    async def queue_info(self, queue: str, *, memory: bool = False) -> QueueInfo:
        """Return what is known of a queue; with `memory`, also how much it takes."""
        (found,) = await self._broker.read_queues([check_queue(queue)], memory=memory)
        if found is None:
            raise _no_queue(queue)
        return found

    async def queue_infos(self, *, memory: bool = False) -> list[QueueInfo]:
        """Return what is known of all queues, sorted by name, with two questions in all."""
        queues = await self._broker.list_queues()
        found = await self._broker.read_queues(queues, memory=memory)
        return [info for info in found if info is not None]

    async def history(self, queue: str, *, days: int = 10) -> list[DayCount]:
        """Return how many attempts ended on each of the last `days` (UTC), today first.

        Raises:
            InvalidOptionError: `days` is no whole number from 1 to 10,000.
        """
        _check_count("days", days)
        await self._check(queue)
        return await self._broker.read_history(queue, days)

    async def list_groups(self, queue: str) -> list[GroupInfo]:
        """Return the groups in which tasks wait, and how many, sorted by name."""
        await self._check(queue)
        return await self._broker.list_group_sizes(queue)

    async def pause_queue(self, queue: str) -> bool:
        """Keep the tasks of a queue from being started; False: they are already.

        What runs goes on; what is due becomes pending.
        """
        await self._check(queue)
        return await self._broker.pause(queue)

    async def resume_queue(self, queue: str) -> bool:
        """Let the tasks of a queue be started again; False: it was not paused."""
        await self._check(queue)
        return await self._broker.resume(queue)

    async def delete_queue(self, queue: str, *, force: bool = False) -> None:
        """Delete a queue with its counters, its pause and, with `force`, its tasks and their locks.

        Raises:
            QueueNotEmptyError: it holds tasks in any state and `force` is False, or some
                of them are running.
        """
        await self._check(queue)
        await self._broker.delete_queue(queue, force=force)

    # ---------------------------------------------------------------- tasks

    async def task_info(self, queue: str, task_id: str) -> TaskInfo:
        """Return a task.

        Raises:
            TaskNotFoundError: the queue has no such task.
            MessageError: the task cannot be read.
        """
        _check_id(queue, task_id)
        info = await self._broker.read_task(queue, task_id)
        if info is None:
            raise await self._missing(queue, task_id)
        return info

    async def list_tasks(
        self,
        queue: str,
        state: TaskState,
        *,
        group: str | None = None,
        page: int = 1,
        size: int = PAGE_SIZE,
    ) -> list[TaskInfo]:
        """Return one page of the tasks of a state.

        Pending and active ones: the next to run, or the longest running, first. The
        others: the soonest due, or the longest there, first. Tasks that cannot be read
        are left out.

        Args:
            queue: the queue.
            state: the state.
            group: which group; for aggregating ones, and needed there.
            page: from 1 on.
            size: of a page, up to 10,000.

        Raises:
            InvalidOptionError: a page or size out of range, a group missing or too much.
        """
        check_queue(queue)
        _check_state(state)
        name = _check_group(state, group)
        _check_page(page, size)
        found = await self._broker.list_tasks(
            queue, state, group=name, first=(page - 1) * size, count=size
        )
        if not found:
            await self._check(queue)
        return found

    async def run_task(self, queue: str, task_id: str) -> None:
        """Make a task pending that waits, was archived or is completed.

        Raises:
            TaskNotFoundError: the queue has no such task.
            TaskStateError: it is pending or active.
        """
        await self._move(queue, task_id, Move.RUN)

    async def archive_task(self, queue: str, task_id: str) -> None:
        """Give a task up that is not running.

        Raises:
            TaskNotFoundError: the queue has no such task.
            TaskStateError: it is active or archived.
        """
        await self._move(queue, task_id, Move.ARCHIVE)

    async def delete_task(self, queue: str, task_id: str) -> None:
        """Delete a task that is not running, and release its lock.

        Raises:
            TaskNotFoundError: the queue has no such task.
            TaskStateError: it is active.
        """
        await self._move(queue, task_id, Move.DELETE)

    async def run_all(self, queue: str, state: TaskState, *, group: str | None = None) -> int:
        """Make all scheduled, retried, archived or aggregating tasks pending; return how many.

        Raises:
            InvalidOptionError: another state, a group missing or too much.
        """
        return await self._move_all(queue, state, group, Move.RUN)

    async def archive_all(self, queue: str, state: TaskState, *, group: str | None = None) -> int:
        """Give up all pending, scheduled, retried or aggregating tasks; return how many.

        Raises:
            InvalidOptionError: another state, a group missing or too much.
        """
        return await self._move_all(queue, state, group, Move.ARCHIVE)

    async def delete_all(self, queue: str, state: TaskState, *, group: str | None = None) -> int:
        """Delete all tasks of a state but active, with their locks; return how many.

        Raises:
            InvalidOptionError: the state is active, a group missing or too much.
        """
        return await self._move_all(queue, state, group, Move.DELETE)

    async def update_payload(
        self, queue: str, task_id: str, payload: object, *, codec: Codec[Any] | None = None
    ) -> None:
        """Give a scheduled task another payload, written as `Task` writes it.

        Its lock, if it is unique, stays that of the old payload.

        Raises:
            TaskNotFoundError: the queue has no such task.
            TaskStateError: it is not scheduled.
            InvalidPayloadError: the payload cannot be written.
        """
        _check_id(queue, task_id)
        data = encode_payload(payload, codec) or b""
        if not await self._broker.update_payload(queue, task_id, data):
            raise await self._missing(queue, task_id)

    async def cancel_task(
        self, task_id: str, *, queue: str | None = None, drop: bool = False
    ) -> None:
        """Send the wish that a running task be cancelled; whether it runs is not looked at.

        Args:
            task_id: its id.
            queue: only the one in this queue. Go's servers hear only wishes without it.
            drop: it is archived instead of being tried again; Go's don't hear that.
        """
        check_text("the id of a task", task_id)
        if queue is not None:
            check_queue(queue)
        await self._broker.send_cancel(CancelRequest(task_id=task_id, queue=queue, drop=drop))

    # -------------------------------------------------- servers, schedulers

    async def list_servers(self) -> list[ServerState]:
        """Return the servers that are running and their tasks, sorted by host and process."""
        return await self._broker.list_servers()

    async def list_scheduler_entries(self) -> list[SchedulerEntry]:
        """Return the entries of all schedulers that are running, sorted by spec."""
        return await self._broker.list_entries()

    async def list_enqueue_events(
        self, entry_id: str, *, page: int = 1, size: int = PAGE_SIZE
    ) -> list[EnqueueEvent]:
        """Return a page of what a scheduler's entry has enqueued, the newest first.

        Raises:
            InvalidOptionError: a page or size out of range.
        """
        check_text("the id of an entry", entry_id)
        _check_page(page, size)
        return await self._broker.list_events(entry_id, first=(page - 1) * size, count=size)

    # -------------------------------------------------------------- cluster

    def key_slot(self, queue: str) -> int:
        """Return the slot of a Redis cluster that a queue is or would be in."""
        return QueueKeys(check_queue(queue)).slot

    async def cluster_nodes(self, queue: str) -> list[ClusterNode]:
        """Return the nodes of a Redis cluster that have a queue, the master first.

        Raises:
            TaskStateError: there is no cluster, or no node for the slot at the moment.
        """
        return await self._broker.find_nodes(check_queue(queue))

    # ------------------------------------------------------------- insides

    async def _check(self, queue: str) -> None:
        if not await self._broker.has_queue(check_queue(queue)):
            raise _no_queue(queue)

    async def _missing(self, queue: str, task_id: str) -> Exception:
        if not await self._broker.has_queue(queue):
            return _no_queue(queue)
        return TaskNotFoundError(f"queue {queue!r} has no task {task_id!r}")

    async def _move(self, queue: str, task_id: str, move: Move) -> None:
        _check_id(queue, task_id)
        if await self._broker.move_task(queue, task_id, move) is None:
            raise await self._missing(queue, task_id)

    async def _move_all(self, queue: str, state: TaskState, group: str | None, move: Move) -> int:
        _check_state(state)
        if state not in _MOVABLE[move]:
            raise InvalidOptionError(
                f"{state.value} tasks cannot be moved by {move.value}: only"
                f" {', '.join(each.value for each in _MOVABLE[move])} ones"
            )
        name = _check_group(state, group)
        await self._check(queue)
        return await self._broker.move_tasks(queue, state, move, group=name)


def _no_queue(queue: str) -> QueueNotFoundError:
    return QueueNotFoundError(
        f"there is no queue {queue!r}: it is there as soon as a task was enqueued to it"
    )


def _check_id(queue: str, task_id: str) -> None:
    check_queue(queue)
    check_text("the id of a task", task_id)


def _check_state(state: object) -> None:
    if not isinstance(state, TaskState):
        raise InvalidOptionError(
            f"state is {state!r:.200}: give a TaskState, such as TaskState.PENDING"
        )


def _check_group(state: TaskState, group: str | None) -> str:
    if (state is TaskState.AGGREGATING) != (group is not None):
        raise InvalidOptionError("a group goes with aggregating tasks, and only with those")
    return "" if group is None else check_text("the name of a group", group)


def _check_page(page: int, size: int) -> None:
    _check_count("size", size)
    if not isinstance(page, int) or page < 1:  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidOptionError(f"page is {page!r}: pages count from 1")


def _check_count(name: str, count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST:  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidOptionError(f"{name} is {count!r}: give a whole number from 1 to {_MOST}")
