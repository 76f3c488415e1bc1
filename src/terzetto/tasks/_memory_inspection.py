"""`Inspection` in this process, servers and schedulers: a part of `MemoryBroker`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs
import trio

from terzetto.tasks._clock import Clock
from terzetto.tasks._errors import QueueNotEmptyError, TaskStateError
from terzetto.tasks._inspection import (
    ClusterNode,
    DayCount,
    GroupInfo,
    Move,
    QueueInfo,
    ServerState,
)
from terzetto.tasks._keys import DAY, MAX_EVENTS
from terzetto.tasks._memory_state import MemoryQueue, Stored
from terzetto.tasks._message import (
    EnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskInfo,
    TaskState,
    WorkerInfo,
)


class MemoryInspection(ABC):
    """Looks at queues in this process and puts them right."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.queues: dict[str, MemoryQueue] = {}
        self._servers: dict[str, tuple[float, ServerState]] = {}
        self._schedulers: dict[str, tuple[float, tuple[SchedulerEntry, ...]]] = {}
        self._histories: dict[str, list[EnqueueEvent]] = {}

    def now(self) -> float:
        """See `Broker.now`."""
        return self._clock.now()

    @abstractmethod
    def wake(self, queue: str) -> None:
        """Tell those who listen that tasks became pending."""

    def _queue(self, name: str) -> MemoryQueue:
        return self.queues.get(name) or MemoryQueue()

    async def has_queue(self, queue: str) -> bool:
        """See `Inspection.has_queue`."""
        await trio.lowlevel.checkpoint()
        return queue in self.queues

    async def list_queues(self) -> list[str]:
        """See `Inspection.list_queues`."""
        await trio.lowlevel.checkpoint()
        return sorted(self.queues)

    async def read_queues(
        self, queues: Sequence[str], *, memory: bool = False
    ) -> list[QueueInfo | None]:
        """See `Inspection.read_queues`; the memory is that of the payloads."""
        await trio.lowlevel.checkpoint()
        return [
            self._info(name, self.queues[name], memory=memory) if name in self.queues else None
            for name in queues
        ]

    def _info(self, name: str, queue: MemoryQueue, *, memory: bool) -> QueueInfo:
        now = self.now()
        today = int(now // DAY)
        counts = dict.fromkeys(TaskState, 0)
        groups: set[str] = set()
        for stored in queue.tasks.values():
            counts[stored.state] += 1
            if stored.state is TaskState.AGGREGATING:
                groups.add(stored.group)
        oldest = queue.tasks[queue.pending[-1]].pending_since if queue.pending else now
        size = sum(len(stored.message.encode()) for stored in queue.tasks.values())
        return QueueInfo(
            queue=name,
            is_paused=queue.is_paused,
            pending=counts[TaskState.PENDING],
            active=counts[TaskState.ACTIVE],
            scheduled=counts[TaskState.SCHEDULED],
            retry=counts[TaskState.RETRY],
            archived=counts[TaskState.ARCHIVED],
            completed=counts[TaskState.COMPLETED],
            aggregating=counts[TaskState.AGGREGATING],
            groups=len(groups),
            processed=queue.processed[today],
            failed=queue.failed[today],
            processed_total=queue.processed[-1],
            failed_total=queue.failed[-1],
            latency=now - oldest,
            memory=size if memory else None,
            at=now,
        )

    async def read_history(self, queue: str, days: int) -> list[DayCount]:
        """See `Inspection.read_history`."""
        await trio.lowlevel.checkpoint()
        found = self._queue(queue)
        today = datetime.fromtimestamp(self.now(), UTC).date()
        number = int(self.now() // DAY)
        return [
            DayCount(
                day=today - timedelta(days=back),
                processed=found.processed[number - back],
                failed=found.failed[number - back],
            )
            for back in range(days)
        ]

    async def list_group_sizes(self, queue: str) -> list[GroupInfo]:
        """See `Inspection.list_group_sizes`."""
        await trio.lowlevel.checkpoint()
        found = self._queue(queue)
        return [
            GroupInfo(group=group, size=len(found.waiting(group)))
            for group in sorted(found.groups())
        ]

    async def read_task(self, queue: str, task_id: str) -> TaskInfo | None:
        """See `Inspection.read_task`."""
        await trio.lowlevel.checkpoint()
        stored = self._queue(queue).tasks.get(task_id)
        return stored.info(self.now()) if stored is not None else None

    async def list_tasks(
        self, queue: str, state: TaskState, *, group: str = "", first: int, count: int
    ) -> list[TaskInfo]:
        """See `Inspection.list_tasks`."""
        await trio.lowlevel.checkpoint()
        found = self._queue(queue)
        if state is TaskState.PENDING:
            listed = [found.tasks[task_id] for task_id in reversed(found.pending)]
        else:
            listed = found.sorted(state, lambda stored: not group or stored.group == group)
            listed.sort(key=lambda stored: stored.batch is not None)
        return [stored.info(self.now()) for stored in listed[first : first + max(0, count)]]

    async def move_task(self, queue: str, task_id: str, move: Move) -> TaskState | None:
        """See `Inspection.move_task`."""
        await trio.lowlevel.checkpoint()
        found = self._queue(queue)
        stored = found.tasks.get(task_id)
        if stored is None:
            return None
        state = stored.state
        if state is TaskState.ACTIVE or (move, state) in _IDLE:
            raise TaskStateError(
                f"task {task_id!r} of queue {queue!r} is {state.value}: it cannot be moved by"
                f" {move.value} in that state"
            )
        self._move(queue, found, stored, move)
        return state

    def _move(self, name: str, queue: MemoryQueue, stored: Stored, move: Move) -> None:
        batch = stored.batch
        if move is Move.RUN:
            queue.make_pending(stored, self.now())
            self.wake(name)
        elif move is Move.ARCHIVE:
            queue.move(stored, TaskState.ARCHIVED, int(self.now()))
            queue.trim(self.now())
        else:
            queue.erase(stored)
        if batch is not None and not queue.members(batch):
            queue.batches.pop(batch, None)

    async def move_tasks(self, queue: str, state: TaskState, move: Move, *, group: str = "") -> int:
        """See `Inspection.move_tasks`."""
        await trio.lowlevel.checkpoint()
        found = self._queue(queue)
        if state is TaskState.PENDING:
            doomed = [found.tasks[task_id] for task_id in reversed(found.pending)]
        elif state is TaskState.AGGREGATING:
            doomed = found.waiting(group)
        else:
            doomed = found.sorted(state)
        for stored in doomed:
            self._move(queue, found, stored, move)
        return len(doomed)

    async def update_payload(self, queue: str, task_id: str, payload: bytes) -> bool:
        """See `Inspection.update_payload`."""
        await trio.lowlevel.checkpoint()
        stored = self._queue(queue).tasks.get(task_id)
        if stored is None:
            return False
        if stored.state is not TaskState.SCHEDULED:
            raise TaskStateError(
                f"task {task_id!r} of queue {queue!r} is not scheduled: only the payload of a"
                " task that waits for its time can be changed"
            )
        stored.message = attrs.evolve(stored.message, payload=payload)
        return True

    async def pause(self, queue: str) -> bool:
        """See `Inspection.pause`."""
        await trio.lowlevel.checkpoint()
        found = self.queues.setdefault(queue, MemoryQueue())
        was, found.is_paused = found.is_paused, True
        return not was

    async def resume(self, queue: str) -> bool:
        """See `Inspection.resume`."""
        await trio.lowlevel.checkpoint()
        found = self._queue(queue)
        was, found.is_paused = found.is_paused, False
        self.wake(queue)
        return was

    async def delete_queue(self, queue: str, *, force: bool) -> None:
        """See `Inspection.delete_queue`."""
        await trio.lowlevel.checkpoint()
        tasks = self._queue(queue).tasks.values()
        running = any(stored.state is TaskState.ACTIVE for stored in tasks)
        if running or (tasks and not force):
            what = "runs tasks" if running else "holds tasks, and is not forced"
            raise QueueNotEmptyError(f"queue {queue!r} {what}: it was not deleted")
        self.queues.pop(queue, None)

    # -------------------------------------------------- servers, schedulers

    async def write_server(
        self, info: ServerInfo, workers: Sequence[WorkerInfo], *, ttl: int = 10
    ) -> None:
        """See `Broker.write_server`."""
        await trio.lowlevel.checkpoint()
        state = ServerState(info=info, workers=tuple(workers))
        self._servers[info.server_id] = (self.now() + ttl, state)

    async def clear_server(self, info: ServerInfo) -> None:
        """See `Broker.clear_server`."""
        await trio.lowlevel.checkpoint()
        self._servers.pop(info.server_id, None)

    async def list_servers(self) -> list[ServerState]:
        """See `Inspection.list_servers`."""
        await trio.lowlevel.checkpoint()
        found = [state for end, state in self._servers.values() if end > self.now()]
        return sorted(
            found, key=lambda state: (state.info.host, state.info.pid, state.info.server_id)
        )

    async def write_entries(
        self, scheduler_id: str, entries: Sequence[SchedulerEntry], *, ttl: int = 20
    ) -> None:
        """See `Broker.write_entries`."""
        await trio.lowlevel.checkpoint()
        self._schedulers[scheduler_id] = (self.now() + ttl, tuple(entries))

    async def clear_entries(self, scheduler_id: str) -> None:
        """See `Broker.clear_entries`."""
        await trio.lowlevel.checkpoint()
        self._schedulers.pop(scheduler_id, None)

    async def list_entries(self) -> list[SchedulerEntry]:
        """See `Inspection.list_entries`."""
        await trio.lowlevel.checkpoint()
        live = [entries for end, entries in self._schedulers.values() if end > self.now()]
        found = [entry for entries in live for entry in entries]
        return sorted(found, key=lambda entry: (entry.spec, entry.id))

    async def record_event(self, entry_id: str, event: EnqueueEvent) -> None:
        """See `Broker.record_event`."""
        await trio.lowlevel.checkpoint()
        history = self._histories.setdefault(entry_id, [])
        history.append(event)
        del history[:-MAX_EVENTS]

    async def list_events(self, entry_id: str, *, first: int, count: int) -> list[EnqueueEvent]:
        """See `Inspection.list_events`."""
        await trio.lowlevel.checkpoint()
        newest_first = self._histories.get(entry_id, [])[::-1]
        return newest_first[first : first + max(0, count)]

    async def find_nodes(self, queue: str) -> list[ClusterNode]:
        """See `Inspection.find_nodes`; there is no cluster."""
        await trio.lowlevel.checkpoint()
        raise TaskStateError(f"queue {queue!r} is kept in this process: there is no cluster")


_IDLE = {(Move.RUN, TaskState.PENDING), (Move.ARCHIVE, TaskState.ARCHIVED)}
