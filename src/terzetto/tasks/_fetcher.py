"""Fetches tasks for free slots: as many at once as there are, woken as soon as there is one.

Theory of operation. One background task asks for as many tasks as slots are free.
Got so many, it asks again as soon as one is free, and for one more that is held until
another is (`_held.py`); got fewer, the queues are empty and it waits for a hint from
producers, or for the poll's turn, since producers in Go give none. A second background
task listens for hints; without it (no permission to subscribe) the poll remains.

A request that is under way when the server stops is let come back, so that no task
is taken that nobody knows of. What it brings is handed back, as what was held is: when
the server stops, when the crew has crashed, and when no slot has fallen free in time.
"""

import math
from collections.abc import Sequence
from typing import Final

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._pause import Pause
from terzetto._shared._texts import describe_error
from terzetto.actor import Actor, ActorStoppedError, Context, Stop
from terzetto.redis import LinkClosedError
from terzetto.tasks._broker_values import Lease
from terzetto.tasks._core import Core

_EAR: Final = 2.0  # seconds without cancellations that tasks wait for, and no longer
_PARTING: Final = 3.0  # seconds for a request that is under way when the server stops


@attrs.define(eq=False, kw_only=True)
class FetcherActor(Actor):
    """One life of the fetcher."""

    core: Core
    _has_more: bool = False
    """Whether the last request brought all that was asked for."""
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
                if core.held.leases and (core.crew is None or self._seconds_left() <= 0):
                    await self._hand_back()
                wanted = core.room()
                if self._has_more:
                    wanted += core.held.room(trio.current_time())
                if wanted <= 0 or core.crew is None:
                    await core.wait_room(self._seconds_left())
                    continue
                self._has_more = await self._fetch_some(wanted) == wanted
                if core.room() <= 0:
                    continue
                if not self._has_more and core.is_fetching:
                    # By chance, so that many servers do not all ask at the same moment.
                    pause = options.poll_interval * core.chance.uniform(0.5, 1.5)
                    await core.work.wait(min(pause, self._seconds_left()))
                else:
                    # What has just been begun may give its slots back at once: one request
                    # for these and for those that are free already costs less than two.
                    await trio.lowlevel.checkpoint()
            await self._hand_back()
        finally:
            self._over.set()

    async def _fetch_some(self, room: int) -> int:
        core = self.core
        order = core.order.draw(core.chance)
        pause = Pause()
        while True:
            try:
                leases = await core.broker.dequeue(order, room, lease_for=core.options.lease)
                break
            except LinkClosedError:
                raise
            except RedisError as error:
                core.log.warning("Redis refuses to give tasks", error=describe_error(error))
                await core.work.wait(pause.failed())
                if not core.is_fetching:
                    return 0
        self._begin(leases)
        return len(leases)

    def _begin(self, leases: Sequence[Lease]) -> None:
        """Have the crew start as many attempts as slots are free; hold the rest.

        If the server stops, or the crew has crashed, all of them are held, and go back soon.
        """
        core, crew, free = self.core, self.core.crew, 0
        if crew is not None and core.is_fetching:
            free = core.options.concurrency - core.busy
        if crew is not None and (begun := leases[:free]):
            try:
                crew.begin(begun)
                core.busy += len(begun)
            except ActorStoppedError:
                core.crew, free = None, 0  # until another is there
        if rest := leases[free:]:
            core.held.hold(rest, trio.current_time())

    def _seconds_left(self) -> float:
        """Return for how long tasks may be held; infinite if none is."""
        held = self.core.held
        return held.seconds_left(trio.current_time()) if held.leases else math.inf

    async def _hand_back(self) -> None:
        """Give back what is held, however long it takes."""
        core, pause = self.core, Pause()
        core.held.give_up()
        while core.held.leases:
            lease = core.held.leases[-1]  # so that the oldest is the next to be taken
            try:
                await core.broker.requeue(lease)
            except LinkClosedError:
                raise
            except RedisError as error:
                core.log.warning("Redis refuses to take a task back", error=describe_error(error))
                await trio.sleep(pause.failed())  # nobody tells when it takes writes again
            else:
                core.held.drop(lease)

    async def _listen(self) -> None:
        core = self.core
        pause = Pause()
        while True:
            try:
                async with core.broker.open_wakeups(list(core.options.queues)) as wakeups:
                    core.work.ring()
                    pause.worked()
                    while True:
                        await wakeups.wait()
                        core.work.ring()
            except LinkClosedError:
                raise
            except RedisError as error:
                core.log.warning(
                    "cannot hear when tasks are enqueued: polling", error=describe_error(error)
                )
            await trio.sleep(pause.failed())
