"""What a worker owns, written to Redis: many changes at a time, in order.

The list of a worker's jobs is one value in Redis, and each change writes it
anew; with a thousand jobs that is a lot for one. So a change that comes alone is
written by its caller, and those that come while one script is under way wait, and
go together with the next: the more there is to do, the less each costs. Changes of
one key keep their order.

Run by the worker as a background task, which writes what has waited; its lanes call
the rest and wait.
"""

from collections.abc import Sequence
from typing import Final

import attrs
import trio
from redis.exceptions import RedisError

from terzetto.pool._codec import JobBody
from terzetto.pool._letter import encode_letter
from terzetto.pool._store import Store

OVER: Final = 3  # a job that was sent again has ended meanwhile
_BURIED: Final = 2
_MOST: Final = 256
_MOST_BYTES: Final = 4 * 1024 * 1024  # a script's arguments are parsed at one go


@attrs.define(eq=False)
class _Change:
    """One change on its way: what, and what came of it."""

    args: tuple[str, str, bytes, str]
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: int | str = 0
    error: RedisError | None = None


@attrs.define(eq=False)
class Ledger:
    """The changes of one worker."""

    store: Store
    worker_id: str
    created: str
    _waiting: list[_Change] = attrs.field(factory=list[_Change])
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _is_writing: bool = False

    async def own(
        self, key: str, payload: bytes, *, dead_owner: str = "", sent_again: bool = False
    ) -> int | str:
        """Become the owner of a job; of one that was sent again only if it has not ended.

        Returns:
            1; 0 if the worker left the pool; `OVER` if the job has ended; or the other owner.
        """
        return await self._apply("take" if sent_again else "own", key, payload, dead_owner)

    async def end(self, key: str, event_id: str = "") -> bool:
        """Take a job off, payload and all; False if it was not owned.

        With the id of the event that started it that one is over too, as in the next two.
        """
        return await self._apply("end", key, more=event_id) == 1

    async def fail(self, key: str, letter: bytes, *, rest: float) -> bool:
        """Take a job off that did not start although it was accepted before.

        It rests for `rest` seconds, twice as long each time, and is sent again.

        Returns:
            True if it failed too often and has become a dead letter.
        """
        return await self._apply("fail", key, letter, str(round(rest * 1e6))) == _BURIED

    async def keep(self, key: str) -> bool:
        """Take a job off whose event is still pending, or that will be found as an orphan."""
        return await self._apply("keep", key) == 1

    async def give_up(self, job: JobBody, failure: str, *, rest: float) -> bool:
        """Take a job off that did not start, by a `failure` if that is not empty.

        One that was accepted before stays accepted, and rests as it does after `fail`.

        Returns:
            True if it failed too often and has become a dead letter.
        """
        if job.requeued and failure:
            return await self.fail(job.key, encode_letter(job, failure), rest=rest)
        if job.requeued:
            await self.keep(job.key)
        else:
            await self.end(job.key)
        return False

    async def fine(self, key: str) -> None:
        """Note that a job that was sent again has started."""
        await self._apply("fine", key)

    async def requeue(self, key: str, body: bytes, event_id: str) -> bool:
        """Take a job off and send it to the pool again; False if it was not owned."""
        return await self._apply("requeue", key, body, event_id) == 1

    async def bury(self, key: str, letter: bytes, event_id: str) -> bool:
        """Take a job off and make a dead letter of it; False if it was not owned."""
        return await self._apply("bury", key, letter, event_id) == _BURIED

    async def run(self) -> None:
        """Write the changes that have waited, for ever."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await self._write(self._take())

    async def _write(self, batch: Sequence[_Change]) -> None:
        self._is_writing = True
        try:
            outcomes = await self.store.change_jobs(
                self.worker_id, self.created, [change.args for change in batch]
            )
            for change, outcome in zip(batch, outcomes, strict=True):
                change.outcome = outcome
                change.done.set()
        except RedisError as error:
            for change in batch:
                change.error = error
                change.done.set()
        finally:
            self._is_writing = False
            if self._waiting:
                self._wake.set()

    def _take(self) -> Sequence[_Change]:
        size, count = 0, 0
        for change in self._waiting[:_MOST]:
            size += len(change.args[2])
            if count and size > _MOST_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _apply(self, kind: str, key: str, value: bytes = b"", more: str = "") -> int | str:
        """Write one change, or wait until it has been written.

        Raises:
            redis.exceptions.RedisError: Redis refused it, or the client was closed.
        """
        change = _Change((kind, key, value, more))
        if self._is_writing or self._waiting:
            self._waiting.append(change)
            await change.done.wait()
        else:
            await self._write([change])
        if change.error is not None:
            raise change.error
        return change.outcome
