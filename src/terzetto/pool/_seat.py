"""What outlives the lives of a node and of its workers, behind the faces that users hold.

A seat is made once for each `Node` and `Worker`. The actors (`_actor.py`,
`_worker.py`) note on it that a life begins and ends; the faces, tickers and
schedules find on it the life that is up, and wait for the next one.
"""

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import attrs
import trio
from ulid import ULID

from terzetto._shared._logging import Logger
from terzetto.actor import Ref
from terzetto.errors import ClosedError
from terzetto.pool._core import Options
from terzetto.pool._dispatch import Returns
from terzetto.pool._job import Handler
from terzetto.pool._names import Names
from terzetto.pool._observe import Watchers
from terzetto.pool._runner import JobPolicy
from terzetto.redis import Redis

if TYPE_CHECKING:
    from terzetto.pool._actor import NodeActor
    from terzetto.pool._worker import WorkerActor


@attrs.define(eq=False, repr=False)
class WorkerSeat:
    """A worker of a node, from one life to the next."""

    handler: Handler
    policy: JobPolicy
    ref: "Ref[WorkerActor] | None" = None
    life: "WorkerActor | None" = None

    def begin_life(self, life: "WorkerActor") -> None:
        """Note the life that begins."""
        self.life = life

    @property
    def is_closed(self) -> bool:
        """Whether it has left the pool for good."""
        return self.ref is not None and self.ref.is_stopped and not self.was_evicted

    @property
    def was_evicted(self) -> bool:
        """Whether its last life ended because the pool did not know it any more."""
        return self.life is not None and self.life.is_evicted

    async def wait_life_over(self) -> None:
        """Wait until the ref that it has now has stopped."""
        if self.ref is not None:
            await self.ref.wait_stopped()


@attrs.define(eq=False, repr=False)
class Seat:
    """A node, from one life to the next."""

    names: Names
    redis: Redis
    options: Options
    base_log: Logger
    id: str = attrs.field(factory=lambda: str(ULID()))
    log: Logger = attrs.field(init=False)
    watchers: Watchers = attrs.field(factory=Watchers)
    returns: Returns = attrs.field(factory=Returns)
    workers: list[WorkerSeat] = attrs.field(factory=list[WorkerSeat])
    ref: "Ref[NodeActor] | None" = None
    life: "NodeActor | None" = None
    is_shut_down: bool = False
    """Whether the pool was seen to be shutting down; set by the node's actor."""
    has_lived: bool = False
    """Whether a life of the node has been up."""
    _numbers: Iterator[int] = attrs.field(factory=count)
    _up: trio.Event = attrs.field(factory=trio.Event)
    _is_closed: bool = False

    def __attrs_post_init__(self) -> None:
        """Name the node in all that is logged."""
        self.log = self.base_log.bind(pool=self.names.pool, node_id=self.id)

    def new_token(self) -> str:
        """Return a name for a dispatch that no other has, in any process."""
        return f"{self.id}:{next(self._numbers)}"

    @property
    def patience(self) -> float:
        """How long a dispatch waits for its outcome, and its guard holds, in seconds."""
        return 2 * self.options.ack_grace_period

    @property
    def is_closed(self) -> bool:
        """Whether the node has left the pool for good."""
        return self._is_closed or (self.ref is not None and self.ref.is_stopped)

    def begin_life(self, life: "NodeActor") -> None:
        """Note the life that begins."""
        self.life = life
        self.has_lived = True
        self._up.set()

    def end_life(self, *, final: bool) -> None:
        """Note that it ends."""
        self.life = None
        self._up = trio.Event()
        if final:
            self._is_closed = True
            self.returns.cut()
            self.watchers.close()

    async def wait_up(self) -> "NodeActor":
        """Return the life that is up; wait for the next one while the node restarts.

        Raises:
            ClosedError: there is none, and none will come.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.life is None:
            if self.ref is None or self.is_closed:
                raise ClosedError(f"the node of pool {self.names.pool!r} is closed: open another")
            async with trio.open_nursery() as nursery:

                async def first(wait: Any) -> None:  # noqa: ANN401 - either of two waits
                    await wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(first, self._up.wait)
                nursery.start_soon(first, self.ref.wait_stopped)
        return self.life
