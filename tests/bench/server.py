"""The Redis that contenders share: a `redis-server` from PATH, nothing kept, on one core.

The embedded server is not for benchmarks: its allocator and its fsync on every
write would be measured instead of the clients. Opened by `runner.py`, once for
each case that asks for it.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tests.bench.harness import MissingPeerError

START_LIMIT = 20.0  # seconds until the server answers


def find_free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pin(pid: int, cores: Collection[int]) -> None:
    """Keep all threads that the process `pid` has by now on `cores`."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


async def wait_until_it_answers(port: int) -> None:
    """Return once a server on `port` answers PING; its caller bounds the wait."""
    while True:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.sleep(0.02)  # nobody tells when a foreign process begins to listen
            continue
        async with stream:
            await stream.send_all(b"PING\r\n")
            if await stream.receive_some() == b"+PONG\r\n":
                return


@asynccontextmanager
async def open_server(cores: Collection[int]) -> AsyncGenerator[int]:
    """Run a server on `cores` (anywhere if empty) and yield its port; it ends with the block.

    Raises:
        MissingPeerError: there is no `redis-server` on PATH.
        trio.TooSlowError: it did not answer in time.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise MissingPeerError("no redis-server on PATH")
    port = find_free_port()
    with TemporaryDirectory(prefix="tz-bench-") as directory:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory]
        command += ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(trio.run_process, command, stdout=subprocess.DEVNULL, check=False)
            )
            with trio.fail_after(START_LIMIT):
                await wait_until_it_answers(port)
            if cores:
                pin(process.pid, cores)
            yield port
            nursery.cancel_scope.cancel()
