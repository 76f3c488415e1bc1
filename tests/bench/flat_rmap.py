"""The least that a process on trio can do to see the changes of a map: the floor of the lag.

A flat program that has hiredis parse what comes, takes key and value out of each message,
keeps them, and wakes the task that waits. No more: not what the map held before, no outage,
no bytes that are no message, and nothing else that a map is for.
"""

import socket
import struct
import sys
from urllib.parse import urlsplit

import hiredis
import trio
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
)

from terzetto.rmap import updates_channel
from tests.bench.work_rmap import Sightings

_length = struct.Struct("<i").unpack_from


class FlatCopy:
    """The values of a map, and the one task that waits for them."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._waiter: Task | None = None

    async def wait(self) -> None:
        """Wait for the next change."""
        self._waiter = current_task()
        await wait_task_rescheduled(lambda _: Abort.SUCCEEDED)

    def take(self, data: bytes) -> None:
        """Keep what a message of the kind `set` says."""
        (key_size,) = _length(data, 4)
        (size,) = _length(data, 8 + key_size)
        start = 12 + key_size
        self.values[data[8 : 8 + key_size].decode()] = data[start : start + size].decode()
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            reschedule(waiter)


async def follow(plain: socket.socket, copy: FlatCopy) -> None:
    """Take in what a socket brings, without end; say when the server has confirmed."""
    reader, buffer = hiredis.Reader(), bytearray(65536)
    while True:
        await wait_readable(plain)
        reader.feed(buffer, 0, plain.recv_into(buffer))  # type: ignore[arg-type] # takes any buffer
        while message := reader.gets():
            if message[0] == b"message":
                copy.take(message[2])
            else:
                print("subscribed", flush=True)


async def watch_values(url: str, name: str) -> None:
    """Print the number of each value and the time when it was seen."""
    parts = urlsplit(url)
    copy, sightings = FlatCopy(), Sightings()
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as plain:
        plain.sendall(f"SUBSCRIBE {updates_channel(name)}\r\n".encode())
        plain.setblocking(False)  # noqa: FBT003 - the standard library's signature
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, plain, copy)
            while True:
                await copy.wait()
                sightings.note(copy.values["key"])


if __name__ == "__main__":
    trio.run(watch_values, sys.argv[1], sys.argv[2])
