"""Sharded channels of a cluster: each is heard from the server that owns its slot.

Theory of operation
-------------------
`Shards` knows the topics, that is the channels that somebody reads, and gives
each to the `Shard` of its slot's owner, again whenever the map changes. A `Shard`
is one link to one server and one task, which brings what the server has been
told (`_confirmed`, for the connection of this moment) to what is `wanted`.

    given to a shard --SSUBSCRIBE--> confirmed --lost, moved--> given to a shard ...

A channel that is confirmed for the second time may have missed messages, so
its readers get a `Gap`. When a slot moves, the server says so unasked
(``sunsubscribe``); that, a MOVED, and the map itself lead to the new owner.

The client of a cluster starts it at the first sharded subscription.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from terzetto.redis._errors import AuthError, LinkClosedError, LinkLostError
from terzetto.redis._link import Link
from terzetto.redis._pubsub import Message, Subscription, TopicKey
from terzetto.redis._request import replies_of
from terzetto.redis._slots import slot_of
from terzetto.redis._topology import Topology
from terzetto.redis._url import Endpoint, Options
from terzetto.redis._wire import Reply, pack

Misplaced = Callable[[Exception, Endpoint], Awaitable[bool]]


@attrs.define(eq=False)
class _Topic:
    """A channel with readers."""

    readers: list[Subscription] = attrs.field(factory=list[Subscription])
    settled: trio.Event = attrs.field(factory=trio.Event)  # confirmed, or refused for good
    error: Exception | None = None

    def refuse(self, error: Exception) -> None:
        self.error = error
        self.settled.set()
        for subscription in self.readers:
            subscription.end(error)


class Shards:
    """All sharded subscriptions of a client of a cluster."""

    def __init__(self, options: Options, topology: Topology, misplaced: Misplaced) -> None:
        self._options = options
        self._topology = topology
        self._misplaced = misplaced
        self._topics: dict[bytes, _Topic] = {}
        self._shards: dict[Endpoint, Shard] = {}
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def subscribe(
        self, keys: Sequence[TopicKey], buffer_size: int
    ) -> AsyncGenerator[Subscription, None]:
        """Subscribe for the time of a block; entering waits for the word of all servers."""
        subscription = Subscription(keys, buffer_size)
        names = [name for _, name in keys]
        try:
            topics = [self._topics.setdefault(name, _Topic()) for name in names]
            for topic in topics:
                topic.readers.append(subscription)
            self.assign()
            for topic in topics:
                await topic.settled.wait()
                if topic.error is not None:
                    raise topic.error
            yield subscription
        finally:
            subscription.end(LinkClosedError("the block of the subscription has been left"))
            for name in names:
                self._leave(name, subscription)
            self.assign()

    async def run(self) -> None:
        """Run the links to the servers, until cancelled."""
        self._topology.on_change = self.assign
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for shard in self._shards.values():
                nursery.start_soon(shard.run)
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def close(self) -> None:
        """End the links and all subscriptions."""
        error = LinkClosedError("the client's block has been left: open another")
        for topic in self._topics.values():
            topic.refuse(error)
        for shard in self._shards.values():
            shard.link.close()
        self._topics.clear()
        self._shards.clear()

    def assign(self) -> None:
        """Give each topic to the shard of its slot's owner."""
        wanted: dict[Endpoint, set[bytes]] = {endpoint: set() for endpoint in self._shards}
        for name in self._topics:
            owner = self._topology.slots[slot_of(name)]
            if owner is None:
                self._topology.doubt()
            else:
                wanted.setdefault(owner.options.endpoint, set()).add(name)
        for endpoint, names in wanted.items():
            self._shard(endpoint).want(names)

    def _shard(self, endpoint: Endpoint) -> "Shard":
        shard = self._shards.get(endpoint)
        if shard is None:
            options = attrs.evolve(self._options, endpoint=endpoint, source=None)
            shard = self._shards[endpoint] = Shard(options, self)
            if self._nursery is not None:
                self._nursery.start_soon(shard.run)
        return shard

    def _leave(self, name: bytes, subscription: Subscription) -> None:
        topic = self._topics.get(name)
        if topic is not None and subscription in topic.readers:
            topic.readers.remove(subscription)
            if not topic.readers:
                del self._topics[name]

    # What shards report

    def deliver(self, message: Message) -> None:
        """Give a message to those who read its channel."""
        topic = self._topics.get(message.channel)
        if topic is not None:
            for subscription in topic.readers:
                subscription.put(message)

    def confirm(self, name: bytes, *, anew: bool = True) -> None:
        """Note that messages of a channel come from now on; `anew`: after they did not."""
        topic = self._topics.get(name)
        if topic is not None:
            if topic.settled.is_set() and anew:
                for subscription in topic.readers:
                    subscription.put_gap()
            topic.settled.set()

    def refuse(self, name: bytes, error: Exception) -> None:
        """Note that no server allows a channel."""
        topic = self._topics.pop(name, None)
        if topic is not None:
            topic.refuse(error)
            self.assign()

    def give_up(self, names: Sequence[bytes], error: AuthError) -> None:
        """Refuse channels that nobody has been let in for yet."""
        for name in names:
            topic = self._topics.get(name)
            if topic is not None and not topic.settled.is_set():
                self.refuse(name, AuthError(str(error)))

    def doubt(self) -> None:
        """Note that a channel may have moved."""
        self._topology.doubt()

    async def misplaced(self, error: Exception, sender: Endpoint) -> bool:
        """Tell whether another server, or a later time, is the right one; go by it."""
        return await self._misplaced(error, sender)

    def retire(self, shard: "Shard") -> None:
        """Let go of a shard that has nothing to do."""
        endpoint = shard.link.options.endpoint
        if self._shards.get(endpoint) is shard:
            del self._shards[endpoint]
        shard.link.close()


class Shard:
    """The sharded channels that one server has."""

    def __init__(self, options: Options, shards: Shards) -> None:
        self.link = Link(options, "sharded pubsub", on_push=self.on_push)
        self.link.on_status = self._wake
        self._shards = shards
        self._wanted: set[bytes] = set()
        self._confirmed: set[bytes] = set()
        self._leaving: set[bytes] = set()
        self._epoch = 0  # the connection that `_confirmed` is about
        self._work = trio.Event()

    def want(self, names: set[bytes]) -> None:
        """Note which channels are to be heard from here."""
        for name in names & self._confirmed - self._wanted - self._leaving:
            self._shards.confirm(name, anew=False)  # wanted again before the server was told
        self._wanted = names
        self._wake()

    def on_push(self, push: list[Reply]) -> bool:
        """Take a push; False if it answers the oldest request of the link."""
        kind, name = push[0], push[1]
        if kind == b"smessage":
            self._shards.deliver(Message(name, push[2]))
        elif kind == b"ssubscribe":
            self._confirmed.add(name)
            return False
        elif kind == b"sunsubscribe":
            self._confirmed.discard(name)
            if name in self._leaving:
                return False
            self._shards.doubt()  # unasked: its slot has moved away
            self._wake()
        return True

    async def run(self) -> None:
        """Run the link, and tell the server what is wanted, until nothing is."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.link.run)
            while self._wanted or (self._confirmed and self.link.epoch):
                if not await self._tell():
                    await self._work.wait()
                self._work = trio.Event()
            self._shards.retire(self)

    async def _tell(self) -> bool:
        """Tell the server what has changed; return False if nothing has, or nobody listens."""
        epoch = self.link.epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self._confirmed.clear()
        new = list(self._wanted - self._confirmed)
        self._leaving = self._confirmed - self._wanted
        error = self.link.status.error
        if isinstance(error, AuthError):
            self._shards.give_up(new, error)
        if not epoch or not (new or self._leaving):
            return False
        parts = [pack(("SSUBSCRIBE", name)) for name in new]
        parts += [pack(("SUNSUBSCRIBE", name)) for name in self._leaving]
        value = await self.link.request_unit(b"".join(parts), len(parts), epoch=epoch)
        self._leaving = set()
        if isinstance(value, Exception):
            return isinstance(value, LinkLostError)
        for name, reply in zip(new, replies_of(value), strict=False):  # those to join come first
            if not isinstance(reply, Exception):
                self._shards.confirm(name)
            elif not await self._shards.misplaced(reply, self.link.endpoint):
                self._shards.refuse(name, reply)
        return True

    def _wake(self) -> None:
        self._work.set()
