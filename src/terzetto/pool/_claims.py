"""Dispatches on their way to Redis, and what is left to tell it of those that are over.

Theory of operation. A dispatch makes a bid, and sleeps until it is settled. Bids that come
while one script is under way wait, and go together with the next. When a bid is for a
worker of this node, that worker has kept the key's place free (`Lanes.reserve`); the script
then claims the key, sends the event, reads it for this node and makes the worker the owner,
all in one step, and the worker starts the job as soon as it hears of it. So a dispatch to
a worker of the same node waits for one round trip.

    bid --refused--> settled, the place given up
    bid --sent--> some node reads the event, and its return settles it
    bid --read for this node--> with the router: it is offered to the worker, which has to
        become the owner first
    bid --and owned--> likewise, and the worker starts it at once

What a dispatch leaves behind, an event to be acknowledged and a guard, rides with the next
script, before its claims, so that nobody here meets it; it goes alone when nobody bids for
a while. Both bear being done twice.

One for each life of a node, which runs `run` and `tidy` as background tasks.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import attrs
import trio
from redis.exceptions import RedisError, ResponseError

from terzetto._shared._logging import Logger
from terzetto._shared._texts import describe_error
from terzetto.pool._codec import JobBody
from terzetto.pool._dispatch import Returns, Waiting
from terzetto.pool._order import Order
from terzetto.pool._store import Asked, Claim, Store

_REST: Final = 0.005  # seconds that what is left behind waits for a bid to ride with
_PAUSE: Final = 0.1  # seconds after a link was closed
_MOST: Final = 256
_MOST_BYTES: Final = 4 * 1024 * 1024  # a script's arguments are parsed at one go


class Keeper(Protocol):
    """What is asked of a worker of this node that keeps a place for a job."""

    worker_id: str
    created: str

    def keeps_place(self, key: str) -> bool:
        """Tell whether the place is still kept: the worker may have begun to leave."""
        ...

    def give_place_up(self, key: str) -> None:
        """Let other orders for the key go on: the job does not come."""
        ...

    def fill_place(self, order: Order) -> None:
        """Give the start of the job; if the place is kept no more, it is answered so."""
        ...


@attrs.define(eq=False)
class Bid:
    """A dispatch that asks for its key; `keeper` keeps a place for the job.

    `token` is a name of this dispatch alone.
    """

    job: JobBody
    body: bytes
    token: str
    waiting: Waiting
    keeper: Keeper | None


class Taker(Protocol):
    """What is asked of a router."""

    @property
    def consumer(self) -> str:
        """The consumer of the pool's sink that reads for this node."""
        ...

    def take(self, bid: Bid, claim: Claim) -> None:
        """See a start to its worker; it was read for this node when it was sent."""
        ...


@attrs.define(eq=False, kw_only=True)
class Claims:
    """The bids of one life of a node."""

    store: Store
    log: Logger
    returns: Returns
    guard_for: float
    limit: int
    router: "Taker | None" = None
    """The node's router, once there is one; clients have none."""
    _bids: deque[Bid] = attrs.field(factory=deque[Bid])
    _acks: list[str] = attrs.field(factory=list[str])
    _guards: list[tuple[str, str]] = attrs.field(factory=list[tuple[str, str]])
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _settled: trio.Event = attrs.field(factory=trio.Event)
    _left_behind: trio.Event = attrs.field(factory=trio.Event)
    _sent: int = 0
    """How many scripts were sent."""
    _is_over: bool = False

    def put(self, bid: Bid) -> None:
        """Queue a bid; its `waiting` hears what comes of it."""
        if self._is_over:
            bid.waiting.cut()
            return
        self._bids.append(bid)
        self._wake.set()

    def acknowledge(self, event_id: str) -> None:
        """Have an event of the pool's stream acknowledged and deleted, some time soon."""
        self._acks.append(event_id)
        self._left_behind.set()

    def release(self, key: str, token: str) -> None:
        """Have the guard of a dispatch released, if it is still its own, some time soon."""
        self._guards.append((key, token))
        self._left_behind.set()

    def hurry(self) -> None:
        """Have what is left behind settled now."""
        self._wake.set()

    async def flush(self) -> None:
        """Have what is left behind settled now, and wait for it."""
        if not self._is_over and (self._acks or self._guards):
            self._wake.set()
            await self._settled.wait()

    async def tidy(self) -> None:
        """See to it, for ever, that nothing waits for long to be settled."""
        while True:
            await self._left_behind.wait()
            self._left_behind = trio.Event()
            while self._acks or self._guards:
                sent = self._sent
                await trio.sleep(_REST)
                if sent == self._sent:
                    self._wake.set()

    async def run(self) -> None:
        """Send bids, for ever; those that are open when this is cancelled are cut off."""
        batch: Sequence[Bid] = ()
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                batch = self._take_bids()
                await self._send(batch)
                batch = ()
        finally:
            self._is_over = True
            self._settled.set()
            for bid in (*batch, *self._bids):
                bid.waiting.cut()

    def _take_bids(self) -> Sequence[Bid]:
        """Take the next bids; those whose dispatch has left meanwhile are withdrawn."""
        batch: list[Bid] = []
        size = 0
        while self._bids and len(batch) < _MOST:
            bid = self._bids[0]
            size += len(bid.body)
            if batch and size > _MOST_BYTES:
                break
            self._bids.popleft()
            if not bid.waiting.is_over:
                batch.append(bid)
            elif bid.keeper is not None:
                bid.keeper.give_place_up(bid.job.key)
        if self._bids:
            self._wake.set()
        return batch

    async def _send(self, batch: Sequence[Bid]) -> None:
        acks, self._acks = self._acks, []
        guards, self._guards = self._guards, []
        settled, self._settled = self._settled, trio.Event()
        self._sent += 1
        if not (batch or acks or guards):
            settled.set()
            return
        try:
            claims = await self.store.claim(
                [self._asked(bid) for bid in batch],
                acks=acks,
                guards=guards,
                guard_for=self.guard_for,
                limit=self.limit,
                consumer="" if self.router is None else self.router.consumer,
            )
        except RedisError as error:
            self.log.warning("dispatches failed", error=describe_error(error))
            for bid in batch:
                self._give_up(bid)
                bid.waiting.fail(error)
            if not isinstance(error, ResponseError):
                # A link was closed, perhaps one of a cluster's. What Redis itself refuses is
                # let be: guards run out, and events come round again.
                self._acks += acks
                self._guards += guards
                self._left_behind.set()
                await trio.sleep(_PAUSE)
        else:
            for bid, claim in zip(batch, claims, strict=True):
                self._answer(bid, claim)
        finally:
            settled.set()

    def _asked(self, bid: Bid) -> Asked:
        keeper = bid.keeper
        if keeper is None or not keeper.keeps_place(bid.job.key):
            return Asked(bid.job.key, bid.body, bid.token)
        return Asked(bid.job.key, bid.body, bid.token, keeper.worker_id, keeper.created)

    def _answer(self, bid: Bid, claim: Claim | str) -> None:
        if isinstance(claim, str):
            self._give_up(bid)
            bid.waiting.refuse(claim)
            return
        self.returns.sent(bid.waiting, claim.event_id, patience=self.guard_for)
        if claim.is_read and self.router is not None:
            self.router.take(bid, claim)
        else:
            self._give_up(bid)

    def _give_up(self, bid: Bid) -> None:
        if bid.keeper is not None:
            bid.keeper.give_place_up(bid.job.key)
