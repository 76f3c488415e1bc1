"""The shop's worker processes: hired, killed and sent home.

Each process lives in a session of its own, so that Ctrl-C reaches the shop
alone, and watches its standard input, so that it goes when the shop goes.
"""

import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

HAND_OVER_TIME = 10.0
"""Seconds that a worker has to hand over its jobs before it is killed."""


class WorkerLostError(Exception):
    """A worker process ended before it was ready."""


async def _send_home(process: trio.Process) -> None:
    """End `process`: first by hanging up, which lets it close, in the end by SIGKILL."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with trio.move_on_after(HAND_OVER_TIME):
        await process.wait()
    if process.poll() is None:
        process.kill()


async def _first_line(process: trio.Process) -> bytes:
    """Return the first line that `process` prints, or what there is of it at its end."""
    said = b""
    if process.stdout is not None:
        async for chunk in process.stdout:
            said += chunk
            if b"\n" in said:
                break
    return said.partition(b"\n")[0]


@attrs.define
class Fleet:
    """The worker processes that run now, by name."""

    url: str
    mailbox: Path
    _nursery: trio.Nursery = attrs.field(alias="nursery")
    _processes: dict[str, trio.Process] = attrs.field(factory=dict[str, trio.Process])

    async def hire(self, name: str) -> None:
        """Start a worker process and wait until it serves the pool.

        Raises:
            WorkerLostError: it ended before it was ready; its own words are on standard error.
        """
        process: trio.Process = await self._nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-m", "examples.signup.worker", self.url, self.mailbox, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
                start_new_session=True,
                cwd=Path(__file__).parents[2],
                deliver_cancel=_send_home,
            )
        )
        self._processes[name] = process
        if await _first_line(process) != b"ready":
            raise WorkerLostError(f"worker {name} ended with status {await process.wait()}")

    async def kill(self, name: str) -> None:
        """Kill a worker process without a chance to clean up, and wait until it is gone."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def open_fleet(url: str, mailbox: Path) -> AsyncGenerator[Fleet]:
    """Open a fleet whose workers use the Redis at `url` and write to `mailbox`.

    Leaving the block sends every worker home, also when it is left by cancellation.
    """
    async with trio.open_nursery() as nursery:
        yield Fleet(url=url, mailbox=mailbox, nursery=nursery)
        nursery.cancel_scope.cancel()
