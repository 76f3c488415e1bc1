"""The entries of tickers: when the next tick is due, and how far apart they are.

Pure. An entry is ``<Unix µs>|<duration>`` with the duration in Go's form. All
nodes, in Go too, compute the next entry in the same way, so that whoever claims
a tick moves the entry to where the others expect it.
"""

import attrs

from terzetto._shared._durations import format_duration, parse_duration
from terzetto.errors import InvalidNameError
from terzetto.pool._checks import check_seconds

_NANOSECONDS = 1_000_000_000


@attrs.frozen
class Entry:
    """When the next tick is due (Unix ns, whole µs), and the interval (ns)."""

    due_ns: int
    interval_ns: int

    def encode(self) -> str:
        """Return the entry as it is stored; the time is rounded down to µs."""
        return f"{self.due_ns // 1000}|{format_duration(self.interval_ns)}"

    def following(self, now_ns: int) -> "Entry":
        """Return the entry that the next tick stores: the first multiple that is not past."""
        due = self.due_ns + self.interval_ns
        if due < now_ns:
            due += -((due - now_ns) // self.interval_ns) * self.interval_ns
        return Entry(due, self.interval_ns)


def read_entry(value: str) -> Entry | None:
    """Read a stored entry; None if it is none, or its interval is not above zero."""
    time, bar, duration = value.partition("|")
    if not bar:
        return None
    try:
        entry = Entry(int(time) * 1000, parse_duration(duration))
    except ValueError:
        return None
    return entry if entry.interval_ns > 0 else None


def interval_of(seconds: float) -> int:
    """Return an interval in whole nanoseconds.

    Raises:
        InvalidOptionError: it is not above zero, or longer than thirty years.
    """
    check_seconds("the interval", seconds)
    return max(1, round(seconds * _NANOSECONDS))


def full_name(pool: str, name: str) -> str:
    """Return what a ticker is called in the map of tickers.

    Raises:
        InvalidNameError: the name is empty, has a ``=``, or is not UTF-8.
    """
    if not name or "=" in name or "=" in pool:
        raise InvalidNameError(f"a ticker cannot be called {name!r}: give text without '='")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"a ticker cannot be called {name!r}: it is not UTF-8") from error
    return f"{pool}:{name}"
