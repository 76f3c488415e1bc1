"""`Inspection` in Redis: a part of `RedisBroker`."""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from typing import Final, TypeVar

import attrs
from redis.exceptions import ResponseError

from terzetto._shared._encoding import decode_text
from terzetto.redis import Arg, Reply
from terzetto.tasks import _scripts
from terzetto.tasks._errors import MessageError, QueueNotEmptyError, TaskStateError
from terzetto.tasks._inspection import (
    ClusterNode,
    DayCount,
    GroupInfo,
    Move,
    QueueInfo,
    ServerState,
)
from terzetto.tasks._keys import (
    DAY,
    MAX_ARCHIVED,
    QUEUES,
    SCHEDULERS,
    SERVERS,
    STATISTICS_DAYS,
    WORKERS,
    QueueKeys,
    history_key,
)
from terzetto.tasks._message import (
    EnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskInfo,
    TaskMessage,
    TaskState,
    WorkerInfo,
)
from terzetto.tasks._redis_base import RedisBase, nanoseconds

T = TypeVar("T")

_STEP: Final = 500  # tasks that one script moves at most, so that others are not kept waiting
_ARCHIVE_STEP: Final = 100  # no more than one trim takes away
_LISTS: Final = (TaskState.PENDING, TaskState.ACTIVE)


class RedisInspection(RedisBase):
    """Looks at queues in Redis and puts them right."""

    async def has_queue(self, queue: str) -> bool:
        """See `Inspection.has_queue`."""
        return bool(await self.command("SISMEMBER", QUEUES, queue))

    async def list_queues(self) -> list[str]:
        """See `Inspection.list_queues`."""
        reply = await self.command("SMEMBERS", QUEUES)
        return sorted(map(decode_text, reply))

    async def read_queues(
        self, queues: Sequence[str], *, memory: bool = False
    ) -> list[QueueInfo | None]:
        """See `Inspection.read_queues`."""
        if not queues:
            return []
        now = await self._time()
        day, _ = self.day_of(now)
        commands: list[list[Arg]] = [["SISMEMBER", QUEUES, queue] for queue in queues]
        for queue in queues:
            keys = self.keys(queue)
            words = [keys.tasks, keys.group("")]
            places = _places(keys)
            counters = [keys.processed_on(day), keys.failed_on(day), keys.processed, keys.failed]
            own = [*places, keys.paused, *counters]
            commands.append(["EVAL", _scripts.STATS.source, len(own), *own, *words])
            if memory:
                commands.append(["EVAL", _scripts.MEMORY.source, len(places), *places, *words])
        replies = await self.commands(commands)
        step = 2 if memory else 1
        found: list[QueueInfo | None] = []
        for number, queue in enumerate(queues):
            at = len(queues) + number * step
            found.append(
                _queue_info(queue, replies[at], replies[at + 1] if memory else None, now)
                if replies[number]
                else None
            )
        return found

    async def read_history(self, queue: str, days: int) -> list[DayCount]:
        """See `Inspection.read_history`."""
        keys = self.keys(queue)
        today = date.fromisoformat(self.day_of(await self._time())[0])
        wanted = [today - timedelta(days=back) for back in range(days)]
        names: list[Arg] = []
        for day in wanted:
            names += [keys.processed_on(day.isoformat()), keys.failed_on(day.isoformat())]
        counts = [int(count or 0) for count in await self.command("MGET", *names)]
        return [
            DayCount(day=day, processed=counts[2 * number], failed=counts[2 * number + 1])
            for number, day in enumerate(wanted)
        ]

    async def list_group_sizes(self, queue: str) -> list[GroupInfo]:
        """See `Inspection.list_group_sizes`."""
        keys = self.keys(queue)
        names = sorted(map(decode_text, await self.command("SMEMBERS", keys.groups)))
        if not names:
            return []
        sizes = await self.commands([["ZCARD", keys.group(name)] for name in names])
        return [
            GroupInfo(group=name, size=size)
            for name, size in zip(names, sizes, strict=True)
            if size
        ]

    async def read_task(self, queue: str, task_id: str) -> TaskInfo | None:
        """See `Inspection.read_task`."""
        now = await self._time()
        keys = self.keys(queue)
        reply = await self.run(
            _scripts.INFO, [keys.task(task_id), keys.scheduled, keys.retry, keys.lease], [task_id]
        )
        if not reply:
            return None
        state, *found = reply
        return _task_info(found, TaskState(state.decode()), now)

    async def list_tasks(
        self, queue: str, state: TaskState, *, group: str = "", first: int, count: int
    ) -> list[TaskInfo]:
        """See `Inspection.list_tasks`."""
        if count < 1:
            return []
        now = await self._time()
        keys = self.keys(queue)
        kind = state.value if state in _LISTS else "group" if group else "set"
        reply = await self.run(
            _scripts.LIST,
            [_place(keys, state, group), keys.lease, keys.sets],
            [kind, first, first + count - 1, keys.tasks, keys.prefix, group],
        )
        found: list[TaskInfo] = []
        for at in range(0, len(reply), 5):
            task_id, *rest = reply[at : at + 5]
            try:
                found.append(_task_info(rest, state, now))
            except MessageError as error:
                self._logger.warning(
                    "left a task out that cannot be read",
                    queue=queue,
                    task_id=task_id.decode(errors="replace"),
                    exc_info=error,
                )
        return found

    async def move_task(self, queue: str, task_id: str, move: Move) -> TaskState | None:
        """See `Inspection.move_task`."""
        keys, args = await self.move_one_words(queue, task_id.encode(), move.value)
        reply = await self.redis.run_script(_scripts.MOVE_ONE, keys=keys, args=args)
        state = reply.decode()
        if state.startswith("!"):
            raise TaskStateError(
                f"task {task_id!r} of queue {queue!r} is {state[1:]}: it cannot be"
                f" {_DONE[move]} in that state"
            )
        return TaskState(state) if state else None

    async def move_tasks(self, queue: str, state: TaskState, move: Move, *, group: str = "") -> int:
        """See `Inspection.move_tasks`."""
        keys = self.keys(queue)
        step = _ARCHIVE_STEP if move is Move.ARCHIVE else _STEP
        total = 0
        while True:
            now = await self._time()
            count: int = await self.run(
                _scripts.MOVE_ALL,
                [_place(keys, state, group), keys.pending, keys.archived, keys.groups],
                [
                    move.value,
                    "list" if state in _LISTS else "set",
                    step,
                    keys.prefix,
                    keys.tasks,
                    int(now),
                    nanoseconds(now),
                    keys.wake_channel,
                    int(now) - STATISTICS_DAYS * DAY,
                    MAX_ARCHIVED,
                    group,
                ],
            )
            total += count
            if count < step:
                return total

    async def update_payload(self, queue: str, task_id: str, payload: bytes) -> bool:
        """See `Inspection.update_payload`."""
        key = self.keys(queue).task(task_id)
        while True:
            body = await self.command("HGET", key, "msg")
            if body is None:
                return False
            message = attrs.evolve(TaskMessage.decode(body), payload=payload)
            reply = await self.run(_scripts.UPDATE_PAYLOAD, [key], [body, message.encode()])
            if reply == -1:
                raise TaskStateError(
                    f"task {task_id!r} of queue {queue!r} is not scheduled: only the payload of a"
                    " task that waits for its time can be changed"
                )
            if reply != _CHANGED:
                return bool(reply)

    async def pause(self, queue: str) -> bool:
        """See `Inspection.pause`."""
        now = int(await self._time())
        return await self.redis.execute("SET", self.keys(queue).paused, now, "NX") is not None

    async def resume(self, queue: str) -> bool:
        """See `Inspection.resume`."""
        keys = self.keys(queue)
        resumed = bool(await self.redis.execute("DEL", keys.paused))
        await self.command("PUBLISH", keys.wake_channel, b"")
        return resumed

    async def delete_queue(self, queue: str, *, force: bool) -> None:
        """See `Inspection.delete_queue`."""
        keys = self.keys(queue)
        today = date.fromisoformat(self.day_of(await self._time())[0])
        days = [(today - timedelta(days=back)).isoformat() for back in range(STATISTICS_DAYS + 1)]
        others = [keys.paused, keys.processed, keys.failed, keys.ticks]
        others += [keys.processed_on(day) for day in days] + [keys.failed_on(day) for day in days]
        while True:
            reply = await self.run(
                _scripts.DELETE_QUEUE,
                [*_places(keys), keys.lease, *others],
                ["1" if force else "0", keys.prefix, keys.tasks, _STEP],
            )
            if reply < 0:
                what = "runs tasks" if reply == -2 or force else "holds tasks, and is not forced"  # noqa: PLR2004 - see the script
                raise QueueNotEmptyError(f"queue {queue!r} {what}: it was not deleted")
            if reply == 1:
                break
        await self.command("SREM", QUEUES, queue)

    async def list_servers(self) -> list[ServerState]:
        """See `Inspection.list_servers`."""
        infos = [body for body in await self._read_live(SERVERS, "GET") if body]
        servers = self._readable(ServerInfo.decode, infos)
        working: dict[str, list[WorkerInfo]] = {}
        for bodies in await self._read_live(WORKERS, "HVALS"):
            for worker in self._readable(WorkerInfo.decode, bodies):
                working.setdefault(worker.server_id, []).append(worker)
        return [
            ServerState(info=info, workers=tuple(working.get(info.server_id, ())))
            for info in sorted(servers, key=lambda info: (info.host, info.pid, info.server_id))
        ]

    async def list_entries(self) -> list[SchedulerEntry]:
        """See `Inspection.list_entries`."""
        entries: list[SchedulerEntry] = []
        for bodies in await self._read_live(SCHEDULERS, "LRANGE", 0, -1):
            entries += self._readable(SchedulerEntry.decode, bodies)
        return sorted(entries, key=lambda entry: (entry.spec, entry.id))

    async def list_events(self, entry_id: str, *, first: int, count: int) -> list[EnqueueEvent]:
        """See `Inspection.list_events`."""
        if count < 1:
            return []
        key = history_key(entry_id)
        bodies = await self.command("ZRANGE", key, first, first + count - 1, "REV")
        return self._readable(EnqueueEvent.decode, bodies)

    async def find_nodes(self, queue: str) -> list[ClusterNode]:
        """See `Inspection.find_nodes`."""
        slot = self.keys(queue).slot
        try:
            ranges = await self.command("CLUSTER", "SLOTS")
        except ResponseError as error:
            raise TaskStateError(f"{self.redis.url} is no cluster: {error}") from error
        for first, last, *nodes in ranges:
            if first <= slot <= last:
                return [
                    ClusterNode(id=node[2].decode(), address=f"{node[0].decode()}:{node[1]}")
                    for node in nodes
                ]
        raise TaskStateError(f"nobody serves slot {slot}, where queue {queue!r} lives")

    async def _read_live(self, index: str, command: str, *words: Arg) -> list[Reply]:
        """Read the keys that a global index names, but for those that have expired.

        What is no such key is left out.
        """
        now = int(await self._time())
        _, names = await self.commands(
            [
                ["ZREMRANGEBYSCORE", index, "-inf", now - 1],
                ["ZRANGEBYSCORE", index, now, "+inf"],
            ]
        )
        if not names:
            return []
        replies = await self.replies([[command, name, *words] for name in names])
        found: list[Reply] = []
        for name, reply in zip(names, replies, strict=True):
            if isinstance(reply, ResponseError):
                self._logger.warning("left out what cannot be read", key=name, error=str(reply))
            elif isinstance(reply, Exception):
                raise reply
            else:
                found.append(reply)
        return found

    def _readable(self, decode: Callable[[bytes], T], bodies: Iterable[bytes]) -> list[T]:
        """Decode what can be decoded; others may have written the rest."""
        found: list[T] = []
        for body in bodies:
            try:
                found.append(decode(body))
            except MessageError as error:
                self._logger.warning("left out what cannot be read", exc_info=error)
        return found


_CHANGED: Final = -2
_DONE: Final = {Move.RUN: "run", Move.ARCHIVE: "archived", Move.DELETE: "deleted"}


def _places(keys: QueueKeys) -> list[str]:
    return [
        keys.pending,
        keys.active,
        keys.scheduled,
        keys.retry,
        keys.archived,
        keys.completed,
        keys.groups,
        keys.sets,
    ]


def _place(keys: QueueKeys, state: TaskState, group: str) -> str:
    """Return the key of where tasks of a state are."""
    return keys.group(group) if state is TaskState.AGGREGATING else keys.prefix + state.value


def _queue_info(queue: str, reply: Reply, memory: int | None, now: float) -> QueueInfo:
    counts = [int(count) for count in reply[:13]]
    return QueueInfo(
        queue=queue,
        pending=counts[0],
        active=counts[1],
        scheduled=counts[2],
        retry=counts[3],
        archived=counts[4],
        completed=counts[5],
        aggregating=counts[6],
        groups=counts[7],
        is_paused=bool(counts[8]),
        processed=counts[9],
        failed=counts[10],
        processed_total=counts[11],
        failed_total=counts[12],
        latency=max(0.0, now - int(reply[13]) / 1e9) if reply[13].isdigit() else 0.0,
        memory=memory,
        at=now,
    )


def _task_info(found: Sequence[Reply], state: TaskState, now: float) -> TaskInfo:
    """Return what scripts say of a task; raises `MessageError` if it can't be read."""
    body, result, due_ms, lease = found
    next_at = now if state is TaskState.PENDING else None
    if state in _WAITING and due_ms:
        next_at = int(due_ms) / 1000
    return TaskInfo(
        message=TaskMessage.decode(body or b"?"),
        state=state,
        next_process_at=next_at,
        result=result,
        is_orphaned=bool(lease) and float(lease) <= now,
    )


_WAITING: Final = (TaskState.SCHEDULED, TaskState.RETRY)
