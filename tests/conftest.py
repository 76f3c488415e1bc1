"""What every test may ask for (`server`, `redis`), and what every test is held to: no leaks.

The leak check runs around each test. It makes the test process the one that
adopts the orphans of its children, so that a server or guardian that outlives
its test is found among the descendants, in whatever session it runs.
"""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer, open_embedded

LEAK_PATIENCE = 10.0  # seconds that what is on its way out may take
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    """Return a server of this test's own, on a unix socket and a TCP port."""
    async with open_embedded(port=0) as embedded:
        yield embedded


@pytest.fixture
async def redis(server: EmbeddedServer) -> AsyncIterator[Redis]:
    """Return a client that is connected to `server`."""
    async with connect(server.url) as client:
        yield client


def pytest_configure(config: pytest.Config) -> None:
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A job in a shell's background ignores Ctrl-C, and the programs that tests strike
        # with it would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail the test that leaves a thread, a file descriptor or a process behind.

    Tasks can't be left: the test's own trio run waits for them.
    """
    before = _everything()
    yield
    deadline = time.monotonic() + LEAK_PATIENCE
    while left := _everything() - before:
        if time.monotonic() > deadline:
            _end_processes(left)
            pytest.fail(f"left behind: {', '.join(sorted(map(str, left)))}")
        multiprocessing.active_children()  # joins, and closes, those that have ended unnoticed
        gc.collect()
        time.sleep(0.01)  # what the kernel takes down has no event to wait for


def _everything() -> set[tuple[str, str | int]]:
    found: set[tuple[str, str | int]] = set()
    # Trio keeps idle threads of its own for a while.
    found.update(
        ("thread", thread.name)
        for thread in threading.enumerate()
        if not thread.name.startswith("Trio thread")
    )
    if _LINUX:
        found.update(_descriptors())
        found.update(_processes())
    return found


def _descriptors() -> Iterator[tuple[str, str]]:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the listing's own descriptor is in it
        try:
            yield "descriptor", f"{name} {os.readlink(f'/proc/self/fd/{name}')}"  # noqa: PTH115 - likewise
        except OSError:
            continue


def _processes() -> Iterator[tuple[str, int]]:
    waiting = [os.getpid()]
    while waiting:
        for child in _children(waiting.pop()):
            if not _reaped(child):
                waiting.append(child)
                yield "process", child


def _children(pid: int) -> Iterator[int]:
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, listing.read_text().split())
        except OSError:
            continue


def _reaped(pid: int) -> bool:
    """Reap `pid` if it is a dead orphan that we adopted; its test reaps its own children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    state, parent, session = fields[0], int(fields[1]), int(fields[3])
    if state != "Z" or parent != os.getpid() or session in (pid, os.getsid(0)):
        return False
    os.waitpid(pid, 0)
    return True


def _end_processes(left: set[tuple[str, str | int]]) -> None:
    for kind, what in left:
        if kind == "process" and isinstance(what, int):
            os.kill(what, signal.SIGKILL)
