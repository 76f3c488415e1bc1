"""Python programs in processes of their own, that a test talks to, pauses and kills.

A program has a session of its own, so a signal for its whole group reaches
nothing of the test's. Test and program talk in lines. Called by tests only.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from terzetto.errors import TerzettoError

END_GRACE = 10.0  # seconds to wait for a program that was sent SIGKILL


class ProgramEndedError(TerzettoError):
    """The program ended, or closed its output, before it wrote the line that was waited for."""


@attrs.define(eq=False, kw_only=True)
class Program:
    """A running Python program. Made by `open_program`."""

    _process: trio.Process = attrs.field(alias="process")
    _output: trio.abc.ReceiveStream = attrs.field(alias="output", repr=False)
    _input: trio.abc.SendStream = attrs.field(alias="input", repr=False)
    _read: bytearray = attrs.field(factory=bytearray, init=False, repr=False)

    @property
    def pid(self) -> int:
        """The program's process."""
        return self._process.pid

    async def read_line(self) -> str:
        """Return the next line of the program's standard output, without its end.

        If cancelled, nothing is lost: the next call goes on from there.

        Raises:
            ProgramEndedError: there is no further line.
        """
        while (end := self._read.find(b"\n")) < 0:
            chunk = await self._output.receive_some()
            if not chunk:
                raise ProgramEndedError(
                    f"the program wrote no further line after {bytes(self._read)!r}: "
                    "its standard error says why"
                )
            self._read += chunk
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        return line.decode(errors="surrogateescape")

    async def write_line(self, line: str) -> None:
        """Send `line` to the program's standard input.

        If cancelled, a part of the line may have been sent.
        """
        await self._input.send_all(line.encode(errors="surrogateescape") + b"\n")

    async def close_input(self) -> None:
        """End the program's standard input."""
        await self._input.aclose()

    async def wait(self) -> int:
        """Wait until the program has ended; return its status, or minus the signal's number."""
        return await self._process.wait()

    async def kill(self) -> None:
        """End the program with SIGKILL and wait until it is gone."""
        self._process.kill()
        await self._process.wait()

    def pause(self) -> None:
        """Stop the program with SIGSTOP, as a machine that sleeps does."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the program go on after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Send the program SIGTERM."""
        self._process.terminate()

    def interrupt(self) -> None:
        """Send SIGINT to the program and all in its group, as Ctrl-C in a terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)


@asynccontextmanager
async def open_program(
    source: str | Path, *arguments: str | Path, environment: dict[str, str] | None = None
) -> AsyncGenerator[Program, None]:
    """Run a Python program while the block is open, with this interpreter.

    Leaving the block kills the program if it still runs, and waits for its end.

    Args:
        source: the program's text, or the path of its file.
        arguments: what the program finds in ``sys.argv[1:]``.
        environment: variables besides those of this process.
    """
    text = ["-c", source] if isinstance(source, str) else [str(source)]
    process = await trio.lowlevel.open_process(
        [sys.executable, *text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    assert process.stdout is not None  # noqa: S101 - likewise
    try:
        yield Program(process=process, output=process.stdout, input=process.stdin)
    finally:
        process.kill()
        with trio.move_on_after(END_GRACE, shield=True):
            await process.wait()
        await trio.aclose_forcefully(process.stdin)
        await trio.aclose_forcefully(process.stdout)
