"""The part of `RedisBroker` that producers use: enqueueing, and what became of it."""

from collections.abc import Sequence
from typing import Final

import attrs
from redis.exceptions import NoScriptError

from terzetto.redis import Arg, LinkLostError, Reply, Script
from terzetto.tasks import _scripts
from terzetto.tasks._broker_values import Conflict, Duplicate, Enqueue, Placed, Placement, Ticked
from terzetto.tasks._errors import MessageError, NotReplicatedError
from terzetto.tasks._keys import DAY, QUEUES, QueueKeys
from terzetto.tasks._message import TaskMessage, TaskState
from terzetto.tasks._redis_base import CHUNK, RedisBase, due, nanoseconds, own_lock

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


class RedisProducing(RedisBase):
    """Enqueues."""

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
            if call is None or len(call.places) >= CHUNK:
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
