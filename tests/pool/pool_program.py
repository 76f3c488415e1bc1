"""A process with one node and one worker, for tests that kill, pause and count.

Arguments: url, pool, name, log file, worker_ttl, ack_grace_period. It appends a
line for everything that happens: monotonic time, name, event, key. On SIGTERM
it closes, on SIGUSR1 it asks the whole pool to shut down.
"""

import os
import signal
import sys
import time
from pathlib import Path

import trio

from terzetto import connect, pool


class Handler:
    def __init__(self, name: str, log: int) -> None:
        self.name = name
        self.log = log

    def note(self, event: str, key: str) -> None:
        line = f"{time.monotonic():.6f} {self.name} {event} {key}\n"
        os.write(self.log, line.encode())  # one write to a file opened for appending

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        self.note("start", job.key)

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.note("stop", key)


async def main(*arguments: str) -> None:
    url, name, who, log, ttl, grace = arguments
    descriptor = os.open(Path(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    handler = Handler(who, descriptor)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
        async with (
            connect(url) as redis,
            pool.open_node(
                name, redis, worker_ttl=float(ttl), ack_grace_period=float(grace)
            ) as node,
        ):
            await node.add_worker(handler)
            handler.note("ready", "-")
            async for number in signals:
                if number == signal.SIGTERM:
                    break
                await node.shutdown()
    handler.note("closed", "-")
    os.close(descriptor)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
