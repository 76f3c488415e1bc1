"""What else the machine did while a case ran: the share of its CPU that others took.

A figure that was measured beside busy strangers says little, least of all its p99; so
the share stands beside it. Linux only, elsewhere it is not known. Ours are all
processes of the bench's group, and those of them that have ended; used by `__main__.py`.
"""

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_STAT: Final = Path("/proc/stat")
_BUSY: Final = (0, 1, 2, 5, 6, 7)  # all but idle, and what guests had, which is in the first two
_GROUP: Final = 2  # of what follows the name in a process' own stat
_SPENT: Final = slice(11, 15)  # there: by itself and by its children that have ended


class Bystanders:
    """Measures in its block how the machine's CPU was shared.

    Attributes:
        own: seconds of CPU time that the bench spent.
        share: which part of the time of all cores went to others; None if not known.
    """

    own: float = 0.0
    share: float | None = None
    _began: float = 0.0
    _busy: float = 0.0

    def __enter__(self) -> Self:
        """Start."""
        if _STAT.exists():
            self._began, self._busy, self.own = time.monotonic(), _busy_seconds(), _own_seconds()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        if self._began:
            spent = (time.monotonic() - self._began) * (os.cpu_count() or 1)
            self.own = _own_seconds() - self.own
            self.share = max(0.0, (_busy_seconds() - self._busy - self.own) / spent)


def _busy_seconds() -> float:
    """Return what all cores have worked, or lost to another machine."""
    times = _STAT.read_text().partition("\n")[0].split()[1:]
    return sum(int(times[number]) for number in _BUSY) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Return the CPU time of all processes of our group."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended; who waited for it has its time
        if int(words[_GROUP]) == os.getpgrp():
            ticks += sum(map(int, words[_SPENT]))
    return ticks / os.sysconf("SC_CLK_TCK")
