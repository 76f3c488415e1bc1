"""The part of `RedisBroker` that producers and workers use: enqueue, dequeue, outcomes."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import attrs
import trio
from redis.exceptions import NoScriptError, RedisError

from terzetto._shared._texts import describe_error
from terzetto.redis import Arg, LinkClosedError, LinkLostError, Reply, Script
from terzetto.tasks import _scripts
from terzetto.tasks._broker import (
    LEASE_SECONDS,
    Completion,
    Conflict,
    Duplicate,
    Enqueue,
    Lease,
    Placed,
    Placement,
    Ticked,
)
from terzetto.tasks._errors import MessageError, NotReplicatedError
from terzetto.tasks._keys import MAX_ARCHIVED, QUEUES, STATISTICS_DAYS, QueueKeys
from terzetto.tasks._message import TaskMessage, TaskState
from terzetto.tasks._redis_base import (
    DAY,
    RedisBase,
    due,
    nanoseconds,
    new_token,
    own_lock,
)

_CHUNK: Final = 200  # tasks of one script, so that others are not kept waiting
_DELETED: Final = ("", b"")  # what stands for a task that is not kept
_NO_RESULT: Final = ("0", b"")
_PARTING: Final = 1.0  # seconds for handing back what a cancelled dequeue has taken
_TICK_DAYS: Final = 90  # days after which a schedule that has not ticked is forgotten


@attrs.frozen
class _Call:
    """A script to be run, and which of the entries it is for."""

    script: Script
    keys: list[Arg]
    args: list[Arg]
    places: list[int]

    def command(self, *, whole: bool) -> list[Arg]:
        name, source = ("EVAL", self.script.source) if whole else ("EVALSHA", self.script.sha)
        return [name, source, len(self.keys), *self.keys, *self.args]


class RedisWork(RedisBase):
    """Enqueues, dequeues and writes outcomes."""

    # ------------------------------------------------------------ producers

    async def enqueue(
        self, entries: Sequence[Enqueue], *, replicas: int = 0, within: float = 1.0
    ) -> list[Placement]:
        """See `Broker.enqueue`."""
        now = await self._time()
        calls = self._plan(entries, now)
        queues = dict.fromkeys(entry.message.queue for entry in entries)
        if replicas and queues:
            await self.command("SADD", QUEUES, *queues)
            return await self._enqueue_replicated(calls, entries, now, replicas, within)
        commands: list[list[Arg]] = [["SADD", QUEUES, *queues]] if queues else []
        commands += [call.command(whole=False) for call in calls]
        try:
            replies = (await self.redis.execute_many(commands))[1:]
            missing = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if missing:
                whole = [calls[n].command(whole=True) for n in missing]
                for n, reply in zip(missing, await self.redis.execute_many(whole), strict=True):
                    replies[n] = reply
        except LinkLostError as error:
            if not error.may_have_run:
                raise
            return await self._read_back(entries, error)
        placements: list[Placement] = [Conflict()] * len(entries)
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            _note(call, reply, entries, placements, now)
        return placements

    async def _enqueue_replicated(
        self,
        calls: Sequence[_Call],
        entries: Sequence[Enqueue],
        now: float,
        replicas: int,
        within: float,
    ) -> list[Placement]:
        """Enqueue, queue by queue, and have replicas confirm what was written there."""
        placements: list[Placement] = [Conflict()] * len(entries)
        by_queue: dict[str, list[_Call]] = {}
        for call in calls:
            by_queue.setdefault(entries[call.places[0]].message.queue, []).append(call)
        short: list[str] = []
        for queue, some in by_queue.items():
            replies, reached = await self.redis.execute_replicated(
                [call.command(whole=True) for call in some], replicas=replicas, within=within
            )
            for call, reply in zip(some, replies, strict=True):
                if isinstance(reply, Exception):
                    raise reply
                _note(call, reply, entries, placements, now)
            if reached < replicas:
                short.append(f"{reached} have those of queue {queue!r}")
        if short:
            raise NotReplicatedError(
                f"{replicas} replicas were to have the tasks within {within} s, but"
                f" {', '.join(short)}: they are enqueued, and a fail-over now may lose them"
            )
        return placements

    def _plan(self, entries: Sequence[Enqueue], now: float) -> list[_Call]:
        """Return the scripts that enqueue `entries`; plain ones of a queue go together."""
        calls: list[_Call] = []
        open_calls: dict[str, _Call] = {}
        now_ns = nanoseconds(now)
        for place, entry in enumerate(entries):
            message = entry.message
            queue = message.queue
            keys = self.keys(queue)
            body = message.encode()
            state = entry.state_at(now)
            if state is not TaskState.PENDING or message.unique_key or entry.tick:
                args = self.place_args(keys, entry, body, now)
                calls.append(_Call(_scripts.PLACE, self.place_keys(keys, entry), args, [place]))
                open_calls.pop(queue, None)
                continue
            call = open_calls.get(queue)
            if call is None or len(call.places) >= _CHUNK:
                call = _Call(
                    _scripts.ENQUEUE,
                    [keys.pending],
                    [now_ns, len(keys.tasks.encode()), keys.wake_channel],
                    [],
                )
                open_calls[queue] = call
                calls.append(call)
            call.keys.append(keys.tasks + message.id)
            call.args.append(body)
            call.places.append(place)
        return calls

    def place_keys(self, keys: QueueKeys, entry: Enqueue) -> list[Arg]:
        """Return the keys of `place` in Lua."""
        message = entry.message
        task = keys.task(message.id)
        group = keys.group(message.group) if message.group else task
        lock = own_lock(keys, message.unique_key) or task
        return [task, keys.pending, keys.scheduled, keys.groups, group, lock, keys.ticks]

    def place_args(self, keys: QueueKeys, entry: Enqueue, body: bytes, now: float) -> list[Arg]:
        """Return the arguments of `place` in Lua."""
        message, tick = entry.message, entry.tick
        score, due_ms = due(entry.due_at(now))
        return [
            message.id,
            body,
            entry.state_at(now).value,
            nanoseconds(now),
            int(now),
            score,
            due_ms,
            message.group,
            entry.lock_seconds(now),
            tick.schedule if tick else "",
            round(tick.at * 1000) if tick else 0,
            keys.wake_channel,
            int(now) + _TICK_DAYS * DAY,
        ]

    async def _read_back(self, entries: Sequence[Enqueue], lost: LinkLostError) -> list[Placement]:
        """Look for tasks whose enqueueing was not answered; raise if one is not there."""
        commands = [
            ["HMGET", self.keys(entry.message.queue).task(entry.message.id), "msg", "state"]
            for entry in entries
        ]
        placements: list[Placement] = []
        for entry, reply in zip(entries, await self.commands(commands), strict=True):
            body, state = reply
            if body is None or not _is_same(body, entry.message):
                raise lost
            placements.append(Placed(TaskState(state.decode())))
        return placements

    # -------------------------------------------------------------- workers

    async def dequeue(
        self, queues: Sequence[str], limit: int, *, lease_for: float = LEASE_SECONDS
    ) -> list[Lease]:
        """See `Broker.dequeue`."""
        leases: list[Lease] = []
        try:
            await self._take(queues, limit, lease_for, leases)
        except RedisError as error:
            if not leases or isinstance(error, LinkClosedError):
                raise
            self._logger.warning(
                "Redis refused to give more tasks", taken=len(leases), error=describe_error(error)
            )
        except trio.Cancelled:
            with trio.move_on_after(_PARTING, shield=True), suppress(RedisError):
                for lease in reversed(leases):  # so that the oldest is the next to be taken
                    await self.requeue(lease)
            raise
        return leases

    async def _take(
        self, queues: Sequence[str], limit: int, lease_for: float, leases: list[Lease]
    ) -> None:
        """Add the leases of up to `limit` tasks to `leases`, of each script as it answers."""
        end = int(await self._time() + lease_for)
        for queue in queues:
            keys = self.keys(queue)
            while len(leases) < limit:
                wanted = min(limit - len(leases), _CHUNK)
                token = new_token()
                reply = await self.run(
                    _scripts.DEQUEUE,
                    [keys.pending, keys.paused, keys.active, keys.lease],
                    [end, wanted, keys.tasks, token, int(lease_for * 1000), keys.prefix, "0"],
                    again=6,
                )
                leases += await self.taken(keys, reply, token, end)
                if len(reply) < 2 * wanted:
                    break

    async def taken(
        self, keys: QueueKeys, reply: Sequence[bytes], token: str, end: int
    ) -> list[Lease]:
        """Return the leases that a script took; give up tasks that cannot be read."""
        leases: list[Lease] = []
        for number in range(len(reply) // 2):
            task_id, body = reply[2 * number], reply[2 * number + 1]
            if not task_id:
                continue
            own_token = f"{token}{number + 1}"
            try:
                message = TaskMessage.decode(body)
                text = task_id.decode()
            except (MessageError, UnicodeDecodeError) as error:
                self._logger.warning(
                    "archived a task that cannot be read",
                    queue=keys.queue,
                    task_id=task_id,
                    exc_info=error,
                )
                await self._archive(keys, task_id, own_token, body, "")
                continue
            if message.id != text or message.queue != keys.queue:
                message = attrs.evolve(message, id=text, queue=keys.queue)
            leases.append(Lease(message=message, token=own_token, expires_at=end))
        return leases

    async def extend(
        self, leases: Sequence[Lease], *, lease_for: float = LEASE_SECONDS
    ) -> tuple[float, set[str]]:
        """See `Broker.extend`."""
        end = int(await self._time() + lease_for)
        lost: set[str] = set()
        by_queue: dict[str, list[Lease]] = {}
        for lease in leases:
            by_queue.setdefault(lease.queue, []).append(lease)
        for queue, held in by_queue.items():
            keys = self.keys(queue)
            for start in range(0, len(held), _CHUNK):
                chunk = held[start : start + _CHUNK]
                gone: list[int] = await self.run(
                    _scripts.EXTEND,
                    [keys.lease, *(keys.task(lease.message.id) for lease in chunk)],
                    [
                        end,
                        len(keys.tasks.encode()),
                        int(lease_for * 1000),
                        keys.prefix,
                        *(lease.token for lease in chunk),
                    ],
                )
                lost.update(chunk[number - 1].token for number in gone)
        return end, lost

    async def complete(
        self, lease: Lease, *, result: bytes | None = None, retain: bool = True
    ) -> bool:
        """See `Broker.complete`."""
        (written,) = await self.complete_many([Completion(lease, result, retain)])
        return written

    async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
        """See `Broker.complete_many`."""
        now = await self._time()
        places: dict[str, list[int]] = {}
        for place, each in enumerate(completions):
            places.setdefault(each.lease.message.queue, []).append(place)
        written = [False] * len(completions)
        for queue, those in places.items():
            for start in range(0, len(those), _CHUNK):
                chunk = those[start : start + _CHUNK]
                replies = await self._complete(queue, [completions[n] for n in chunk], now)
                for place, reply in zip(chunk, replies, strict=True):
                    written[place] = bool(reply)
        return written

    async def _complete(
        self, queue: str, completions: Sequence[Completion], now: float
    ) -> Sequence[int]:
        keys = self.keys(queue)
        day, expire_at = self.day_of(now)
        names: list[Arg] = [
            keys.active,
            keys.lease,
            keys.completed,
            keys.processed_on(day),
            keys.processed,
        ]
        args: list[Arg] = [len(keys.tasks.encode()), expire_at, keys.outcome_channel(""), "0"]
        for each in completions:
            message, result = each.lease.message, each.result
            task = keys.tasks + message.id
            names.append(task)
            names.append((message.unique_key and own_lock(keys, message.unique_key)) or task)
            args.append(each.lease.token)
            if each.retain and message.retention > 0:
                args.append(int(now) + message.retention)
                args.append(attrs.evolve(message, completed_at=int(now)).encode())
            else:
                args += _DELETED
            args += _NO_RESULT if result is None else ("1", result)
        replies: Sequence[int] = await self.run(_scripts.COMPLETE, names, args, again=3)
        return replies

    async def requeue(self, lease: Lease) -> bool:
        """See `Broker.requeue`."""
        now = await self._time()
        keys = self.keys(lease.queue)
        written = await self.run(
            _scripts.REQUEUE,
            [keys.task(lease.message.id), keys.active, keys.lease, keys.pending],
            [lease.message.id, lease.token, nanoseconds(now), keys.wake_channel, "0"],
            again=4,
        )
        return bool(written)

    async def retry(
        self, lease: Lease, *, at: float, error: str | None, is_failure: bool = True
    ) -> bool:
        """See `Broker.retry`."""
        now = await self._time()
        message = lease.message.with_failure(error, int(now), counts=is_failure)
        keys = self.keys(message.queue)
        day, expire_at = self.day_of(now)
        written = await self.run(
            _scripts.RETRY,
            [
                keys.task(message.id),
                keys.active,
                keys.lease,
                keys.retry,
                keys.processed_on(day),
                keys.failed_on(day),
                keys.processed,
                keys.failed,
            ],
            [
                message.id,
                lease.token,
                message.encode(),
                *due(at),
                "1" if is_failure else "0",
                expire_at,
                "0",
            ],
            again=7,
        )
        return bool(written)

    async def archive(self, lease: Lease, *, error: str) -> bool:
        """See `Broker.archive`."""
        now = await self._time()
        message = lease.message.with_failure(error, int(now), counts=False)
        keys = self.keys(message.queue)
        return await self._archive(keys, message.id, lease.token, message.encode(), message.error)

    async def _archive(
        self, keys: QueueKeys, task_id: str | bytes, token: str, body: bytes, error: str
    ) -> bool:
        now = await self._time()
        day, expire_at = self.day_of(now)
        name = task_id if isinstance(task_id, bytes) else task_id.encode()
        written = await self.run(
            _scripts.ARCHIVE,
            [
                keys.tasks.encode() + name,
                keys.active,
                keys.lease,
                keys.archived,
                keys.processed_on(day),
                keys.failed_on(day),
                keys.processed,
                keys.failed,
            ],
            [
                name,
                token,
                body,
                int(now),
                expire_at,
                "0",
                keys.tasks,
                keys.prefix,
                int(now) - STATISTICS_DAYS * DAY,
                MAX_ARCHIVED,
                keys.outcome_channel("").encode() + name,
                error.encode("utf-8", "replace"),
            ],
            again=5,
        )
        return bool(written)

    async def write_result(self, lease: Lease, data: bytes) -> bool:
        """See `Broker.write_result`."""
        keys = self.keys(lease.queue)
        written = await self.run(
            _scripts.WRITE_RESULT,
            [keys.task(lease.message.id), keys.lease],
            [lease.message.id, lease.token, data],
        )
        return bool(written)


def _note(
    call: _Call,
    reply: Reply,
    entries: Sequence[Enqueue],
    placements: list[Placement],
    now: float,
) -> None:
    """Note what a script said of its tasks."""
    if call.script is _scripts.ENQUEUE:
        refused = set(reply)
        for number, place in enumerate(call.places, 1):
            if number not in refused:
                placements[place] = _PENDING
    else:
        (place,) = call.places
        placements[place] = placement_of(reply, entries[place].state_at(now))


_PENDING: Final = Placed(TaskState.PENDING)


def placement_of(reply: Reply, state: TaskState) -> Placement:
    """Return what `place` in Lua said."""
    match reply:
        case [1]:
            return Placed(state)
        case [0]:
            return Conflict()
        case [-1, holder]:
            return Duplicate(holder.decode("utf-8", "replace"))
        case _:
            return Ticked()


def _is_same(body: bytes, message: TaskMessage) -> bool:
    """Tell whether a task that is there is the one that was enqueued, whatever befell it since."""
    try:
        found = TaskMessage.decode(body)
    except MessageError:
        return False
    return found == attrs.evolve(
        message,
        retried=found.retried,
        error=found.error,
        last_failed_at=found.last_failed_at,
        completed_at=found.completed_at,
    )
