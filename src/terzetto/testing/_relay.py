"""One client's connection through the fault proxy: two pumps, gates and rules.

Theory of operation. There is one connection to the server for each client's, and
a pump each way. A pump is a reader, which stamps what it has read with the time
it is due, and a writer, which waits for that time, for the gates and for rules,
and passes on whole frames as they came. A command enters the queue of awaited
replies when it is passed on; each reply that is no push takes the first one out.
So it is known which command a reply answers. Commands that change that order
(CLIENT REPLY) are not for this proxy; SUBSCRIBE and its like are, which RESP3
answers with pushes only.

    passing --client ends--> draining --server ends--> closed
       |                         |
       | cut, or a side broke    | cut
       v                         v
     reset                     reset

While draining, the server may still read what the client sent last.
"""

import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVarTuple

import attrs
import trio

from terzetto.testing._resp import PUSH, FrameSplitter, words_of
from terzetto.testing._rules import Fault, Rule

Arguments = TypeVarTuple("Arguments")

CHUNK = 65_536  # bytes of one read
BUFFERED_CHUNKS = 16  # read and not yet due
_SUBSCRIBING = frozenset(
    {b"SUBSCRIBE", b"UNSUBSCRIBE", b"PSUBSCRIBE", b"PUNSUBSCRIBE", b"SSUBSCRIBE", b"SUNSUBSCRIBE"}
)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds


@attrs.define(eq=False)
class Gate:
    """Something that is open, or waited for."""

    _opened: trio.Event | None = attrs.field(default=None, init=False)

    def shut(self) -> None:
        """Let nobody pass until `open`."""
        if self._opened is None:
            self._opened = trio.Event()

    def open(self) -> None:
        """Let everybody pass."""
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    async def passed(self) -> None:
        """Wait until it is open."""
        while self._opened is not None:
            await self._opened.wait()


@attrs.define(eq=False, kw_only=True)
class ProxyConnection:
    """One client's connection through the proxy. Made by the proxy."""

    name: str = attrs.field(default="", init=False)
    """What the client called itself, by HELLO or CLIENT SETNAME."""
    is_subscribed: bool = attrs.field(default=False, init=False)
    """Whether it has asked for the messages of a channel."""
    commands: int = attrs.field(default=0, init=False)
    """How many commands have been passed on to the server."""
    _client: trio.SocketStream = attrs.field(alias="client", repr=False)
    _server: trio.SocketStream = attrs.field(alias="server", repr=False)
    _face: trio.abc.Stream = attrs.field(init=False, repr=False)
    _rules: Sequence[Rule] = attrs.field(alias="rules", repr=False)
    _delay: Callable[[], float] = attrs.field(alias="delay", repr=False)
    _common_gate: Gate = attrs.field(alias="gate", repr=False)
    _own_gate: Gate = attrs.field(factory=Gate, init=False, repr=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False, repr=False)
    _awaited: deque[Rule | None] = attrs.field(factory=deque, init=False, repr=False)
    _deaf: bool = attrs.field(default=False, init=False)  # the client receives nothing more

    def cut(self) -> None:
        """Break the connection at once, towards client and server, as a reset does."""
        self._scope.cancel()

    def half_close(self) -> None:
        """End what the client receives; what it sends still reaches the server."""
        self._deaf = True
        with suppress(OSError):
            self._client.socket.shutdown(trio.socket.SHUT_WR)

    def hold(self) -> None:
        """Pass nothing on, either way, and leave the connection open."""
        self._own_gate.shut()

    def release(self) -> None:
        """End `hold`; what was held goes on."""
        self._own_gate.open()

    async def run(self, tls: ssl.SSLContext | None) -> None:
        """Pass on, until both sides have ended or it is cut. For the proxy to call."""
        self._face = self._client
        if tls is not None:
            self._face = trio.SSLStream(self._client, tls, server_side=True)
        ended = False
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, self._face, self._pass_commands)
                    nursery.start_soon(self._pump, self._server, self._pass_replies)
                ended = True
        finally:
            for stream in (self._client, self._server):
                if not ended:
                    with suppress(OSError):
                        stream.socket.setsockopt(
                            trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, _RESET_ON_CLOSE
                        )
                stream.socket.close()  # without a checkpoint, since this may be cancelled

    async def _pump(
        self,
        source: trio.abc.ReceiveStream,
        pass_on: Callable[[Sequence[bytes]], Awaitable[None]],
    ) -> None:
        splitter = FrameSplitter()
        send, receive = trio.open_memory_channel[tuple[float, bytes]](BUFFERED_CHUNKS)
        async with trio.open_nursery() as nursery, receive:
            nursery.start_soon(self._read, source, send)
            async for due, chunk in receive:
                await trio.sleep_until(due)
                await self._common_gate.passed()
                await self._own_gate.passed()
                await self._unless_broken(pass_on, splitter.feed(chunk))
        end = self._server.send_eof if source is self._face else self._face.aclose
        await self._unless_broken(end)

    async def _read(
        self, source: trio.abc.ReceiveStream, send: trio.MemorySendChannel[tuple[float, bytes]]
    ) -> None:
        async def read() -> None:
            while chunk := await source.receive_some(CHUNK):
                await send.send((trio.current_time() + self._delay(), bytes(chunk)))

        async with send:
            await self._unless_broken(read)

    async def _unless_broken(
        self, step: Callable[[*Arguments], Awaitable[None]], *arguments: *Arguments
    ) -> None:
        """Take a step; if a side turns out to be broken, break the whole connection."""
        try:
            await step(*arguments)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.cut()

    async def _pass_commands(self, frames: Sequence[bytes]) -> None:
        out = bytearray()
        for frame in frames:
            words = words_of(frame)
            rule = next((rule for rule in self._rules if rule.matches(words)), None)
            if rule is not None and rule.fault in (Fault.CUT, Fault.HOLD):
                await self._server.send_all(out)
                out.clear()
                rule.record_hit()
                if rule.fault is Fault.CUT:
                    self.cut()
                    return
                await rule.wait_released()
                rule = None
            self._note(words, rule)
            out += frame
        await self._server.send_all(out)

    async def _pass_replies(self, frames: Sequence[bytes]) -> None:
        out = bytearray()
        for frame in frames:
            rule = None
            if self._awaited and not frame.startswith(PUSH):
                rule = self._awaited.popleft()
            if rule is not None:
                await self._send_to_client(out)
                out.clear()
                rule.record_hit()
                if rule.fault is Fault.DROP_REPLY:
                    self.cut()
                    return
                if rule.fault is Fault.DELAY:
                    await trio.sleep(rule.seconds)
                else:
                    await rule.wait_released()
            out += frame
        await self._send_to_client(out)

    async def _send_to_client(self, out: bytearray) -> None:
        if self._deaf:
            return
        try:
            await self._face.send_all(bytes(out))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The client is gone. The server is to read its last commands all the
            # same, and a reset would keep it from that.
            self._deaf = True

    def _note(self, words: Sequence[bytes], rule: Rule | None) -> None:
        """Remember what the command of `words` tells of its client, and that it is answered."""
        if not words:
            return
        self.commands += 1
        upper = [word.upper() for word in words]
        if upper[0] in _SUBSCRIBING:
            self.is_subscribed = True
            return
        if b"SETNAME" in upper[:-1] and upper[0] in (b"HELLO", b"CLIENT"):
            self.name = words[upper.index(b"SETNAME") + 1].decode(errors="replace")
        self._awaited.append(rule)
