"""Fetches tasks for free slots: as many at once as there are, woken as soon as there is one.

Theory of operation. One background task asks for as many tasks as slots are free.
Got so many, it asks again as soon as one is free; got fewer, the queues are empty
and it waits for a hint from producers, or for the poll's turn, since producers in
Go give none. A second background task listens for hints; without it (no permission
to subscribe) the poll remains.

A request that is under way when the server stops is let come back, so that no task
is taken that nobody knows of; what it brings is handed back.
"""

from collections.abc import Sequence
from typing import Final

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._texts import describe_error
from terzetto.actor import Actor, ActorStoppedError, Context, Stop
from terzetto.redis import LinkClosedError
from terzetto.tasks._broker_values import Lease
from terzetto.tasks._core import Core

_EAR: Final = 2.0  # seconds without cancellations that tasks wait for, and no longer
_PARTING: Final = 3.0  # seconds for a request that is under way when the server stops
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


@attrs.define(eq=False, kw_only=True)
class FetcherActor(Actor):
    """One life of the fetcher."""

    core: Core
    _over: trio.Event = attrs.field(factory=trio.Event)

    async def started(self, ctx: Context["FetcherActor"]) -> None:
        """Begin to fetch."""
        ctx.start_soon(self._listen)
        ctx.start_soon(self._fetch)

    async def stopping(self, reason: Stop) -> None:
        """Fetch no more; wait for what is under way."""
        if reason in {Stop.NORMAL, Stop.CLOSED, Stop.SHUTDOWN}:
            self.core.set_status("stopped")
            with trio.move_on_after(_PARTING):
                await self._over.wait()

    async def _fetch(self) -> None:
        core, options = self.core, self.core.options
        try:
            with trio.move_on_after(_EAR):  # a cancellation that comes before is never heard
                await core.listens.wait()
            while core.is_fetching:
                room = core.room()
                if room <= 0 or core.crew is None:
                    await core.wait_room()
                    continue
                count = await self._fetch_some(room)
                if count < room and core.is_fetching:
                    # By chance, so that many servers do not all ask at the same moment.
                    await core.work.wait(options.poll_interval * core.chance.uniform(0.5, 1.5))
                elif core.room() > 0:
                    # What has just been begun may give its slots back at once: one request
                    # for these and for those that are free already costs less than two.
                    await trio.lowlevel.checkpoint()
        finally:
            self._over.set()

    async def _fetch_some(self, room: int) -> int:
        core = self.core
        order = core.order.draw(core.chance)
        pause = _FIRST_PAUSE
        while True:
            try:
                leases = await core.broker.dequeue(order, room, lease_for=core.options.lease)
                break
            except LinkClosedError:
                raise
            except RedisError as error:
                core.log.warning("Redis refuses to give tasks", error=describe_error(error))
                await core.work.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                if not core.is_fetching:
                    return 0
        if leases and not self._begin(leases):
            for lease in reversed(leases):  # so that the oldest is the next to be taken
                await core.broker.requeue(lease)
        return len(leases)

    def _begin(self, leases: Sequence[Lease]) -> bool:
        """Have the crew start attempts; False if the server stops or the crew has crashed."""
        core = self.core
        if core.crew is None or not core.is_fetching:
            return False
        try:
            core.crew.begin(leases)
        except ActorStoppedError:
            return False
        core.busy += len(leases)
        return True

    async def _listen(self) -> None:
        core = self.core
        pause = _FIRST_PAUSE
        while True:
            try:
                async with core.broker.open_wakeups(list(core.options.queues)) as wakeups:
                    core.work.ring()
                    while True:
                        await wakeups.wait()
                        core.work.ring()
            except LinkClosedError:
                raise
            except RedisError as error:
                core.log.warning(
                    "cannot hear when tasks are enqueued: polling", error=describe_error(error)
                )
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
