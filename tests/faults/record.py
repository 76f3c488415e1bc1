"""What the processes of a scenario write down, and how it is read: one file a process.

Every line is one event with the time of the machine's monotonic clock, which all
processes share, so the lines of several files can be put in order. A line is one
write to a file opened for appending: a process that is killed loses none.
"""

import enum
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

import attrs
import trio

STALL: Final = 0.1  # seconds that a process waits for its turn before that is worth a line
_TICK: Final = 0.02


def say(text: str) -> None:
    """Write a line that the other side, or who runs pytest with -s, reads at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Kind(enum.StrEnum):
    """What happened."""

    ACCEPTED = "accepted"  # the dispatch of a key returned
    UNDECIDED = "undecided"  # the dispatch failed in a way that does not say what became of it
    STOPPED = "stopped"  # the stop of a key was sent
    STARTED = "started"  # the job's code began to run
    ANSWERED = "answered"  # the job's code answered a roll call: it runs
    ENDED = "ended"  # the job's code has ended
    DONE = "done"  # a sink's handler has dealt with an event; before it has ended
    DEAD = "dead"  # an event has become a dead letter
    PAUSED = "paused"  # a node's process was sent SIGSTOP
    RESUMED = "resumed"  # a node's process was sent SIGCONT
    KILLED = "killed"  # a node's process was sent SIGKILL
    STALLED = "stalled"  # the machine did not let a process run; `key` says for how many seconds


@attrs.frozen
class Event:
    """One line: `at` in seconds, `node` the process it is about, `key` a job's or empty."""

    at: float
    node: str
    key: str
    kind: Kind


class Recorder:
    """Writes the events of one process, or of one that is spoken for."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, node: str, key: str, kind: Kind) -> None:
        """Write an event of now."""
        line = json.dumps([time.monotonic(), node, key, kind]) + "\n"
        os.write(self._fd, line.encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


async def keep_time(recorder: Recorder, node: str) -> None:
    """Write down, for ever, when the machine does not let this process run for a while.

    Time that the process used itself, however badly, is not the machine's fault.
    """
    at, used = time.monotonic(), time.process_time()
    while True:
        await trio.sleep(_TICK)
        now, now_used = time.monotonic(), time.process_time()
        stalled = (now - at) - _TICK - (now_used - used)
        if stalled > STALL:
            recorder.write(node, f"{stalled:.3f}", Kind.STALLED)
        at, used = now, now_used


class Follower:
    """Reads the files of a directory as they grow."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}

    def read_new(self) -> Iterator[Event]:
        """Yield what was written since the last call; in order within a file only."""
        for path in sorted(self._directory.glob("*.events")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            complete = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(complete)
            for line in complete.splitlines():
                at, node, key, kind = json.loads(line)
                yield Event(at, node, key, Kind(kind))


@asynccontextmanager
async def measure_stalls(directory: Path) -> AsyncGenerator[Callable[[], float]]:
    """Measure for how many seconds of a block the machine does not let this process run."""

    def stalled() -> float:
        written = Follower(directory).read_new()
        return sum(float(event.key) for event in written if event.kind is Kind.STALLED)

    with closing(Recorder(directory / "stalls.events")) as recorder:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_time, recorder, "test")
            yield stalled
            nursery.cancel_scope.cancel()
