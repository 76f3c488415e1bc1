"""Tasks in Redis, in asynq's layout: on a single server, behind Sentinel and on a cluster.

`RedisBroker` is put together from its parts: producers (`_redis_producing.py`),
workers (`_redis_work.py`), upkeep (`_redis_upkeep.py`), inspection
(`_redis_inspection.py`), and what stands here: signals, servers, schedulers and
limits. It keeps no state but caches, so that any number of brokers may serve the
same queues.

Called by the client, the server, the scheduler and the inspector.
"""

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs

from terzetto._shared._logging import Logger
from terzetto.errors import InvalidOptionError
from terzetto.redis import Arg, Gap, Message, Redis, Subscription
from terzetto.tasks import _scripts
from terzetto.tasks._broker import Broker, OutcomeWatch, Wakeups
from terzetto.tasks._broker_values import CancelRequest, Outcome
from terzetto.tasks._clock import Clock
from terzetto.tasks._keys import (
    CANCEL_CHANNEL,
    DAY,
    MAX_EVENTS,
    OWN_CANCEL_CHANNEL,
    SCHEDULERS,
    SERVERS,
    STATISTICS_DAYS,
    WORKERS,
    history_key,
    rate_key,
    scheduler_key,
    semaphore_key,
    server_key,
    workers_key,
)
from terzetto.tasks._message import (
    EnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskState,
    WorkerInfo,
)
from terzetto.tasks._redis_inspection import RedisInspection
from terzetto.tasks._redis_upkeep import RedisUpkeep

B = TypeVar("B", bound=Broker)


@attrs.define
class _Wakeups:
    subscription: Subscription
    queues: dict[bytes, str]

    async def wait(self) -> frozenset[str]:
        """See `Wakeups.wait`."""
        woken: set[str] = set()
        for item in await self.subscription.read():
            if isinstance(item, Gap):
                return frozenset(self.queues.values())
            woken.add(self.queues[item.channel])
        return frozenset(woken)


@attrs.define
class _Cancels(AsyncIterator[CancelRequest]):
    subscription: Subscription

    async def __anext__(self) -> CancelRequest:
        while True:
            item = await anext(self.subscription)
            request = _read_cancel(item) if isinstance(item, Message) else None
            if request is not None:
                return request


@attrs.define
class _Watch:
    broker: "RedisBroker"
    subscription: Subscription
    queue: str
    task_id: str
    looked: bool = False
    was_there: bool = False

    async def wait(self) -> Outcome | None:
        """See `OutcomeWatch.wait`."""
        if not self.looked:
            # From here on the end is told; what was there before has to be looked at.
            key = self.broker.keys(self.queue).task(self.task_id)
            self.was_there = bool(await self.broker.run(_scripts.WATCH, [key], []))
            self.looked = True
            return None
        item = await anext(self.subscription)
        if isinstance(item, Gap):
            self.looked = False
            return None
        return _read_outcome(item.data)


def _read_outcome(data: bytes) -> Outcome:
    kind, rest = data[:1], data[1:]
    if kind == b"a":
        return Outcome(state=TaskState.ARCHIVED, error=rest.decode("utf-8", "replace"))
    return Outcome(state=TaskState.COMPLETED, result=rest if kind == b"C" else None)


class RedisBroker(RedisUpkeep, RedisInspection):
    """Everything that `Broker` and `Inspection` want, in Redis."""

    def __init__(
        self, redis: Redis, *, clock: Clock | None = None, logger: Logger | None = None
    ) -> None:
        super().__init__(redis, clock=clock, logger=logger)
        self._written: dict[str, dict[str, WorkerInfo]] = {}

    def __repr__(self) -> str:
        return f"<RedisBroker {self.redis.url}>"

    # -------------------------------------------------------------- signals

    @asynccontextmanager
    async def watch_outcome(self, queue: str, task_id: str) -> AsyncGenerator[OutcomeWatch]:
        """See `Broker.watch_outcome`."""
        channel = self.keys(queue).outcome_channel(task_id)
        async with self.redis.subscribe(channel) as subscription:
            yield _Watch(self, subscription, queue, task_id)

    @asynccontextmanager
    async def open_wakeups(self, queues: Sequence[str]) -> AsyncGenerator[Wakeups]:
        """See `Broker.open_wakeups`."""
        channels = {self.keys(queue).wake_channel.encode(): queue for queue in queues}
        async with self.redis.subscribe(*channels) as subscription:
            yield _Wakeups(subscription, channels)

    @asynccontextmanager
    async def open_cancels(self) -> AsyncGenerator[AsyncIterator[CancelRequest]]:
        """See `Broker.open_cancels`."""
        async with self.redis.subscribe(CANCEL_CHANNEL, OWN_CANCEL_CHANNEL) as subscription:
            yield _Cancels(subscription)

    async def send_cancel(self, request: CancelRequest) -> None:
        """See `Broker.send_cancel`."""
        if request.queue is None and not request.drop:
            await self.command("PUBLISH", CANCEL_CHANNEL, request.task_id)
        else:
            await self.command("PUBLISH", OWN_CANCEL_CHANNEL, json.dumps(attrs.asdict(request)))

    # -------------------------------------------------- servers, schedulers

    async def write_server(
        self, info: ServerInfo, workers: Sequence[WorkerInfo], *, ttl: int = 10
    ) -> None:
        """See `Broker.write_server`."""
        expires_at = int(await self._time()) + ttl
        server = server_key(info.host, info.pid, info.server_id)
        own = workers_key(info.host, info.pid, info.server_id)
        await self.commands(
            [["ZADD", SERVERS, expires_at, server], ["ZADD", WORKERS, expires_at, own]]
        )
        now: dict[str, WorkerInfo] = {}
        for worker in workers:
            # Ids are unique in their queue only; Go reads the values, not the fields.
            twin = worker.task_id in now
            now[f"{worker.queue}:{worker.task_id}" if twin else worker.task_id] = worker
        before = self._written.pop(info.server_id, None)
        count = -1
        if before is not None:
            count = await self._write_changes((server, own), info, ttl, before, now)
        if count != len(now):  # the first time, or the hash had expired: all of it
            await self._write_changes((server, own), info, ttl, None, now)
        self._written[info.server_id] = now

    async def _write_changes(
        self,
        keys: tuple[str, str],
        info: ServerInfo,
        ttl: int,
        before: dict[str, WorkerInfo] | None,
        now: dict[str, WorkerInfo],
    ) -> int:
        """Write what changed since `before`, or all; return how many workers there are then."""
        known = before or {}
        ended = [field for field, worker in known.items() if now.get(field) != worker]
        words: list[Arg] = [ttl, info.encode(), "1" if before is None else "0", len(ended), *ended]
        for field, worker in now.items():
            if known.get(field) != worker:
                words += [field, worker.encode()]
        count: int = await self.run(_scripts.WRITE_SERVER, keys, words)
        return count

    async def clear_server(self, info: ServerInfo) -> None:
        """See `Broker.clear_server`."""
        self._written.pop(info.server_id, None)
        server = server_key(info.host, info.pid, info.server_id)
        own = workers_key(info.host, info.pid, info.server_id)
        await self.commands(
            [["ZREM", SERVERS, server], ["ZREM", WORKERS, own], ["DEL", server], ["DEL", own]]
        )

    async def write_entries(
        self, scheduler_id: str, entries: Sequence[SchedulerEntry], *, ttl: int = 20
    ) -> None:
        """See `Broker.write_entries`."""
        expires_at = int(await self._time()) + ttl
        key = scheduler_key(scheduler_id)
        await self.command("ZADD", SCHEDULERS, expires_at, key)
        unit: list[list[Arg]] = [["MULTI"], ["DEL", key]]
        if entries:
            unit.append(["LPUSH", key, *(entry.encode() for entry in entries)])
            unit.append(["EXPIRE", key, ttl])
        await self.commands([*unit, ["EXEC"]])

    async def clear_entries(self, scheduler_id: str) -> None:
        """See `Broker.clear_entries`."""
        key = scheduler_key(scheduler_id)
        await self.commands([["ZREM", SCHEDULERS, key], ["DEL", key]])

    async def record_event(self, entry_id: str, event: EnqueueEvent) -> None:
        """See `Broker.record_event`."""
        key = history_key(entry_id)
        await self.commands(
            [
                ["MULTI"],
                ["ZADD", key, int(event.enqueued_at), event.encode()],
                ["ZREMRANGEBYRANK", key, 0, -MAX_EVENTS - 1],
                ["EXPIRE", key, STATISTICS_DAYS * DAY],
                ["EXEC"],
            ]
        )

    # --------------------------------------------------------------- limits

    async def acquire(self, scope: str, holder: str, *, limit: int, until: float) -> bool:
        """See `Broker.acquire`."""
        now = await self._time()
        key = semaphore_key(scope)
        return bool(await self.run(_scripts.ACQUIRE, [key], [holder, limit, now, until]))

    async def release(self, scope: str, holder: str) -> None:
        """See `Broker.release`."""
        await self.command("ZREM", semaphore_key(scope), holder)

    async def take_rate(self, scope: str, *, per_second: float, burst: int) -> float:
        """See `Broker.take_rate`."""
        now_us = math.floor(await self._time() * 1_000_000)
        wait_us: int = await self.run(
            _scripts.TAKE_RATE, [rate_key(scope)], [now_us, 1_000_000 / per_second, burst]
        )
        return wait_us / 1_000_000


def broker_of(redis: Redis | B, logger: Logger | None) -> RedisBroker | B:
    """Return the broker of a client, or what was given, if that is a broker already.

    Raises:
        InvalidOptionError: it is neither.
    """
    if isinstance(redis, Redis):
        return RedisBroker(redis, logger=logger)
    if not hasattr(redis, "enqueue"):
        raise InvalidOptionError(f"redis is a {type(redis)!r}: give a client of terzetto.connect()")
    return redis


def _read_cancel(item: Message) -> CancelRequest | None:
    """Return what was asked for, or None if it can't be understood."""
    try:
        if item.channel == CANCEL_CHANNEL.encode():
            return CancelRequest(task_id=item.data.decode())
        fields = json.loads(item.data)
        return CancelRequest(
            task_id=str(fields["task_id"]), queue=fields["queue"], drop=bool(fields["drop"])
        )
    except (ValueError, KeyError, TypeError):
        return None
