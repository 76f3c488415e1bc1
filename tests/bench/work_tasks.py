"""The loads of the cases of task queues, the same for all: how much, and how it is counted.

Each contender has a database of its own on the case's server, emptied after each
turn. Called by `ours_tasks.py`, `peer_tasks.py` and, in an environment of its
own, by peers that can't share ours; so it imports nothing but the standard library.
"""

import socket
from collections.abc import Callable
from statistics import quantiles
from time import perf_counter
from urllib.parse import urlsplit

ALONE = 500  # tasks that one caller enqueues one after the other
MANY = 20_000  # tasks that are enqueued in bulk, and drained
CONCURRENCY = 32
SLEEPERS = 320  # tasks that sleep for a second: ten times as many as can at once
MANY_SLEEPERS = 20_000  # the same where a turn may take ten minutes
STARTS = 400  # tasks that an idle server is given one at a time, as far as
STARTS_TIME = 4.0  # seconds allow: some start only at their next poll
GO_STARTS = 10  # the same for asynq, which polls once a second
PAUSE = 0.005  # seconds that it is idle before each
GO_MANY = 100_000  # tasks of asynq's own benchmark
GO_CONCURRENCY = 10

DATABASES = {
    "terzetto": 1,
    "asynq": 2,
    "streaq": 3,
    "arq": 4,
    "saq": 5,
    "taskiq": 6,
    "celery": 7,
}


def database(url: str, name: str) -> str:
    """Return the URL of a contender's own database."""
    return f"{url}/{DATABASES[name]}"


def empty(url: str) -> None:
    """Delete what is in the database of `url`."""
    parts = urlsplit(url)
    number = parts.path.strip("/")
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as link:
        link.sendall(f"SELECT {number}\r\nFLUSHDB SYNC\r\n".encode())
        said = b""
        while said.count(b"\r\n") < 2:
            said += link.recv(100)
        if said != b"+OK\r\n+OK\r\n":
            raise RuntimeError(f"could not empty {url}: {said!r}")


class Tally:
    """Counts tasks that were handled, and tells when all were."""

    def __init__(self) -> None:
        self.handled = 0
        self.started_at = 0.0
        self._expected = 0
        self._done: Callable[[], object] = lambda: None

    def expect(self, count: int, done: Callable[[], object]) -> None:
        """Begin to count; `done` is called at the last one, with a count of 0 never."""
        self.handled = 0
        self._expected = count
        self._done = done

    def count(self) -> None:
        """Count one."""
        self.started_at = perf_counter()
        self.handled += 1
        if self.handled == self._expected:
            self._done()


def waits(seconds: list[float]) -> dict[str, float]:
    """Return the figures of waits, in milliseconds."""
    cuts = quantiles(seconds, n=100)
    return {"p50": cuts[49] * 1000, "p99": cuts[98] * 1000}
