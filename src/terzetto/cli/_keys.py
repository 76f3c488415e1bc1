"""Single key presses from a terminal, without waiting for a new line."""

import os
import sys
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager

import trio


@contextmanager
def raw_keys() -> Generator[None]:
    """Have the terminal at standard input give each key at once, unseen, for the time of a block.

    The terminal is always put back.
    """
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def wait_key(*wanted: str) -> None:
    """Wait until one of the `wanted` keys is pressed, or standard input ends."""
    descriptor = sys.stdin.fileno()
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        keys = os.read(descriptor, 64).decode(errors="replace")
        if not keys or any(key in wanted for key in keys):
            return
