"""The part of `RedisBroker` that workers use: dequeue, leases, outcomes."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._texts import describe_error
from terzetto.redis import Arg, LinkClosedError
from terzetto.tasks import _scripts
from terzetto.tasks._broker import LEASE_SECONDS
from terzetto.tasks._broker_values import (
    Completion,
    Lease,
)
from terzetto.tasks._errors import MessageError
from terzetto.tasks._keys import DAY, MAX_ARCHIVED, STATISTICS_DAYS, QueueKeys
from terzetto.tasks._message import TaskMessage
from terzetto.tasks._redis_base import (
    CHUNK,
    RedisBase,
    due,
    nanoseconds,
    new_token,
    own_lock,
)

_DELETED: Final = ("", b"")  # what stands for a task that is not kept
_NO_RESULT: Final = ("0", b"")
_PARTING: Final = 1.0  # seconds for handing back what a cancelled dequeue has taken


class RedisWork(RedisBase):
    """Dequeues, keeps leases and writes outcomes."""

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
                wanted = min(limit - len(leases), CHUNK)
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
            for start in range(0, len(held), CHUNK):
                chunk = held[start : start + CHUNK]
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
            for start in range(0, len(those), CHUNK):
                chunk = those[start : start + CHUNK]
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
        args: list[Arg] = [
            len(keys.tasks.encode()),
            expire_at,
            keys.outcome_channel(""),
            "0",
            len(completions),
        ]
        locks: list[Arg] = []
        more: list[Arg] = []
        for number, each in enumerate(completions, 1):
            message, result = each.lease.message, each.result
            names.append(keys.tasks + message.id)
            args.append(each.lease.token)
            is_kept = each.retain and message.retention > 0
            lock = own_lock(keys, message.unique_key) if message.unique_key else None
            if is_kept or lock or result is not None:
                more.append(number)
                if is_kept:
                    more.append(int(now) + message.retention)
                    more.append(attrs.evolve(message, completed_at=int(now)).encode())
                else:
                    more += _DELETED
                more += _NO_RESULT if result is None else ("1", result)
                more.append("1" if lock else "0")
                if lock:
                    locks.append(lock)
        names += locks
        args += more
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
