"""Who belongs to a sink: the keep-alives, the list of consumers, and the sweep of the dead.

An instance shows that it lives by an entry in the sink's keep-alive map, and
stands in each stream's map of consumers. Both are for peers: ours judge by
changes they see themselves (`Liveness`), and never delete a consumer that has
entries pending, so the sweep only tidies; what the dead had is taken over by
claims. The keep-alive is written before the consumer is made, as a Go peer's
sweep deletes consumers without one.

Called by the sink's engine.
"""

import time
from collections.abc import Iterable, Mapping

import trio

from terzetto.redis import Redis
from terzetto.streaming._claims import Liveness
from terzetto.streaming._group import Group
from terzetto.streaming._names import keepalive_map
from terzetto.streaming._scripts import MapWriter

# Go peers on streams that we do not read may still have to claim from the dead,
# and delete consumers whose keep-alive is gone: leave it for longer than they need.
_KEEP_ALIVE_OUTLIVES = 4


class Members:
    """The instances of one sink, as seen from one of them."""

    def __init__(self, redis: Redis, sink: str, grace: float) -> None:
        self._keepalives = MapWriter(redis, keepalive_map(sink))
        self._sink = sink
        self._grace = grace
        self._liveness = Liveness(grace)
        self._last_sweep = float("-inf")

    async def show_alive(self, consumer: str) -> None:
        """Write the keep-alive of `consumer`: the time now, in Unix nanoseconds."""
        await self._keepalives.set_key(consumer, str(time.time_ns()))

    async def enlist(self, group: Group, consumer: str) -> None:
        """Put `consumer` on the list of the group's stream."""
        await group.stream.consumers().append(self._sink, consumer)

    async def strike(self, group: Group, consumer: str) -> bool:
        """Take `consumer` off the list of the group's stream; tell whether the list is empty."""
        return await group.stream.consumers().remove(self._sink, consumer)

    async def forget(self, consumer: str) -> None:
        """Delete the keep-alive of `consumer`."""
        await self._keepalives.delete(consumer)

    async def sweep(self, groups: Iterable[Group], own: str) -> None:
        """Delete consumers that have been silent for two grace periods and have nothing pending.

        Their names leave the lists of these groups' streams, and their
        keep-alives go when they have been silent for twice as long.
        """
        groups = tuple(groups)
        keepalives = await self._keepalives.read()
        members = {group: set(await group.consumers()) for group in groups}
        now = trio.current_time()
        if now - self._last_sweep > 2 * self._grace:
            self._liveness.forgive(now)  # we were away, or Redis was: nobody could show anything
        self._last_sweep = now
        seen = set(keepalives).union(*members.values()) - {own}
        self._liveness.observe(seen, keepalives, now)
        for consumer in self._liveness.dead(now):
            await self._bury_consumer(consumer, members)
        for consumer in self._liveness.dead(now, periods=_KEEP_ALIVE_OUTLIVES):
            if consumer in keepalives and not any(consumer in names for names in members.values()):
                await self.forget(consumer)

    async def _bury_consumer(self, consumer: str, members: Mapping[Group, set[str]]) -> None:
        for group, names in members.items():
            if consumer in names and not await group.delete_consumer(consumer):
                continue
            names.discard(consumer)
            await self.strike(group, consumer)
