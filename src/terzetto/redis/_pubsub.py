"""Publish and subscribe: one link for all subscriptions of a client, but for a cluster's shards.

Theory of operation
-------------------
The server answers (un)subscribing with one push for each channel, in order with
all other replies, so a request for n channels takes a place for n replies in the
link's queue and `Hub.on_push` hands such pushes to it. Message pushes go straight
into the buffers of the subscriptions, or to who takes what a subscription brings
(`Subscription.deliver`): that one runs in the link's task, where the bytes were read,
so that no turn of the scheduler lies between. What it raises ends its own delivery only.

`_topics` says what this client wants. One lock keeps subscribing and
unsubscribing apart, so the server's view follows in the same order. After a
reconnect the hub subscribes again to every topic that has subscribers; when
that is confirmed, each subscription gets a `Gap`, because messages may have
been missed. An outage is never an error here.

`_client.py` starts the hub at the first subscription.
"""

import enum
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NamedTuple, NoReturn, TypeAlias, TypeVar, cast

import attrs
import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule

from terzetto.errors import InvalidOptionError
from terzetto.redis._errors import AuthError, LinkClosedError
from terzetto.redis._link import Link
from terzetto.redis._request import replies_of
from terzetto.redis._url import Endpoint, Options
from terzetto.redis._wire import Arg, Reply, pack, plain

T = TypeVar("T")

_CHECKPOINT_EVERY = 64  # a busy subscription lets others run after so many messages
_TURNS: Final = 2  # of the scheduler: in one a reply is read, in the next its caller goes on


class Kind(enum.Enum):
    """What a subscription names: the commands that begin and end it."""

    CHANNEL = (b"SUBSCRIBE", b"UNSUBSCRIBE")
    PATTERN = (b"PSUBSCRIBE", b"PUNSUBSCRIBE")
    SHARD = (b"SSUBSCRIBE", b"SUNSUBSCRIBE")

    __hash__ = object.__hash__  # the enum's own is Python code, and messages are many


# An enum's members are looked up by Python code too, and a named tuple is made by it.
_CHANNEL, _PATTERN, _SHARD = Kind.CHANNEL, Kind.PATTERN, Kind.SHARD
_new = cast(
    "Callable[[type[Message], tuple[bytes, bytes, bytes | None]], Message]",
    tuple.__new__,  # pyright: ignore[reportUnknownMemberType] - it is that of any tuple
)


Misplaced: TypeAlias = Callable[[Exception, Endpoint], Awaitable[bool]]

TopicKey: TypeAlias = tuple[Kind, bytes]

_CONFIRMATIONS: Final = frozenset(
    {
        b"subscribe",
        b"unsubscribe",
        b"psubscribe",
        b"punsubscribe",
        b"ssubscribe",
        b"sunsubscribe",
    }
)


class Message(NamedTuple):
    """What was published: on which channel, which bytes, and by which pattern it was found."""

    channel: bytes
    data: bytes
    pattern: bytes | None = None


@attrs.frozen
class Gap:
    """Messages may be missing here: there was an outage, or the buffer was full."""


def topics_of(
    channels: Sequence[str | bytes], patterns: Sequence[str | bytes], *, sharded: bool
) -> list[TopicKey]:
    """Return what is to be subscribed to, each once.

    Raises:
        InvalidOptionError: that is nothing, something that is no text, or patterns among shards.
        InvalidPayloadError: a text cannot be sent.
    """
    kind = Kind.SHARD if sharded else Kind.CHANNEL
    keys = [(kind, _bytes_of(channel)) for channel in channels]
    keys += [(Kind.PATTERN, _bytes_of(pattern)) for pattern in patterns]
    if not keys:
        raise InvalidOptionError("subscribe() to nothing: name a channel or a pattern")
    if sharded and patterns:
        raise InvalidOptionError("subscribe() to patterns with sharded=True: Redis has none")
    return list(dict.fromkeys(keys))


def _bytes_of(name: object) -> bytes:
    if not isinstance(name, (str, bytes, bytearray, memoryview)):
        raise InvalidOptionError(f"a channel or pattern is {name!r}: it has to be str or bytes")
    return cast("bytes", plain(cast("str", name)))


class Subscription(AsyncIterator[Message | Gap]):
    """The messages of some channels, in the order of the server; for one reader at a time."""

    def __init__(
        self, keys: Sequence[TopicKey], buffer_size: int, hub: "Hub | None" = None
    ) -> None:
        self.keys = keys
        self._hub = hub
        self._buffer_size = buffer_size
        self._items: deque[Message | Gap] = deque()
        self._take: Callable[[Message | Gap], None] | None = None
        self._reader: Task | None = None
        self._end: Exception | None = None
        self._taken = 0

    def __repr__(self) -> str:
        return f"<Subscription {len(self.keys)} topics, {len(self._items)} buffered>"

    @property
    def is_subscribed(self) -> bool:
        """Whether the connection is there and subscribed; with sharded channels always true."""
        return self._hub is None or self._hub.is_subscribed

    async def deliver(self, take: Callable[[Message | Gap], None]) -> NoReturn:
        """Hand each item to `take` at once, in the task that read its bytes; until cancelled.

        `take` is a plain function that should not take long: everything else that comes
        by its connection waits for it. Nothing is buffered meanwhile, so no buffer gets
        full: if `take` is slower than the messages come, those of the system and of the
        server do.

        Raises:
            Exception: what `take` raised; it gets nothing more. Else as in iterating.
        """
        self._check_free()
        self._take = take
        try:
            while self._items and self._take is not None:
                self._hand(take, self._items.popleft())
            while True:
                await self._wait()
        finally:
            self._take = None

    def ask(self, *args: Arg, on_reply: Callable[[Reply], None]) -> bool:
        """Send a reading command on the connection that the messages come by.

        For who has its items delivered: its reply is handed to `on_reply` as messages are
        to `take`, in the server's order: what came before it was published before it was
        made. An error reply is an exception, and `LinkLostError` if the connection was lost. It
        may never come. What `on_reply` raises comes out of `deliver`, as what `take` raises does.
        On a cluster the connection may be to another node than the key's.

        Returns whether it can be sent now: not while there is no connection, nor with
        sharded channels.
        """
        if self._hub is None:
            return False
        notice = self._hub.link.notify(pack(args))
        notice.on_reply = partial(self._put_reply, on_reply)
        return not notice.done.is_set()

    def _put_reply(self, on_reply: Callable[[Reply], None], reply: Reply) -> None:
        if self._take is not None:
            self._hand(on_reply, reply)

    def _hand(self, take: Callable[[T], None], item: T) -> None:
        try:
            take(item)
        except Exception as error:  # noqa: BLE001 - the user's code; `deliver` raises it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._take = None
        self.end(error)

    async def __anext__(self) -> Message | Gap:
        """Wait for the next item; cancelling loses none.

        Raises:
            LinkClosedError: the block of the subscription or the client has been left.
            redis.exceptions.RedisError: the server no longer allows the subscription.
        """
        items = self._items
        if not items:
            await self._wait()
            return items.popleft()
        await trio.lowlevel.checkpoint_if_cancelled()
        self._taken += 1
        if not self._taken % _CHECKPOINT_EVERY:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return items.popleft()

    async def read(self) -> list[Message | Gap]:
        """Wait until there is something; return all that is there. Errors as in iterating."""
        if self._items:
            await trio.lowlevel.checkpoint()
        else:
            await self._wait()
        batch = list(self._items)
        self._items.clear()
        return batch

    async def _wait(self) -> None:
        if self._end is not None:
            await trio.lowlevel.checkpoint()
            raise self._end
        self._check_free()
        self._reader = current_task()
        await trio.lowlevel.wait_task_rescheduled(self._leave)
        if not self._items and self._end is not None:
            raise self._end

    def _check_free(self) -> None:
        if self._reader is not None:
            raise trio.BusyResourceError("another task is reading this subscription")

    def _leave(self, _: RaiseCancelT) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED

    def put(self, message: Message) -> None:
        """Hand a message over, or add it; a gap instead of it if the buffer is full."""
        take = self._take
        if take is not None:
            try:  # as `_hand` does it, without the call
                take(message)
            except Exception as error:  # noqa: BLE001 - the taker's: `deliver` raises it
                self._fail(error)
            return
        if len(self._items) >= self._buffer_size:
            self.put_gap()
            return
        self._items.append(message)
        if self._reader is not None:
            self._wake()

    def put_gap(self) -> None:
        """Note that messages may be missing here."""
        if self._take is not None:
            self._hand(self._take, Gap())
        elif not self._items or not isinstance(self._items[-1], Gap):
            self._items.append(Gap())
            self._wake()

    def end(self, error: Exception) -> None:
        """Let iterating raise `error` once the buffer is empty."""
        if self._end is None:
            self._end = error
        self._wake()

    def _wake(self) -> None:
        reader = self._reader
        if reader is not None:
            self._reader = None
            reschedule(reader)


class Hub:
    """All subscriptions of a client, on one link."""

    def __init__(self, options: Options, misplaced: Misplaced) -> None:
        self._misplaced = misplaced
        self.link = Link(options, "pubsub", on_push=self.on_push)
        self._topics: dict[TopicKey, list[Subscription]] = {}
        self._lock = trio.Lock()
        self._left = trio.Event()
        self._seen = 1  # before the second connection nothing can have been missed

    @property
    def is_subscribed(self) -> bool:
        """Whether the connection is there, and all topics are subscribed to on it."""
        return self.link.status.state == "connected" and self.link.connections <= self._seen

    def give_way(self) -> None:
        """Let replies that come at the same time go first, from the next wait on.

        The messages of what a script changes come with its reply. Whoever sent it waits
        for that; to read and take them before cost a seventh of a dispatch's time.
        """
        self.link.turns_given = _TURNS

    def on_push(self, push: list[Reply]) -> bool:
        """Take a push; False if it answers the oldest request of the link."""
        kind = push[0]
        if kind == b"message":
            key, message = (_CHANNEL, push[1]), _new(Message, (push[1], push[2], None))
        elif kind == b"pmessage":
            key, message = (_PATTERN, push[1]), _new(Message, (push[2], push[3], push[1]))
        elif kind == b"smessage":
            key, message = (_SHARD, push[1]), _new(Message, (push[1], push[2], None))
        else:
            return kind not in _CONFIRMATIONS
        for subscription in self._topics.get(key, ()):
            subscription.put(message)
        return True

    @asynccontextmanager
    async def subscribe(
        self, keys: Sequence[TopicKey], buffer_size: int
    ) -> AsyncGenerator[Subscription, None]:
        """Subscribe for the time of a block; entering waits for the server's word."""
        subscription = Subscription(keys, buffer_size, self)
        try:
            async with self._lock:
                new = [key for key in keys if not self._topics.get(key)]
                for key in keys:
                    self._topics.setdefault(key, []).append(subscription)
                for _, reply in await self._ask(new):
                    if isinstance(reply, Exception):
                        raise reply
            yield subscription
        finally:
            subscription.end(LinkClosedError("the block of the subscription has been left"))
            for key in keys:
                readers = self._topics.get(key, [])
                if subscription in readers:
                    readers.remove(subscription)
            self._left.set()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Run the link and what follows it, until cancelled or closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.link.run)
            nursery.start_soon(self.keep)
            nursery.start_soon(self.tidy)

    def close(self) -> None:
        """End the link and all subscriptions."""
        self.link.close()
        for readers in self._topics.values():
            for subscription in readers:
                subscription.end(LinkClosedError("the client's block has been left: open another"))

    async def _ask(self, keys: Sequence[TopicKey]) -> list[tuple[TopicKey, Reply]]:
        """Subscribe to topics; return each with the server's confirmation or error."""
        if not keys:
            return []
        # One command for each, so that one that is refused does not take the others with it.
        data = b"".join([pack((kind.value[0], name)) for kind, name in keys])
        while True:
            value = await self.link.request_unit(data, len(keys), repeatable=True)
            replies = replies_of(value)
            for reply in replies:
                if isinstance(reply, Exception) and await self._misplaced(
                    reply, self.link.endpoint
                ):
                    self.link.retire(reply)
                    break
            else:
                return list(zip(keys, replies, strict=True))

    @trio.lowlevel.enable_ki_protection
    async def keep(self) -> None:
        """Subscribe again after each outage, until the link is closed."""
        while self.link.status.state != "closed":
            if self.link.status.state == "connected" and self.link.connections > self._seen:
                wanted = [key for key, readers in self._topics.items() if readers]
                try:
                    confirmed = await self._ask(wanted)
                except LinkClosedError:
                    return
                except AuthError:
                    continue
                self._seen = self.link.connections
                for key, reply in confirmed:
                    for subscription in self._topics.get(key, ()):
                        if isinstance(reply, Exception):
                            subscription.end(reply)
                        else:
                            subscription.put_gap()
            else:
                await self.link.wait_changed()

    @trio.lowlevel.enable_ki_protection
    async def tidy(self) -> None:
        """Unsubscribe from what nobody reads any more, until the link is closed."""
        while self.link.status.state != "closed":
            await self._left.wait()
            self._left = trio.Event()
            async with self._lock:
                for key in [key for key, readers in self._topics.items() if not readers]:
                    del self._topics[key]
                    kind, name = key
                    await self.link.request(pack((kind.value[1], name)), True)  # noqa: FBT003 - as in `request`
