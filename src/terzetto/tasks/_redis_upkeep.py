"""The part of `RedisBroker` that keeps queues in order: due and lost tasks, groups, old ones."""

import math
import uuid

import attrs

from terzetto._shared._encoding import decode_text
from terzetto.tasks import _scripts
from terzetto.tasks._broker import BATCH, BATCH_SECONDS, LEASE_SECONDS
from terzetto.tasks._broker_values import Batch, Enqueue, Forwarded, Lease, Placement
from terzetto.tasks._errors import MessageError
from terzetto.tasks._keys import DAY, MAX_ARCHIVED, STATISTICS_DAYS
from terzetto.tasks._message import TaskMessage
from terzetto.tasks._redis_base import TOKENS, nanoseconds, new_token
from terzetto.tasks._redis_producing import RedisProducing, placement_of
from terzetto.tasks._redis_work import RedisWork


class RedisUpkeep(RedisProducing, RedisWork):
    """Forwards, recovers, deletes and aggregates."""

    async def forward(self, queue: str) -> Forwarded:
        """See `Broker.forward`."""
        now = await self._time()
        keys = self.keys(queue)
        moved, soonest = 0, math.inf
        for source in (keys.scheduled, keys.retry):
            count, next_ms = await self.run(
                _scripts.FORWARD,
                [source, keys.pending, keys.groups],
                [
                    math.floor(now * 1000),
                    nanoseconds(now),
                    BATCH,
                    keys.tasks,
                    keys.group(""),
                    keys.wake_channel,
                ],
            )
            moved += count
            if next_ms:
                soonest = min(soonest, int(next_ms) / 1000)
        return Forwarded(moved=moved, next_at=None if soonest == math.inf else soonest)

    async def take_expired(
        self,
        queue: str,
        *,
        grace: float = 0.0,
        lease_for: float = LEASE_SECONDS,
    ) -> list[Lease]:
        """See `Broker.take_expired`."""
        now = await self._time()
        keys = self.keys(queue)
        token = new_token()
        end = int(now + lease_for)
        reply = await self.run(
            _scripts.TAKE_EXPIRED,
            [keys.lease, keys.active],
            [
                now - grace,
                now - LEASE_SECONDS,
                end,
                BATCH,
                keys.tasks,
                token,
                TOKENS,
                "0",
            ],
            again=7,
        )
        return await self.taken(keys, reply, token, end)

    async def delete_expired(self, queue: str) -> int:
        """See `Broker.delete_expired`."""
        now = int(await self._time())
        keys = self.keys(queue)
        deleted: int = await self.run(
            _scripts.SWEEP,
            [keys.completed, keys.archived],
            [now, BATCH, keys.tasks, keys.prefix, now - STATISTICS_DAYS * DAY, MAX_ARCHIVED],
        )
        return deleted

    async def list_groups(self, queue: str) -> list[str]:
        """See `Broker.list_groups`."""
        reply = await self.command("SMEMBERS", self.keys(queue).groups)
        return sorted(map(decode_text, reply))

    async def take_batch(
        self,
        queue: str,
        group: str,
        *,
        max_size: int = 0,
        max_delay: float = 0.0,
        grace: float,
    ) -> Batch | None:
        """See `Broker.take_batch`."""
        now = await self._time()
        keys = self.keys(queue)
        set_id = str(uuid.uuid4())
        deadline = int(now + BATCH_SECONDS)
        reply = await self.run(
            _scripts.TAKE_BATCH,
            [keys.group(group), keys.aggregation_set(group, set_id), keys.sets, keys.groups],
            [now, max_size, max_delay, grace, deadline, group, keys.tasks, "0"],
            again=7,
        )
        messages: list[TaskMessage] = []
        for task_id, body in zip(reply[::2], reply[1::2], strict=True):
            try:
                messages.append(TaskMessage.decode(body))
            except MessageError as error:
                self._logger.warning(
                    "archived a task that cannot be read",
                    queue=queue,
                    group=group,
                    task_id=task_id,
                    exc_info=error,
                )
                await self._archive_unread(queue, task_id)
        if not messages:
            return None
        return Batch(
            queue=queue, group=group, set_id=set_id, messages=tuple(messages), deadline=deadline
        )

    async def _archive_unread(self, queue: str, task_id: bytes) -> None:
        """Take a task out of its batch, with which it would be deleted, and archive it as it is."""
        names, args = await self.move_one_words(queue, task_id, "archive")
        await self.run(_scripts.MOVE_ONE, names, args)

    async def finish_batch(self, batch: Batch, aggregate: Enqueue) -> Placement | None:
        """See `Broker.finish_batch`."""
        now = await self._time()
        keys = self.keys(batch.queue)
        message = attrs.evolve(aggregate.message, queue=batch.queue)
        entry = attrs.evolve(aggregate, message=message)
        reply = await self.run(
            _scripts.FINISH_BATCH,
            [
                *self.place_keys(keys, entry),
                keys.aggregation_set(batch.group, batch.set_id),
                keys.sets,
            ],
            [
                *self.place_args(keys, entry, message.encode(), now),
                keys.tasks,
                keys.prefix,
                "0",
            ],
            again=15,
        )
        return placement_of(reply, entry.state_at(now)) if reply else None

    async def reclaim_batches(self, queue: str) -> int:
        """See `Broker.reclaim_batches`."""
        keys = self.keys(queue)
        reclaimed: int = await self.run(
            _scripts.RECLAIM,
            [keys.sets, keys.groups],
            [int(await self._time()), keys.group(""), BATCH],
        )
        return reclaimed
