"""Cron specs with time zones: when a schedule is due next. Pure.

The dialect is the standard one of Go's robfig/cron v3, so that one spec means
the same to Go and Python programs:

- five fields, minute, hour, day of month, month, day of week (0 or SUN to 6 or
  SAT; there is no 7), each ``*``, ``?``, a number or name, a range, or a list of
  these with steps; ``N/step`` means from N on;
- a day matches if the day of month or the day of week does, but if one of the
  two has a bare ``*`` or ``?`` (``*/2`` is none) then both have to;
- ``@yearly``, ``@annually``, ``@monthly``, ``@weekly``, ``@daily``, ``@midnight``,
  ``@hourly``, and ``@every`` with a Go duration, from now on, in whole seconds;
- ``TZ=Europe/Paris `` or ``CRON_TZ=`` in front names the zone.

What is due are the instants at which a clock on a wall of the zone shows a time
that matches. So a time in an hour that the zone skips does not come that day,
and one in an hour that it repeats comes twice. A spec that nothing matches
within five calendar years never comes.

Where robfig's parser takes what is probably a slip (an empty item of a list, a
range after a star, a sign before a number) this one refuses it. The search
through the calendar is the library cronsim's, on a calendar without zones: it
would handle skipped and repeated hours as Debian's cron does.
"""

import re
from datetime import MAXYEAR, UTC, datetime, timedelta, tzinfo
from itertools import count
from typing import Final, TypeAlias
from zoneinfo import ZoneInfo

import attrs
from cronsim import CronSim, CronSimError

from terzetto._shared._durations import parse_duration
from terzetto.errors import InvalidCronError, InvalidOptionError

_YEARS: Final = 5
_SECOND: Final = timedelta(seconds=1)
_TICK: Final = timedelta(microseconds=1)
_STRIDE: Final = timedelta(hours=12)  # no zone changes its offset twice within it

_MONTHS: Final = (
    "JAN",
    "FEB",
    "MAR",
    "APR",
    "MAY",
    "JUN",
    "JUL",
    "AUG",
    "SEP",
    "OCT",
    "NOV",
    "DEC",
)  # fmt: skip - a table is read by its rows
_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_DESCRIPTORS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY: Final = "@every "
_ITEM: Final = re.compile(r"(?:([*?])|([0-9A-Za-z]+)(?:-([0-9A-Za-z]+))?)(?:/([0-9]{1,18}))?")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_WORDS: Final = re.compile(r"\S+", re.ASCII)


@attrs.frozen
class _Field:
    name: str
    low: int
    high: int
    names: dict[str, int]


_FIELDS: Final = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, dict(zip(_MONTHS, count(1), strict=False))),
    _Field("day of week", 0, 6, dict(zip(_DAYS, count(), strict=False))),
)


@attrs.frozen
class Crontab:
    """A schedule by the calendar.

    Attributes:
        spec: the spec as it was given, without its zone.
        zone: whose wall clock it is compared with.
    """

    spec: str
    zone: tzinfo
    _plain: str = attrs.field(eq=False, repr=False)
    """The fields in the words that cronsim and cron have in common."""

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first time after `moment` that matches, in UTC.

        In its own zone it would be a trap: Python compares the two times of a
        repeated hour by the wall, and finds them equal to nothing in other zones.
        None if there is none in this calendar year and the five that follow.

        Raises:
            InvalidOptionError: `moment` has no time zone.
        """
        _check_aware(moment)
        try:
            return self._search(moment.astimezone(UTC))
        except OverflowError:
            return None  # the calendar ends before

    def _search(self, after: datetime) -> datetime | None:
        """Search one span of constant offset after the other."""
        offset = self._offset(after)
        last_year = min((after + offset).year + _YEARS, MAXYEAR - 1)
        while True:
            wall = self._first_on_the_wall((after + offset).replace(tzinfo=None))
            # What is too far away is out of the question, whatever the offset.
            if wall is None or wall.year > last_year:
                wall = datetime(last_year + 1, 1, 2)  # noqa: DTZ001 - on the wall
            found = wall.replace(tzinfo=UTC) - offset
            change = self._first_change(after, found, offset)
            if change is None:
                return found if wall.year <= last_year else None
            offset = self._offset(change)
            after = change - _TICK

    def _first_on_the_wall(self, wall: datetime) -> datetime | None:
        try:
            return next(CronSim(self._plain, wall), None)
        except CronSimError:
            return None  # a day that none of the months has

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self.zone).utcoffset() or timedelta()

    def _first_change(self, after: datetime, until: datetime, offset: timedelta) -> datetime | None:
        """Return the first whole second after `after`, and by `until`, with another offset."""
        same = after.replace(microsecond=0)
        while same < until:
            other = min(same + _STRIDE, until)
            if self._offset(other) == offset:
                same = other
                continue
            while other - same > _SECOND:
                middle = same + (other - same) // _SECOND // 2 * _SECOND
                if self._offset(middle) == offset:
                    same = middle
                else:
                    other = middle
            return other
        return None


@attrs.frozen
class Every:
    """A schedule that is due again some time from now.

    Attributes:
        spec: the spec as it was given, without its zone.
        interval: whole seconds, at least one.
    """

    spec: str
    interval: timedelta

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the full second at or before `moment`, plus the interval, in UTC.

        None if that is past the year 9999.

        Raises:
            InvalidOptionError: `moment` has no time zone.
        """
        _check_aware(moment)
        try:
            return moment.astimezone(UTC).replace(microsecond=0) + self.interval
        except OverflowError:
            return None


Schedule: TypeAlias = Crontab | Every


def parse_schedule(spec: str, *, zone: tzinfo = UTC) -> Schedule:
    """Read a cron spec.

    Args:
        spec: as described at the head of this module.
        zone: whose wall clock counts, if the spec names no zone.

    Raises:
        InvalidCronError: it cannot be read; `field` says where.
        TypeError: it is not a `str`.
    """
    if not isinstance(spec, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"a cron spec is a str, not {type(spec).__name__}")
    if not isinstance(zone, tzinfo):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"a zone is a tzinfo, not {type(zone).__name__}")
    text = spec
    if spec.startswith(("TZ=", "CRON_TZ=")):
        prefix, space, rest = spec.partition(" ")
        if not space:
            raise InvalidCronError(spec, "fields", "nothing follows the zone")
        zone = _read_zone(spec, prefix.partition("=")[2])
        text = rest.strip(" ")
    if text.startswith(_EVERY):
        return Every(text, _read_interval(spec, text.removeprefix(_EVERY)))
    if text.startswith("@") and text not in _DESCRIPTORS:
        known = ", ".join(_DESCRIPTORS)
        raise InvalidCronError(spec, "descriptor", f"give one of {known}, or @every 1h30m")
    words = _WORDS.findall(_DESCRIPTORS.get(text, text))
    if len(words) != len(_FIELDS):
        raise InvalidCronError(
            spec, "fields", f"give minute, hour, day of month, month, day of week, not {len(words)}"
        )
    parts = [_read_field(spec, field, word) for field, word in zip(_FIELDS, words, strict=True)]
    return Crontab(text, zone, " ".join(parts))


def _read_zone(spec: str, name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidCronError(
            spec, "time zone", f"{name!r} is not known here: give a name such as Europe/Paris"
        ) from error


def _read_interval(spec: str, text: str) -> timedelta:
    try:
        nanoseconds = parse_duration(text)
    except ValueError as error:
        raise InvalidCronError(spec, "duration", str(error)) from error
    if nanoseconds <= 0:
        raise InvalidCronError(spec, "duration", "give one above zero")
    return max(_SECOND, timedelta(seconds=nanoseconds // 1_000_000_000))


def _read_field(spec: str, field: _Field, word: str) -> str:
    """Return a field as ``*`` or a list of numbers."""
    values: set[int] = set()
    has_star = False
    for item in word.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise InvalidCronError(
                spec, field.name, f"{item!r} is no number, range or step such as 1, 1-5 or */2"
            )
        star, first, last, step_text = match.groups()
        step = int(step_text or "1")
        if step == 0:
            raise InvalidCronError(spec, field.name, f"the step of {item!r} is 0: give 1 or more")
        if star:
            low, high = field.low, field.high
            has_star = has_star or step == 1
        else:
            low = _read_value(spec, field, first)
            high = _read_value(spec, field, last) if last else field.high if step_text else low
        if low > high:
            raise InvalidCronError(spec, field.name, f"{item!r} ends before it begins")
        values.update(range(low, high + 1, step))
    return "*" if has_star else ",".join(str(value) for value in sorted(values))


def _read_value(spec: str, field: _Field, text: str) -> int:
    named = field.names.get(text.upper())
    if named is not None:
        return named
    if _NUMBER.fullmatch(text) is None:
        known = f", or {', '.join(field.names)}" if field.names else ""
        raise InvalidCronError(spec, field.name, f"{text!r} is no number{known}")
    value = int(text)
    if not field.low <= value <= field.high:
        raise InvalidCronError(spec, field.name, f"{value} is not from {field.low} to {field.high}")
    return value


def _check_aware(moment: datetime) -> None:
    if moment.utcoffset() is None:
        raise InvalidOptionError(
            f"{moment!r} has no time zone: give an aware datetime, such as datetime.now(UTC)"
        )
