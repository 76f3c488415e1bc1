"""Workers in two processes, for the cases of task queues in which two share a queue.

Each is this module run as a program, with the contender's function that works and the
URL as its arguments. It speaks in lines: it says "ready"; told "go" it works, and says
how many tasks it has handled whenever that has changed; told "stop" it stops, and says
"over". It ends with its input. Imports nothing but the standard library, for it runs in
the environments of peers.
"""

import importlib
import os
import selectors
import subprocess
import sys
from collections.abc import Callable
from operator import attrgetter
from time import perf_counter
from types import TracebackType
from typing import IO, Final, Self

PROCESSES: Final = 2
TELL_EVERY: Final = 0.005  # seconds from one look at what was handled to the next
_PATIENCE: Final = 100.0  # seconds without a word


Say = Callable[[str], None]
"""Writes a line that the other side reads at once."""


def is_told_to_go() -> bool:
    """Wait for the next word; return whether there is work to be done."""
    return sys.stdin.readline().strip() == "go"


class Workers:
    """The processes, as the one sees them that counts; a block starts and ends them.

    Args:
        target: the function that works, as ``module:function``; it is given the URL, and
            what says a line.
        url: the URL.
    """

    def __init__(self, target: str, url: str) -> None:
        self._command = [sys.executable, "-m", "tests.bench.workers", target, url]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Start them, and wait until they are ready."""
        for _ in range(PROCESSES):
            self._processes.append(
                subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,  # so that no line waits where `select` does not see it
                )
            )
        for process in self._processes:
            _hear(process, "ready")
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """End them."""
        for process in self._processes:
            with process:  # closes its input, and waits for it
                pass

    def handle(self, count: int) -> float:
        """Have them work until so many tasks are handled; return the seconds that it took."""
        handled = dict.fromkeys(range(PROCESSES), 0)
        with selectors.DefaultSelector() as selector:
            for place, process in enumerate(self._processes):
                selector.register(_pipe(process.stdout), selectors.EVENT_READ, place)
            began = perf_counter()
            self._tell("go")
            while sum(handled.values()) < count:
                ready = selector.select(_PATIENCE)
                if not ready:
                    raise RuntimeError(f"{handled} of {count} tasks, and silence")
                for key, _ in ready:
                    number: int = key.data
                    handled[number] = int(_line(self._processes[number]))
            taken = perf_counter() - began
        self._tell("stop")
        for process in self._processes:
            _hear(process, "over")
        return taken

    def _tell(self, word: str) -> None:
        for process in self._processes:
            _pipe(process.stdin).write(word.encode() + b"\n")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _line(process: subprocess.Popen[bytes]) -> str:
    line = _pipe(process.stdout).readline()
    if not line:
        raise RuntimeError(f"a worker ended with {process.wait()}")
    return line.decode().strip()


def _hear(process: subprocess.Popen[bytes], word: str) -> None:
    """Read lines until one is `word`."""
    while _line(process) != word:
        pass


def main(target: str, url: str) -> None:
    """Be one of the processes. What a contender prints goes to standard error."""
    channel = os.dup(1)
    os.dup2(2, 1)

    def say(word: str) -> None:
        os.write(channel, word.encode() + b"\n")

    module, _, function = target.partition(":")
    work: Callable[[str, Say], None] = attrgetter(function)(importlib.import_module(module))
    work(url, say)


if __name__ == "__main__":
    main(*sys.argv[1:])
