"""Where the workers of other nodes are told of their jobs.

Theory of operation. A dispatch whose worker is of another node would go by the pool's
stream to some node, and from there by the worker's stream to the worker. Where it is known
which node a worker is of, and which consumer of the pool's sink reads for that node, the
script of the dispatch does it all in one step: it has the event read for that consumer,
makes the worker the job's owner, and tells the node by its own stream. What that node then
has is what it had if it had read the event itself, so all that may go wrong goes as it
always does: the event is pending with its consumer, and comes again.

Nodes of ours write down the homes of their workers, in a hash of ours; for the others, and
where a home is none any more, dispatches take the long road. The copy here is read again
when the fleet changes, and when a script found nobody at home.
"""

from typing import Final

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._logging import Logger
from terzetto._shared._texts import describe_error
from terzetto.pool._fleet import Fleet
from terzetto.pool._store import Store

_PAUSE: Final = 0.1  # seconds between two looks


@attrs.frozen
class Home:
    """A node, and the consumer that reads the pool's stream for it."""

    node_id: str
    consumer: str

    def __str__(self) -> str:
        """Return what is written down."""
        return f"{self.node_id} {self.consumer}"


@attrs.frozen
class RemoteWorker:
    """A worker of another node, by id and creation time, and where it is told of a job."""

    worker_id: str
    created: str
    home: Home


@attrs.define(eq=False, kw_only=True)
class Homes:
    """The homes that one life of a node knows of."""

    store: Store
    log: Logger
    fleet: Fleet
    node_id: str
    _homes: dict[str, Home] = attrs.field(factory=dict[str, Home])
    _wake: trio.Event = attrs.field(factory=trio.Event)

    def worker_for(self, key: str, now: float) -> RemoteWorker | None:
        """Return the worker of another node that a job belongs to, if its home is known."""
        worker_id = self.fleet.place(key, now) or ""
        home = self._homes.get(worker_id)
        if home is None or home.node_id == self.node_id:
            return None
        return RemoteWorker(worker_id, self.fleet.created(worker_id), home)

    def look(self) -> None:
        """Have the homes read again soon."""
        self._wake.set()

    async def run(self) -> None:
        """Read the homes whenever `look` asked for it, for ever."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            try:
                written = await self.store.homes()
            except RedisError as error:
                self.log.warning("homes of workers are not known", error=describe_error(error))
            else:
                self._homes = {
                    worker_id: Home(node_id, consumer)
                    for worker_id, (node_id, _, consumer) in written.items()
                }
            await trio.sleep(_PAUSE)
