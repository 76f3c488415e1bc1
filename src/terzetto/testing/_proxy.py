"""A proxy in front of a Redis server that makes the network's faults, one by one.

It listens, connects, and keeps the rules; what happens on a connection is in
`_relay`. It ends TLS, too, if it is given a context: the embedded server has none.
Called by tests.
"""

import os
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import attrs
import trio

from terzetto.errors import InvalidOptionError
from terzetto.server import free_port
from terzetto.testing._relay import Gate, ProxyConnection
from terzetto.testing._rules import Fault, Matcher, Rule


@attrs.define(eq=False, kw_only=True)
class Proxy:
    """A proxy in front of one server. Made by `open_proxy`."""

    delay: float = attrs.field(default=0.0, init=False)
    """Seconds that everything takes longer, each way; order and rate stay."""
    accepted: int = attrs.field(default=0, init=False)
    """How many connections there have been."""
    _target: "_Address" = attrs.field(alias="target")
    _front: "_Address" = attrs.field(alias="front")
    _tls: ssl.SSLContext | None = attrs.field(alias="tls", repr=False)
    _nursery: trio.Nursery = attrs.field(alias="nursery", repr=False)
    _connections: list[ProxyConnection] = attrs.field(factory=list, init=False, repr=False)
    _rules: list[Rule] = attrs.field(factory=list, init=False)
    _gate: Gate = attrs.field(factory=Gate, init=False, repr=False)
    _listening: "_Listening | None" = attrs.field(default=None, init=False, repr=False)

    @property
    def url(self) -> str:
        """The address for `terzetto.connect`: ``redis://``, ``rediss://`` or ``unix://``."""
        return self._front.url("rediss" if self._tls else "redis")

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; 0 if it listens on a unix socket."""
        return self._front.port

    @property
    def connections(self) -> tuple[ProxyConnection, ...]:
        """The connections that are open now, the oldest first."""
        return tuple(self._connections)

    def on(
        self,
        command: str,
        fault: Fault,
        *,
        times: int | None = 1,
        skip: int = 0,
        seconds: float = 0.0,
        where: Matcher | None = None,
    ) -> Rule:
        """Let `fault` happen to commands that arrive from now on.

        The first rule that takes a command is the only one for it.

        Args:
            command: its first word or words, such as ``"XADD"`` or ``"XGROUP CREATE"``;
                empty for any command.
            fault: what is to happen.
            times: to how many of them; None for all.
            skip: how many of them to leave alone first.
            seconds: how late a reply is, for `Fault.DELAY`.
            where: leave alone those whose words it returns False for.
        """
        rule = Rule(
            command=command, fault=fault, times=times, skip=skip, seconds=seconds, where=where
        )
        self._rules.append(rule)
        return rule

    def cut(self) -> None:
        """Break all connections that there are; new ones are taken."""
        for connection in self._connections:
            connection.cut()

    def half_close(self) -> None:
        """End what the clients that there are receive; what they send goes on."""
        for connection in self._connections:
            connection.half_close()

    def hold(self) -> None:
        """Pass nothing on for anybody, like a server that hangs; connections are taken."""
        self._gate.shut()

    def release(self) -> None:
        """End `hold`; what was held goes on."""
        self._gate.open()

    async def refuse(self) -> None:
        """Take no further connection: the address is as if nobody listened."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.scope.cancel()
            await listening.closed.wait()
        await trio.lowlevel.checkpoint()

    async def accept(self) -> None:
        """Take connections again, at the same address, after `refuse`."""
        if self._listening is None:
            await self._nursery.start(self._listen)

    async def _listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        listening = _Listening()
        listener = await self._front.listen()
        self._listening = listening
        try:
            with listening.scope:
                task_status.started()
                await trio.serve_listeners(self._serve, [listener], handler_nursery=self._nursery)
        finally:
            self._front.forget()
            listening.closed.set()

    async def _serve(self, client: trio.SocketStream) -> None:
        self.accepted += 1
        try:
            server = await self._target.connect()
        except OSError:
            await trio.aclose_forcefully(client)
            return
        connection = ProxyConnection(
            client=client,
            server=server,
            rules=self._rules,
            delay=lambda: self.delay,
            gate=self._gate,
        )
        self._connections.append(connection)
        try:
            await connection.run(self._tls)
        finally:
            self._connections.remove(connection)


@attrs.define(eq=False)
class _Listening:
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    closed: trio.Event = attrs.field(factory=trio.Event)


@asynccontextmanager
async def open_proxy(
    target: str, *, socket_path: str | Path | None = None, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Proxy, None]:
    """Run a proxy in front of the server at `target` while the block is open.

    It listens on a TCP port of 127.0.0.1. Leaving the block breaks all connections.

    Args:
        target: a URL such as ``unix:///…`` or ``redis://127.0.0.1:6379``; the server
            need not be there yet.
        socket_path: listen on this unix socket instead.
        tls: a context for servers, with a certificate; clients must then use TLS.

    Raises:
        InvalidOptionError: `target` is no such URL.
        OSError: it cannot listen.
    """
    front = _Address(path=None if socket_path is None else str(socket_path))
    async with _open_background() as nursery:
        proxy = Proxy(target=_address_of(target), front=front, tls=tls, nursery=nursery)
        await proxy.accept()
        yield proxy


@asynccontextmanager
async def _open_background() -> AsyncGenerator[trio.Nursery, None]:
    """Open a nursery that ends with its block and lets the block's own error out as it is."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        first, *others = group.exceptions
        if others:
            raise
        raise first from first.__cause__


@attrs.define
class _Address:
    """Where somebody listens: on a unix socket, or a host and port."""

    path: str | None = None
    host: str = "127.0.0.1"
    port: int = 0

    def url(self, scheme: str) -> str:
        if self.path is not None:
            return "unix://" + quote(self.path, errors="surrogateescape")
        return f"{scheme}://{self.host}:{self.port}"

    async def connect(self) -> trio.SocketStream:
        if self.path is not None:
            return await trio.open_unix_socket(self.path)
        return await trio.open_tcp_stream(self.host, self.port)

    async def listen(self) -> trio.SocketListener:
        if self.path is not None:
            listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
            await listening.bind(self.path)
            listening.listen()
            return trio.SocketListener(listening)
        self.port = self.port or free_port()
        [listener] = await trio.open_tcp_listeners(self.port, host=self.host)
        return listener

    def forget(self) -> None:
        """Remove what a listener leaves behind."""
        if self.path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.path)  # noqa: PTH108 - a string already


def _address_of(url: str) -> _Address:
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path:
        return _Address(path=unquote(parts.path, errors="surrogateescape"))
    if parts.scheme == "redis" and parts.port:
        return _Address(host=parts.hostname or "127.0.0.1", port=parts.port)
    raise InvalidOptionError(f"{url!r} is no target: write unix:///path or redis://host:port")
