"""Dispatches on their way to Redis, and what is left to tell it of those that are over.

Theory of operation. A dispatch makes a bid, and sleeps until it is settled. Bids that come
while one script is under way wait, and go together with the next. When a bid is for a
worker of this node, that worker has kept the key's place free (`Lanes.reserve`); the script
then claims the key, sends the event, reads it for this node and makes the worker the owner,
all in one step, and the worker starts the job as soon as it hears of it. So a dispatch to
a worker of the same node waits for one round trip. For a worker of another node, of which
the home is known (`_homes.py`), the script does the same for that node, and tells it.

    bid --refused--> settled, the place given up
    bid --sent--> some node reads the event, and its return settles it
    bid --read for this node--> with the router: it is offered to the worker, which has to
        become the owner first
    bid --and owned--> likewise, and the worker starts it at once
    bid --read for another node--> its return settles it

What a dispatch leaves behind, an event to be acknowledged and a guard, rides with a later
script, before its claims: with one that carries several bids, or one for the same key, so
that nobody here meets its own guard; after a while it goes alone. Both bear being done twice.

A bid that comes alone is sent from its caller's own task and answered in the task that read
the reply, so that nothing waits for a turn of the scheduler in between. `run` sends what has
gathered meanwhile, and asks again for what got no answer.

One for each life of a node, which runs `run` and `tidy` as background tasks.
"""

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

import attrs
import trio
from redis.exceptions import RedisError, ResponseError

from terzetto._shared._logging import Logger
from terzetto._shared._pause import Pause
from terzetto._shared._texts import describe_error
from terzetto.pool._asking import Asked, Asking, Claim
from terzetto.pool._codec import JobBody
from terzetto.pool._dispatch import Returns, Waiting
from terzetto.pool._homes import Homes, RemoteWorker
from terzetto.pool._order import Order
from terzetto.pool._store import Store

_REST: Final = 0.01  # seconds that what is left behind waits for a script to ride with
_LEFT: Final = 64  # what is left behind waits no longer when there is so much of it
_MOST: Final = 256
_MOST_BYTES: Final = 4 * 1024 * 1024  # a script's arguments are parsed at one go


class Keeper(Protocol):
    """What is asked of a worker of this node that keeps a place for a job."""

    worker_id: str
    created: str

    def make_ready(self, key: str) -> None:
        """Get ready for the start of the job, while Redis is asked."""
        ...

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
    """A dispatch that asks for its key; `keeper` keeps a place for the job, if it is of this node.

    `token` is a name of this dispatch alone; `remote` is the worker that is to run it, if it
    is one of another node and its home is known.
    """

    job: JobBody
    body: bytes
    token: str
    waiting: Waiting
    keeper: Keeper | None
    remote: RemoteWorker | None = None


class Taker(Protocol):
    """What is asked of a router."""

    @property
    def consumer(self) -> str:
        """The consumer of the pool's sink that reads for this node."""
        ...

    def take(self, bid: Bid, claim: Claim, now: float) -> None:
        """See a start to its worker; it was read for this node when it was sent."""
        ...


@attrs.define(eq=False)
class _Load:
    """What one script carries; `settled` is set once it is known what came of it."""

    bids: Sequence[Bid] = ()
    acks: list[str] = attrs.field(factory=list)
    guards: list[tuple[str, str]] = attrs.field(factory=list)
    guarded: set[str] = attrs.field(factory=set)
    """The keys of these guards."""
    settled: trio.Event = attrs.field(factory=trio.Event)


def _settled_load() -> _Load:
    load = _Load()
    load.settled.set()
    return load


@attrs.define(eq=False, kw_only=True)
class Claims:
    """The bids of one life of a node."""

    store: Store
    log: Logger
    returns: Returns
    guard_for: float
    limit: int
    homes: Homes
    router: "Taker | None" = None
    """The node's router, once there is one; clients have none."""
    _bids: deque[Bid] = attrs.field(factory=deque[Bid])
    _left: _Load = attrs.field(factory=_Load)
    """What dispatches have left behind, for a script to take along."""
    _under_way: _Load = attrs.field(factory=_settled_load)
    _unheard: _Load | None = None
    """The load under way, if it was posted and got no answer."""
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _left_behind: trio.Event = attrs.field(factory=trio.Event)
    _is_hurried: bool = False
    _pause: Pause = attrs.field(factory=Pause)
    _is_over: bool = False

    def put(self, bid: Bid) -> None:
        """Queue a bid; its `waiting` hears what comes of it."""
        if self._is_over:
            bid.waiting.cut()
            return
        self._bids.append(bid)
        if not self._under_way.settled.is_set():
            return  # it goes with the next script
        if len(self._under_way.bids) > 1:
            self._wake.set()  # there is a crowd: `run` gathers the bids of a turn
        else:
            self._post()

    def acknowledge(self, event_id: str) -> None:
        """Have an event of the pool's stream acknowledged and deleted, some time soon."""
        self._left.acks.append(event_id)
        self._left_behind.set()

    def release(self, key: str, token: str) -> None:
        """Have the guard of a dispatch released, if it is still its own, some time soon."""
        self._left.guards.append((key, token))
        self._left.guarded.add(key)
        self._left_behind.set()

    def hurry(self) -> None:
        """Have what is left behind settled now."""
        self._is_hurried = True
        if self._under_way.settled.is_set():
            self._wake.set()

    async def flush(self) -> None:
        """Have what is left behind settled now, and wait for it."""
        left = self._left
        if not self._is_over and (left.acks or left.guards):
            self.hurry()
            await left.settled.wait()

    async def tidy(self) -> None:
        """See to it, for ever, that nothing waits for long to be settled."""
        while True:
            await self._left_behind.wait()
            await trio.sleep(_REST)
            self._left_behind = trio.Event()
            await self.flush()

    async def run(self) -> None:
        """Send bids, for ever; those that are open when this is cancelled are cut off."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                load, self._unheard = self._unheard, None
                if load is None and self._under_way.settled.is_set():
                    load = self._take_load()
                if load is not None:
                    await self._send(load)
        finally:
            self._is_over = True
            if not self._under_way.settled.is_set():
                self._bids.extendleft(reversed(self._under_way.bids))
                self._under_way.settled.set()
            self._left.settled.set()
            for bid in self._bids:
                bid.waiting.cut()

    def _take_load(self) -> _Load:
        """Take the next bids, and what is left behind if it is not to wait for another script."""
        bids, left = self._take_bids(), self._left
        is_alone = len(bids) == 1 and not self._is_hurried and len(left.guards) < _LEFT
        if is_alone and bids[0].job.key not in left.guarded:
            self._under_way = _Load(bids)
        else:
            self._left, self._is_hurried = _Load(), False
            left.bids = bids
            self._under_way = left
        return self._under_way

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
        return batch

    def _post(self) -> None:
        """Send a load from the task of whoever bids."""
        load = self._take_load()
        asking = self._asking(load)
        if not self.store.post_claim(asking, partial(self._hear, load, asking)):
            self._ask_again(load)

    def _hear(self, load: _Load, asking: Asking, reply: object) -> None:
        """Take in what came of a load that was posted; called in the task that read it."""
        if load is not self._under_way or self._is_over:
            return  # its bids were cut
        try:
            claims = asking.read(reply)
        except TypeError:  # an error, such as that the link was lost
            self._ask_again(load)
        else:
            self._settle(load, claims)

    def _ask_again(self, load: _Load) -> None:
        self._unheard = load
        self._wake.set()

    async def _send(self, load: _Load) -> None:
        try:
            claims: Sequence[Claim | str] = ()
            if load.bids or load.acks or load.guards:
                claims = await self.store.claim(self._asking(load))
        except RedisError as error:
            await self._fail(load, error)
        else:
            self._settle(load, claims)

    def _settle(self, load: _Load, claims: Sequence[Claim | str]) -> None:
        self._pause.worked()
        for bid, claim in zip(load.bids, claims, strict=True):
            self._answer(bid, claim)
        self._end(load)

    async def _fail(self, load: _Load, error: RedisError) -> None:
        if load.bids or not self._pause.has_failed:
            self.log.warning("dispatches failed", error=describe_error(error))
        for bid in load.bids:
            self._give_up(bid)
            bid.waiting.fail(error)
        self._end(load)
        if not isinstance(error, ResponseError):
            # A link was closed, perhaps one of a cluster's. What Redis itself refuses is
            # let be: guards run out, and events come round again.
            self._left.acks += load.acks
            self._left.guards += load.guards
            self._left.guarded |= load.guarded
            self._left_behind.set()
            await trio.sleep(self._pause.failed())

    def _end(self, load: _Load) -> None:
        load.settled.set()
        if self._bids or self._is_hurried:
            self._wake.set()

    def _asking(self, load: _Load) -> Asking:
        return Asking(
            [self._asked(bid) for bid in load.bids],
            load.acks,
            load.guards,
            guard_for=self.guard_for,
            # What is done and not yet acknowledged waits for nobody.
            limit=self.limit and self.limit + len(self._left.acks),
        )

    def _asked(self, bid: Bid) -> Asked:
        keeper, remote = bid.keeper, bid.remote
        key, body, token = bid.job.key, bid.body, bid.token
        if remote is not None:
            home = remote.home
            worker_id, created = remote.worker_id, remote.created
            return Asked(key, body, token, worker_id, created, home.consumer, home.node_id)
        if self.router is None or keeper is None or not keeper.keeps_place(key):
            return Asked(key, body, token)
        return Asked(key, body, token, keeper.worker_id, keeper.created, self.router.consumer)

    def _answer(self, bid: Bid, claim: Claim | str) -> None:
        if isinstance(claim, str):
            self._give_up(bid)
            bid.waiting.refuse(claim)
            return
        now = trio.current_time()
        self.returns.sent(bid.waiting, claim.event_id, until=now + self.guard_for)
        if claim.was_nobody_home:
            self.homes.look()
        if claim.is_read and self.router is not None:
            self.router.take(bid, claim, now)
        else:
            self._give_up(bid)

    def _give_up(self, bid: Bid) -> None:
        if bid.keeper is not None:
            bid.keeper.give_place_up(bid.job.key)
