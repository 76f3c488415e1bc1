"""Who reads what a command prints: a pipe whose reader has ended needs no more lines.

A command that prints now and then would learn of it only from its next line, which may
never come. Linux tells it at once; elsewhere the next line has to do.
"""

import os
import select
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def while_read() -> AsyncGenerator[None]:
    """Leave the block when the reader of the pipe that standard output is has ended."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, nursery.cancel_scope)
        yield
        nursery.cancel_scope.cancel()


async def _watch(block: trio.CancelScope) -> None:
    output = _pipe()
    if output is None:
        return
    await trio.lowlevel.wait_readable(output)  # which an end for writing never is, but by an error
    poll = select.poll()
    poll.register(output, 0)
    if poll.poll(0):
        block.cancel()


def _pipe() -> int | None:
    """Return standard output's descriptor, if that is a pipe that tells of its reader's end."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # none, as of a StringIO, or closed
        return None
    is_pipe = sys.platform == "linux" and stat.S_ISFIFO(os.fstat(output).st_mode)
    return output if is_pipe else None
