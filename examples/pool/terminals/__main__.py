"""Workers, a producer and a scheduler, each a process of its own, on one Redis.

Run it with ``python -m examples.pool.terminals``, and it opens a server and plays all the
terminals itself. Or open the terminals yourself, with a Redis of your own or a directory
that an embedded server keeps its data in::

    python -m examples.pool.terminals.worker embedded:///tmp/example ann
    python -m examples.pool.terminals.worker embedded:///tmp/example bob
    python -m examples.pool.terminals.producer embedded:///tmp/example
    python -m examples.pool.terminals.scheduler embedded:///tmp/example
"""

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import trio

from terzetto.server import open_embedded


def command(program: str, *arguments: str) -> list[str]:
    """Return how to start one of the programs beside this one."""
    return [sys.executable, "-m", f"examples.pool.terminals.{program}", *arguments]


async def read_until(process: trio.Process, word: bytes) -> bytes:
    """Return what a process prints, up to a line with `word`, or to its end."""
    said = b""
    if process.stdout is not None:
        async for chunk in process.stdout:
            said += chunk
            if word in said:
                break
    return said


@asynccontextmanager
async def open_worker(url: str, name: str) -> AsyncGenerator[None]:
    """Have a worker in a terminal for the time of a block; then show what it printed."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(trio.run_process, command("worker", url, name), stdout=subprocess.PIPE)
        )
        try:
            said = await read_until(process, b"ready\n")
            print(f"{name}: {said.decode()}", end="")
            yield
        finally:
            process.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(10):
                said = await read_until(process, b"has left\n")
                for line in said.decode().splitlines():
                    print(f"{name}: {line}")


async def main() -> None:
    """Play the terminals."""
    async with (
        open_embedded() as server,
        open_worker(server.url, "ann"),
        open_worker(server.url, "bob"),
    ):
        for program in ("producer", "scheduler"):
            print(f"--- {program}", flush=True)
            await trio.run_process(command(program, server.url))
        print("--- the workers")


if __name__ == "__main__":
    trio.run(main)
