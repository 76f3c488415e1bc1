"""The entries of tickers: when the next tick is due, and how it goes on from there.

Pure. An entry is ``<Unix µs>|<duration>`` with the duration in Go's form. All
nodes, in Go too, compute the next entry in the same way, so that whoever claims
a tick moves the entry to where the others expect it.

A ticker by a cron spec is ours alone. Its entry has the spec, with its zone, as a
third part, which Go does not look at, and for duration the time from that tick
to the one after it, so that a ticker in Go of the same name finds what it can read.
"""

from datetime import UTC, datetime, timedelta, tzinfo

import attrs

from terzetto._shared._cron import Crontab, Every, parse_schedule
from terzetto._shared._durations import format_duration, parse_duration
from terzetto.errors import InvalidCronError, InvalidNameError, InvalidOptionError
from terzetto.pool._checks import check_seconds

_NANOSECONDS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_of(unix_ns: int) -> datetime:
    """Return a time in Unix nanoseconds as a datetime in UTC, rounded down to µs."""
    return _EPOCH + timedelta(microseconds=unix_ns // 1000)


def _unix_ns(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


@attrs.frozen
class Entry:
    """When the next tick is due (Unix ns, whole µs), and how it goes on.

    Attributes:
        due_ns: when.
        interval_ns: the time to the tick after it.
        crontab: what finds the ticks after it, if not the interval.
    """

    due_ns: int
    interval_ns: int
    crontab: Crontab | None = None

    def encode(self) -> str:
        """Return the entry as it is stored; the time is rounded down to µs."""
        text = f"{self.due_ns // 1000}|{format_duration(self.interval_ns)}"
        return text if self.crontab is None else f"{text}|{_text_of(self.crontab)}"

    def following(self, now_ns: int) -> "Entry":
        """Return the entry that the next tick stores: the first after it that is not past."""
        if self.crontab is not None:
            return first_match(self.crontab, max(self.due_ns, now_ns - 1000))
        due = self.due_ns + self.interval_ns
        if due < now_ns:
            due += -((due - now_ns) // self.interval_ns) * self.interval_ns
        return Entry(due, self.interval_ns)


def first_match(crontab: Crontab, now_ns: int) -> Entry:
    """Return the entry of the first time after now that matches.

    Raises:
        InvalidOptionError: there is none.
    """
    due = _next_match(crontab, moment_of(now_ns))
    then = _next_match(crontab, due)
    return Entry(_unix_ns(due), _unix_ns(then) - _unix_ns(due), crontab)


def _next_match(crontab: Crontab, moment: datetime) -> datetime:
    for _ in range(2):  # 29 February may be eight years away, and one search goes over five
        due = crontab.next_after(moment)
        if due is not None:
            return due
        moment += timedelta(days=5 * 366)
    raise InvalidOptionError(f"cron spec {crontab.spec!r} never comes: give another")


def _text_of(crontab: Crontab) -> str:
    """Return a spec with its zone, which all who share a ticker have to agree on."""
    return f"CRON_TZ={crontab.zone} {crontab.spec}"


def read_entry(value: str) -> Entry | None:
    """Read a stored entry.

    None if it is none, if its interval is not above zero, or if it has a cron spec
    that cannot be read or never comes.
    """
    time, bar, rest = value.partition("|")
    duration, second_bar, spec = rest.partition("|")
    if not bar:
        return None
    try:
        crontab = parse_schedule(spec) if second_bar else None
        due = moment_of(int(time) * 1000)
        if isinstance(crontab, Crontab):
            _next_match(crontab, due)
        interval_ns = parse_duration(duration)
    except (ValueError, OverflowError):
        return None
    if interval_ns <= 0 or isinstance(crontab, Every):
        return None
    return Entry(int(time) * 1000, interval_ns, crontab)


@attrs.frozen
class Cadence:
    """When a ticker ticks: by an interval (ns), or by a cron spec."""

    interval_ns: int
    crontab: Crontab | None = None

    def has(self, entry: Entry) -> bool:
        """Tell whether an entry is of a ticker with this cadence."""
        if self.crontab is None or entry.crontab is None:
            return self.crontab is entry.crontab and self.interval_ns == entry.interval_ns
        return _text_of(self.crontab) == _text_of(entry.crontab)

    def first(self, now_ns: int) -> Entry:
        """Return the entry of a ticker that begins now."""
        if self.crontab is not None:
            return first_match(self.crontab, now_ns)
        return Entry(now_ns + self.interval_ns, self.interval_ns)

    def seconds_from(self, now_ns: int) -> float:
        """Return how long it takes until a tick that comes after now."""
        return (self.first(now_ns).due_ns - now_ns) / _NANOSECONDS


def cadence_of(when: float | str, zone: tzinfo) -> Cadence:
    """Return when a ticker ticks: every so many seconds, or by a cron spec.

    Raises:
        InvalidCronError: the spec cannot be read.
        InvalidOptionError: the interval is not above zero, or longer than thirty
            years; the spec never comes, or its zone has no name in the tz database.
        TypeError: the zone is no `tzinfo`.
    """
    if not isinstance(when, str):
        return Cadence(interval_of(when))
    schedule = parse_schedule(when, zone=zone)
    if isinstance(schedule, Every):
        return Cadence(interval_of(schedule.interval.total_seconds()))
    try:
        parse_schedule(_text_of(schedule))
    except InvalidCronError as error:
        raise InvalidOptionError(
            f"{schedule.zone!r} has no name that peers know: give ZoneInfo('Europe/Paris')"
        ) from error
    _next_match(schedule, datetime.now(UTC))
    return Cadence(0, schedule)


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
        TypeError: it is not a `str`.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"the name of a ticker is a str, not {type(name).__name__}")
    if not name or "=" in name or "=" in pool:
        raise InvalidNameError(f"a ticker cannot be called {name!r}: give text without '='")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"a ticker cannot be called {name!r}: it is not UTF-8") from error
    return f"{pool}:{name}"
