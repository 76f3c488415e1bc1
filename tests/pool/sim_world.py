"""A pool in one process and on a made-up clock: real nodes over clients of a model of Redis.

Nodes, workers, router, upkeep and scripts are the real ones. What a client
brings (maps, readers, the sink) is modelled: what it sends and hears is late by
chance, in order, and can be cut off or die with its node.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Final, NoReturn, TypeVar

import attrs
import trio
from redis.exceptions import RedisError, ResponseError

from terzetto.actor import Actor, Child, Context, Stop
from terzetto.errors import ClosedError
from terzetto.redis import LinkStatus, Script
from terzetto.streaming import Event
from tests.pool.sim_redis import Id, Keyspace, Pending, Value, id_of, text_of

T = TypeVar("T")

EPOCH_US: Final = 1_700_000_000_000_000
LATENCY: Final = 0.01  # seconds, the mean of each way
CONNECTED: Final = LinkStatus(state="connected", since=0.0)
CLAIMS: Final = 4  # looks for entries that are idle, in a grace period


def word(value: object) -> bytes:
    """Return an argument as it goes over the wire."""
    if isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogateescape")


@attrs.define(eq=False)
class Server:
    """A server and its clients."""

    chance: Random
    clients: list["Client"] = attrs.field(factory=list["Client"])
    data: Keyspace = attrs.field(init=False)
    _news: dict[bytes, trio.Event] = attrs.field(factory=dict[bytes, trio.Event])

    def __attrs_post_init__(self) -> None:
        self.data = Keyspace(self.now_us, self.publish, self.added)

    def now_us(self) -> int:
        """Return the time of the server's clock."""
        return EPOCH_US + round(trio.current_time() * 1e6)

    def news(self, key: bytes) -> trio.Event:
        """Return the event of a stream's next entry."""
        return self._news.setdefault(key, trio.Event())

    def added(self, key: bytes) -> None:
        """Wake those who wait for a stream's next entry."""
        if key in self._news:
            self._news.pop(key).set()

    def publish(self, channel: bytes, _: bytes) -> None:
        """Tell every client that has a copy of a map how it stands."""
        content = channel.replace(b":updates", b":content")
        for client in self.clients:
            for copy in client.copies.get(content, ()):
                client.later(copy.take, dict(self.data.hashes.get(content, {})))

    def run(self, command: Callable[[], Value]) -> Value | ResponseError:
        """Do something at one instant."""
        try:
            return command()
        except ResponseError as error:
            return error


@attrs.define(eq=False)
class _Request:
    command: Callable[[], Value]
    on_reply: Callable[[Value], None] | None = None
    done: trio.Event = attrs.field(factory=trio.Event)
    reply: Value = None
    is_left: bool = False


@attrs.define(eq=False)
class Client:
    """A client as nodes use it; `run` is its life."""

    server: Server
    copies: dict[bytes, list["Copy"]] = attrs.field(factory=dict[bytes, "list[Copy]"])
    url: str = "model://"
    status: LinkStatus = CONNECTED
    max_backoff: float = 0.0
    is_dead: bool = False
    _requests: deque[_Request] = attrs.field(factory=deque[_Request])
    _inbox: deque[tuple[float, Callable[[], None]]] = attrs.field(
        factory=deque[tuple[float, Callable[[], None]]]
    )
    _asked: trio.Event = attrs.field(factory=trio.Event)
    _told: trio.Event = attrs.field(factory=trio.Event)
    _whole: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._whole.set()
        self.server.clients.append(self)

    async def run(self) -> None:
        """Carry requests there, and replies and messages back."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            nursery.start_soon(self._receive)

    def die(self) -> None:
        """Be gone: what was sent and not carried out never will be."""
        self.is_dead = True
        self.server.clients.remove(self)

    def cut(self) -> None:
        """Carry nothing until `heal`."""
        self._whole = trio.Event()

    def heal(self) -> None:
        """Go on."""
        self._whole.set()

    def later(self, act: Callable[..., None], *args: object) -> None:
        """Do something here, a little later, after all that came before."""
        at = trio.current_time() + self._lateness()
        self._inbox.append((at, lambda: act(*args)))
        self._told.set()

    async def ask(self, command: Callable[[], Value]) -> Any:  # noqa: ANN401 - any reply
        """Have the server do something; in order."""
        request = _Request(command)
        self._requests.append(request)
        self._asked.set()
        try:
            await request.done.wait()
        finally:
            request.is_left = True
        if isinstance(request.reply, ResponseError):
            raise request.reply
        return request.reply

    def _lateness(self) -> float:
        return self.server.chance.expovariate(1 / LATENCY)

    async def _send(self) -> None:
        while True:
            while not self._requests:
                self._asked = trio.Event()
                await self._asked.wait()
            await trio.sleep(self._lateness())
            await self._whole.wait()
            if self.is_dead:
                await trio.sleep_forever()
            batch, self._requests = self._requests, deque[_Request]()
            for request in batch:
                if not request.is_left:
                    request.reply = self.server.run(request.command)
                    self.later(request.done.set)
                    if request.on_reply is not None:
                        self.later(request.on_reply, request.reply)

    async def _receive(self) -> None:
        while True:
            while not self._inbox:
                self._told = trio.Event()
                await self._told.wait()
            at, act = self._inbox.popleft()
            await trio.sleep_until(at)
            await self._whole.wait()
            if self.is_dead:
                await trio.sleep_forever()
            act()

    # As `terzetto.redis.Redis`

    async def run_script(
        self, script: Script, *, keys: Sequence[object], args: Sequence[object]
    ) -> Value:
        words, values = [*map(word, keys)], [*map(word, args)]
        return await self.ask(lambda: self.server.data.run(script.source, words, values))

    def post_script(
        self,
        script: Script,
        keys: Sequence[object],
        args: Sequence[object],
        on_reply: Callable[[Value], None],
    ) -> bool:
        words, values = [*map(word, keys)], [*map(word, args)]

        def run() -> Value:
            return self.server.data.run(script.source, words, values)

        self._requests.append(_Request(run, on_reply))
        self._asked.set()
        return True

    def post(self, *args: object, on_reply: Callable[[Value], None]) -> bool:
        self._requests.append(_Request(lambda: self._call(args), on_reply))
        self._asked.set()
        return True

    async def execute(self, *args: object) -> Value:
        return await self.ask(lambda: self._call(args))

    async def execute_many(self, commands: Sequence[Sequence[object]]) -> list[Value]:
        def run() -> Value:
            return [self.server.run(lambda: self._call(command)) for command in commands]  # noqa: B023 - run at once

        replies: list[Value] = await self.ask(run)
        return replies

    def share_slot(self, *_: str) -> bool:
        return True

    def _call(self, command: Sequence[object]) -> Value:
        name, *args = map(word, command)
        if name == b"SCRIPT":
            return True
        if name == b"HGETALL":
            flat = self.server.data.hgetall(*args)
            return dict(zip(flat[::2], flat[1::2], strict=True))
        return self.server.data.call(b"delete" if name == b"DEL" else name, *args)


@attrs.define(eq=False)
class _Part(Actor):
    """Runs what a client brings, as a child of a node."""

    loops: Sequence[Callable[[], Any]] = ()
    ends: Callable[[], Any] | None = None

    async def started(self, ctx: Context[Any]) -> None:
        await trio.lowlevel.checkpoint()
        for loop in self.loops:
            ctx.start_soon(loop)

    async def stopping(self, reason: Stop) -> None:
        del reason
        if self.ends is not None:
            with trio.move_on_after(1):
                await self.ends()


class Copy(Mapping[str, str]):
    """A copy of a map, as `terzetto.rmap.Map`."""

    def __init__(self, name: str, client: Client) -> None:
        self.revision = 0
        self.is_closed = False
        self.key = word(f"map:{name}:content")
        self._client = client
        self._content: dict[str, str] = {}
        self._changed = trio.Event()

    def __getitem__(self, key: str) -> str:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def take(self, content: dict[bytes, bytes]) -> None:
        """Be as the server's map was."""
        self.revision = int(content.get(b"=rev", b"0"))
        self._content = {
            key.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
            for key, value in content.items()
            if not key.startswith(b"=")
        }
        self._changed.set()
        self._changed = trio.Event()

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[AsyncIterator[None]]:
        yield self._changes()

    async def _changes(self) -> AsyncGenerator[None]:
        while True:
            await self._changed.wait()
            yield

    async def wait_for(self, holds: Callable[[Mapping[str, str]], T]) -> T:
        while not (result := holds(self)):
            await self._changed.wait()
        return result

    async def join(self) -> None:
        data = self._client.server.data
        self._client.copies.setdefault(self.key, []).append(self)
        self.take(await self._client.ask(lambda: dict(data.hashes.get(self.key, {}))))

    async def leave(self) -> None:
        await trio.lowlevel.checkpoint()
        self.is_closed = True
        self._client.copies[self.key].remove(self)


@attrs.define(eq=False)
class _Joining(_Part):
    copy: Copy = attrs.field(kw_only=True)

    async def started(self, ctx: Context[Any]) -> None:
        del ctx
        await self.copy.join()


def map_child(name: str, client: Client, **_: object) -> Child[Copy]:
    """Return a copy of a map as a child."""
    copy = Copy(name, client)
    return Child(lambda: _Joining(copy=copy, ends=copy.leave), name=name, face=lambda _: copy)


@attrs.define(eq=False)
class Stream:
    """A stream, as `terzetto.streaming.Stream`."""

    name: str
    client: Client
    max_len: int = 1000
    logger: object = None

    @property
    def key(self) -> bytes:
        return word(f"pulse:stream:{self.name}")

    def reader_child(self, **_: object) -> Child["Reader"]:
        reader = Reader(self)
        return Child(_Part, name=self.name.replace("/", "|"), face=lambda _: reader)

    def sink_child(self, sink: str, *, ack_grace_period: float, **_: object) -> Child["Sink"]:
        model = Sink(self, word(sink), ack_grace_period)
        return Child(lambda: _SinkPart(model), name="sink", face=lambda _: model)

    def event(self, entry_id: Id, fields: Sequence[bytes]) -> Event:
        content = dict(zip(fields[::2], fields[1::2], strict=True))
        name = content[b"n"].decode()
        return Event(
            id=text_of(entry_id).decode(),
            stream=self.name,
            name=name,
            payload=content[b"p"],
            topic=content.get(b"t", b"").decode(),
        )


@attrs.define(eq=False)
class Reader:
    """Reads a stream from its oldest entry on."""

    stream: Stream
    _last: Id = (0, 0)

    async def deliver(self, take: Callable[[Event], None]) -> NoReturn:
        """Hand each entry to `take`."""
        while True:
            for event in await self._read():
                take(event)

    async def _read(self) -> list[Event]:
        client, stream = self.stream.client, self.stream

        def read() -> Value:
            entries = client.server.data.streams.get(stream.key)
            found = [] if entries is None else entries.after(self._last)
            return found, client.server.news(stream.key)

        found, news = await client.ask(read)
        while not found:
            await news.wait()
            found, news = await client.ask(read)
        self._last = found[-1][0]
        return [stream.event(entry_id, fields) for entry_id, fields in found]


@attrs.define(eq=False)
class Sink:
    """Reads the pool's stream through its group, and claims what is idle."""

    stream: Stream
    group: bytes
    grace: float
    consumer: str = ""
    _claimed: deque[Event] = attrs.field(factory=deque[Event])
    _closed: bool = False

    async def open(self) -> None:
        client, data = self.stream.client, self.stream.client.server.data
        self.consumer = f"consumer-{client.server.chance.getrandbits(64):x}"

        def join() -> Value:
            with suppress(ResponseError):  # another made it
                data.xgroup(b"CREATE", self.stream.key, self.group, b"$")
            return data.xgroup(b"CREATECONSUMER", self.stream.key, self.group, word(self.consumer))

        await client.ask(join)

    async def close(self) -> None:
        self._closed = True

        def leave() -> Value:
            for pending in self._pending().values():
                if pending.consumer == word(self.consumer):
                    pending.at_ms = 0.0
            return 0

        await self.stream.client.ask(leave)

    def _pending(self) -> dict[Id, Pending]:
        stream = self.stream.client.server.data.streams.get(self.stream.key)
        group = None if stream is None else stream.groups.get(self.group)
        return {} if group is None else group.pending

    async def read(self) -> list[Event]:
        client, data = self.stream.client, self.stream.client.server.data
        words = (b"GROUP", self.group, word(self.consumer), b"COUNT", b"100", b"STREAMS")

        def read() -> Value:
            reply = data.xreadgroup(*words, self.stream.key, b">")
            found = [] if reply is None else [(id_of(entry), each) for entry, each in reply[0][1]]
            return found, client.server.news(self.stream.key)

        while not self._closed:
            if self._claimed:
                batch, self._claimed = list(self._claimed), deque[Event]()
                return batch
            found, news = await client.ask(read)
            if found:
                return [self.stream.event(*entry) for entry in found]
            with trio.move_on_after(self.grace / CLAIMS):
                await news.wait()
        raise ClosedError("the sink is closed")

    async def claim(self) -> None:
        """Take over what nobody has answered for in a grace period, for ever."""
        client, data = self.stream.client, self.stream.client.server.data

        def claim() -> Value:
            now_ms, found = data.now_us() / 1000, list[tuple[Id, list[bytes]]]()
            stream = data.streams.get(self.stream.key)
            for entry_id, pending in list(self._pending().items()):
                if now_ms - pending.at_ms < self.grace * 1000 or stream is None:
                    continue
                if entry_id not in stream.entries:
                    del self._pending()[entry_id]
                    continue
                pending.consumer, pending.at_ms = word(self.consumer), now_ms
                found.append((entry_id, stream.entries[entry_id]))
            return found

        while not self._closed:
            await trio.sleep(self.grace / CLAIMS)
            for entry in await client.ask(claim):
                self._claimed.append(self.stream.event(*entry))

    async def extend(self, event: Event) -> bool:
        data = self.stream.client.server.data

        def extend() -> Value:
            pending = self._pending().get(id_of(event.id.encode()))
            if pending is None or pending.consumer != word(self.consumer):
                return 0
            pending.at_ms = data.now_us() / 1000
            return 1

        return bool(await self.stream.client.ask(extend))

    async def reject(self, event: Event, why: str) -> None:
        raise RedisError(f"nothing here is malformed, but {event.id} is: {why}")


@attrs.define(eq=False)
class _SinkPart(Actor):
    sink: Sink

    async def started(self, ctx: Context[Any]) -> None:
        await self.sink.open()
        ctx.start_soon(self.sink.claim)

    async def stopping(self, reason: Stop) -> None:
        del reason
        with trio.move_on_after(1):
            await self.sink.close()
