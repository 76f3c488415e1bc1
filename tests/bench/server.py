"""The Redis that contenders share: `redis-server` from PATH, nothing kept, on one core.

The embedded server is not for benchmarks: its allocator and its fsync on every
write would be measured instead of the clients. Opened by `runner.py`, once for
each case that asks for it, alone or as a cluster.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tests.bench.harness import MissingPeerError

MASTERS = 3  # of a cluster; each has a replica
START_LIMIT = 20.0  # seconds until the server answers


def find_free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pin(pid: int, cores: Collection[int]) -> None:
    """Keep all threads that the process `pid` has by now on `cores`; anywhere if there are none."""
    if not cores:
        return
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


def find_program(name: str) -> str:
    """Return the path of a program on PATH."""
    path = shutil.which(name)
    if path is None:
        raise MissingPeerError(f"no {name} on PATH")
    return path


@asynccontextmanager
async def open_server(cores: Collection[int], *config: str) -> AsyncGenerator[int]:
    """Run a server on `cores` (anywhere if empty) and yield its port; it ends with the block.

    Raises:
        MissingPeerError: there is no `redis-server` on PATH.
        trio.TooSlowError: it did not answer in time.
    """
    binary = find_program("redis-server")
    port = find_free_port()
    with TemporaryDirectory(prefix="tz-bench-") as directory:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory]
        command += ["--save", "", "--appendonly", "no", "--loglevel", "warning", *config]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(trio.run_process, command, stdout=subprocess.DEVNULL, check=False)
            )
            with trio.fail_after(START_LIMIT):
                await wait_until_it_answers(port)
            pin(process.pid, cores)
            yield port
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_cluster(cores: Collection[int]) -> AsyncGenerator[int]:
    """Run a cluster of three masters with a replica each; yield the port of one.

    Raises:
        MissingPeerError, trio.TooSlowError: as `open_server`; it needs `redis-cli` too.
    """
    cli = find_program("redis-cli")
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        for _ in range(2 * MASTERS):
            # By default members talk on a port that is higher by 10,000, and may not be one.
            config = ["--cluster-enabled", "yes", "--cluster-port", str(find_free_port())]
            ports.append(await stack.enter_async_context(open_server(cores, *config)))
        members = [f"127.0.0.1:{port}" for port in ports]
        form = [cli, "--cluster", "create", *members, "--cluster-replicas", "1", "--cluster-yes"]
        await trio.run_process(form, stdout=subprocess.DEVNULL)
        with trio.fail_after(START_LIMIT):
            for port in ports:
                await wait_until_it_says(cli, port, "cluster info", "cluster_state:ok")
            for port in ports[:MASTERS]:
                await wait_until_it_says(cli, port, "info replication", "state=online")
        yield ports[0]


async def wait_until_it_says(cli: str, port: int, command: str, word: str) -> None:
    """Return once the answer to `command` has `word` in it; its caller bounds the wait."""
    ask = [cli, "-p", str(port), *command.split()]
    while True:
        answer = await trio.run_process(ask, capture_stdout=True)
        if word.encode() in answer.stdout:
            return
        await trio.sleep(0.05)  # nobody tells when a cluster has come to terms
