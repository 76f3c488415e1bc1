"""Helpers of the link's tests: servers that say what they are told, and waiting for states."""

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress

import attrs
import trio

from terzetto.redis import Redis, State
from terzetto.server import EmbeddedServer

PATIENCE = 30.0  # seconds for what has to come; the machine may be busy

GREETING = b"%1\r\n+id\r\n:7\r\n+OK\r\n+OK\r\n+PONG\r\n"

Answer = Callable[[trio.SocketStream], Awaitable[None]]


@attrs.define
class ScriptedServer:
    """A server that sends `greeting` and then does what `answer` does, for each connection."""

    answer: Answer
    greeting: bytes = GREETING
    port: int = 0
    connections: int = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.receive_some()
                await stream.send_all(self.greeting)
                await self.answer(stream)


@asynccontextmanager
async def open_scripted(
    answer: Answer, greeting: bytes = GREETING
) -> AsyncGenerator[ScriptedServer]:
    """Run a `ScriptedServer` for the time of a block."""
    server = ScriptedServer(answer, greeting)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def say_nothing(stream: trio.SocketStream) -> None:
    """Read, and never answer."""
    while await stream.receive_some():
        pass


def say(data: bytes) -> Answer:
    """Answer the first command with `data`, and nothing after it."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(data)
        await say_nothing(stream)

    return answer


@contextmanager
def held(server: EmbeddedServer) -> Generator[None]:
    """Stop the server's process for the time of a block: it takes bytes and says nothing."""
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def wait_state(redis: Redis, state: State) -> None:
    """Wait until the shared link is in `state`."""
    with trio.fail_after(PATIENCE):
        while redis.state != state:
            await redis.wait_changed()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; for what has no event, such as a queue inside."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.lowlevel.checkpoint()
