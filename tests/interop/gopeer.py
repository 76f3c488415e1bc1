"""Builds the Go programs beside this file, and talks to them: a real Pulse, a real asynq.

`build_peer` says by name what is missing where one cannot be built. `open_peer`
runs a program; `Peer.call` is one request to it. The bench uses both too. With
`install_command` there is asynq's own command.
"""

import json
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import attrs
import trio

BUILD_PATIENCE: Final = 600.0  # seconds; an empty module cache takes minutes to fill
END_GRACE: Final = 10.0  # seconds to wait for a program that was sent SIGKILL


@attrs.frozen
class Program:
    """A Go program: the directory of its source, and the module that it is there for."""

    source: Path
    module: str

    @property
    def name(self) -> str:
        """What it is called in the directory of a test session."""
        return f"go-{self.source.name}"


_HERE: Final = Path(__file__).parent
PULSE_PEER: Final = Program(_HERE / "peer", "goa.design/pulse v1.6.5")
ASYNQ_PEER: Final = Program(_HERE / "asynq_peer", "github.com/hibiken/asynq v0.26.0")
ASYNQ_COMMAND: Final = "github.com/hibiken/asynq/tools"
"""The module of the command `asynq`, which has no numbered versions."""

_ASYNQ_COMMAND_VERSION: Final = "v0.0.0-20260203063626-d704b68a426d"
"""What the module was in asynq v0.26.0, which is the version of our peer."""


class PeerMissingError(Exception):
    """The peer cannot be built here; the text names what is missing."""


class PeerRefusedError(Exception):
    """The peer answered a request with an error; the text is that of Go's side."""


def build_peer(program: Program, binary: Path) -> None:
    """Build a peer into the file `binary`.

    Raises:
        PeerMissingError: there is no Go, or the module cannot be had.
    """
    go = shutil.which("go")
    if go is None:
        raise PeerMissingError("no go on PATH")
    # Whoever has Go but not the module is told at once, before the rest is downloaded.
    for what, words in [
        (
            f"the Go module {program.module} cannot be downloaded",
            ["mod", "download", program.module.split()[0]],
        ),
        (
            f"the Go program tests/interop/{program.source.name} cannot be built",
            ["build", "-o", str(binary), "."],
        ),
    ]:
        _run_go(go, words, what, program.source)


def install_command(binary: Path) -> None:
    """Build asynq's own command into the file `binary`, whose name is ``asynq``.

    Raises:
        PeerMissingError: there is no Go, or the module cannot be had.
    """
    go = shutil.which("go")
    if go is None:
        raise PeerMissingError("no go on PATH")
    words = ["install", f"{ASYNQ_COMMAND}/asynq@{_ASYNQ_COMMAND_VERSION}"]
    what = f"the command asynq of the Go module {ASYNQ_COMMAND} cannot be built"
    _run_go(go, words, what, binary.parent, GOBIN=str(binary.parent))


def _run_go(go: str, words: Sequence[str], what: str, directory: Path, **variables: str) -> None:
    """Run Go; raise `PeerMissingError` with `what` was wrong if it fails or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 - Go, on our own source or a module's
            [go, *words],
            cwd=directory,
            env={**os.environ, "GOWORK": "off", **variables},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerMissingError(f"{what} within {BUILD_PATIENCE:g} seconds") from error
    if done.returncode:
        raise PeerMissingError(f"{what}: {' '.join(done.stderr.split())[-500:]}")


@attrs.define(eq=False)
class Peer:
    """A running peer. Made by `open_peer`."""

    process: trio.Process
    _waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = attrs.field(
        factory=dict[int, trio.MemorySendChannel[dict[str, Any]]]
    )
    _asked: int = 0
    _writing: trio.Lock = attrs.field(factory=trio.Lock)

    async def call(self, do: str, on: str = "", /, **arguments: object) -> Any:
        """Ask for something, and return the answer.

        Texts may have any bytes, those that are not UTF-8 as surrogate escapes.

        Raises:
            PeerRefusedError: the Go side returned an error.
            trio.EndOfChannel: the program ended meanwhile.
        """
        self._asked += 1
        number = self._asked
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[number] = send
        request = _to_peer({"id": number, "do": do, "on": on, **arguments})
        try:
            async with self._writing:
                assert self.process.stdin is not None
                await self.process.stdin.send_all(json.dumps(request).encode() + b"\n")
            answer = await receive.receive()
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise PeerRefusedError(answer["error"])
        return _from_peer(answer["result"])

    async def kill(self) -> None:
        """End the program with SIGKILL, and wait until it is gone."""
        self.process.kill()
        await self.process.wait()

    async def read_answers(self) -> None:
        """Hand each answer to the call that waits for it, until the program ends."""
        assert self.process.stdout is not None
        rest = b""
        async for chunk in self.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if (waiting := self._waiting.get(answer["id"])) is not None:
                    waiting.send_nowait(answer)
        for waiting in self._waiting.values():
            waiting.close()


@asynccontextmanager
async def open_peer(binary: Path, url: str) -> AsyncGenerator[Peer]:
    """Run the peer on the server at `url`; leaving the block kills it if it still runs."""
    process = await trio.lowlevel.open_process(
        [str(binary), url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    peer = Peer(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.read_answers)
            yield peer
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.move_on_after(END_GRACE, shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await trio.aclose_forcefully(pipe)


def _to_peer(value: Any) -> Any:
    """Write texts as the peer reads them: a code point for each byte."""
    match value:
        case bytes():
            return value.decode("latin-1")
        case str():
            return value.encode(errors="surrogateescape").decode("latin-1")
        case _:
            return _map(_to_peer, value)


def _from_peer(value: Any) -> Any:
    """Read what `_to_peer` wrote."""
    if isinstance(value, str):
        return value.encode("latin-1").decode(errors="surrogateescape")
    return _map(_from_peer, value)


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: change(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [change(item) for item in cast("list[Any]", value)]
    return value
