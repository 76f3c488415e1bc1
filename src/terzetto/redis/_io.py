"""The transport under a link: a socket that reads and writes without trio's stream layers.

A plain socket (TCP or unix) is used non-blocking, with trio only to wait: that
halves the cost of a read. Whoever holds the transport calls `close` exactly
once; a task that waits at that moment gets `trio.ClosedResourceError`.
"""

import socket
from typing import Protocol

import trio

from terzetto.redis._reader import ReplyReader
from terzetto.redis._url import Options

READ_SIZE = 256 * 1024
"""The most bytes that one read takes from a socket."""


class Transport(Protocol):
    """What a link needs of its socket."""

    can_send_now: bool
    """True if `send_now` may be used from any task; False where only one task may write."""

    def send_now(self, data: bytes | memoryview, /) -> int:
        """Send what the system takes without waiting; return the number of bytes."""
        ...

    async def wait_writable(self) -> None:
        """Wait until `send_now` can take bytes again."""
        ...

    async def send_all(self, data: bytes, /) -> None:
        """Send everything; for transports where `can_send_now` is False."""
        ...

    async def receive_into(self, reader: ReplyReader, /, turns: int = 0) -> int:
        """Feed the next bytes to `reader`; return how many came, 0 at the end of the stream.

        When they are there, others go first for so many turns of the scheduler.
        """
        ...

    def close(self) -> None:
        """Close the socket at once."""
        ...


class SocketTransport:
    """A transport over a plain socket."""

    can_send_now = True

    def __init__(self, plain: socket.socket) -> None:
        """Take over `plain`, which becomes non-blocking."""
        plain.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._socket = plain
        self._fd = plain.fileno()
        self._buffer = bytearray(READ_SIZE)

    def send_now(self, data: bytes | memoryview, /) -> int:
        """Send what the system takes; raises OSError if the socket is broken."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def wait_writable(self) -> None:
        """Wait until the socket takes bytes; cancelling is harmless."""
        await trio.lowlevel.wait_writable(self._fd)

    async def send_all(self, data: bytes, /) -> None:
        """Send everything; a cancelled call leaves an unknown part unsent."""
        view = memoryview(data)
        while view:
            sent = self.send_now(view)
            if not sent:
                await self.wait_writable()
            view = view[sent:]

    async def receive_into(self, reader: ReplyReader, /, turns: int = 0) -> int:
        """Wait for bytes and feed them to `reader`; cancelling loses none."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            try:
                count = self._socket.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                continue
            if count:
                reader.feed(self._buffer, count)
            return count

    def close(self) -> None:
        """Close the socket and wake whoever waits on it."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._fd)
            self._socket.close()


class TlsTransport:
    """A transport over TLS: one task writes, one reads, and neither is cancelled in the midst."""

    can_send_now = False

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        """Take over `stream`, after its handshake."""
        self._stream = stream

    def send_now(self, data: bytes | memoryview, /) -> int:
        """Take nothing: a TLS stream cannot be written in part."""
        del data
        return 0

    async def wait_writable(self) -> None:
        """Wait until the socket takes bytes."""
        await self._stream.wait_send_all_might_not_block()

    async def send_all(self, data: bytes, /) -> None:
        """Send everything; a cancelled call breaks the stream."""
        await self._stream.send_all(data)

    async def receive_into(self, reader: ReplyReader, /, turns: int = 0) -> int:
        """Wait for bytes and feed them to `reader`."""
        data = await self._stream.receive_some(READ_SIZE)
        for _ in range(turns):
            await trio.lowlevel.cancel_shielded_checkpoint()  # a cancelled one would lose them
        if data:
            reader.feed(data, len(data))
        return len(data)

    def close(self) -> None:
        """Close the socket at once, without the farewell of TLS."""
        self._stream.transport_stream.socket.close()


async def open_transport(options: Options) -> Transport:
    """Open a socket to the endpoint of `options`, with TLS if it wants that.

    Cancelling leaves nothing open.

    Raises:
        OSError: that cannot be done; `ssl.SSLError` is one.
    """
    endpoint = options.endpoint
    if endpoint.path is not None:
        stream = await trio.open_unix_socket(endpoint.path)
    else:
        stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if not endpoint.tls:
        return SocketTransport(socket.socket(fileno=stream.socket.detach()))
    return await _greet_with_tls(stream, options)


async def _greet_with_tls(stream: trio.SocketStream, options: Options) -> TlsTransport:
    secured = False
    try:
        encrypted = trio.SSLStream(
            stream,
            options.tls_context(),
            server_hostname=options.endpoint.host,
            https_compatible=True,  # a lost connection is no attack here: replies have lengths
        )
        try:
            await encrypted.do_handshake()
        except trio.BrokenResourceError as error:
            raise _tls_error(error) from error
        secured = True
        return TlsTransport(encrypted)
    finally:
        if not secured:
            stream.socket.close()


def _tls_error(error: trio.BrokenResourceError) -> OSError:
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause
    return OSError(f"TLS: {error}")
