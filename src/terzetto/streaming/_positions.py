"""Entry ids and start positions.

Pure. An id is ``<unix ms>-<sequence>``, both unsigned 64-bit numbers; the
server makes them, so their time is the server's clock. Positions on the wire
are exclusive ("after this id"); what the public face promises as "on or after"
is turned into the id before.
"""

import enum
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from terzetto.errors import InvalidOptionError

_MAX: Final = 2**64 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

ZERO: Final = "0-0"


class Position(enum.Enum):
    """A place in a stream that has no id: its two ends."""

    OLDEST = "oldest"
    NEWEST = "newest"


OLDEST: Final = Position.OLDEST
"""Start before the first event that the stream still has."""

NEWEST: Final = Position.NEWEST
"""Start after the last event that the stream has at this moment."""

Start: TypeAlias = Position | str | datetime
"""Where to begin: an end of the stream, after an id, or on or after an aware datetime."""


def parse_id(text: str) -> tuple[int, int]:
    """Return the two numbers of an id; a missing sequence is 0.

    Raises:
        InvalidOptionError: `text` is not ``<ms>`` or ``<ms>-<sequence>``, or a
            number is over 64 bits.
        TypeError: it is no str.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"an event id is a str, not {type(text).__name__}")
    head, dash, tail = text.partition("-")
    parts = (head, tail) if dash else (head,)
    for part in parts:
        if not (part.isascii() and part.isdigit()) or int(part) > _MAX:
            raise InvalidOptionError(
                f"{text!r} is not an event id: give <unix ms>-<sequence>, such as 1700000000000-0"
            )
    return int(head), int(tail) if dash else 0


def format_id(ms: int, sequence: int) -> str:
    """Return the id of these two numbers as text."""
    return f"{ms}-{sequence}"


def id_before(text: str) -> str:
    """Return the greatest id below `text`; there is none below ``0-0``, which stays."""
    ms, sequence = parse_id(text)
    if sequence:
        return format_id(ms, sequence - 1)
    if ms:
        return format_id(ms - 1, _MAX)
    return ZERO


def is_after(one: str, other: str) -> bool:
    """Tell whether id `one` is greater than id `other`."""
    return parse_id(one) > parse_id(other)


def latest(ids: Iterable[str]) -> str:
    """Return the greatest of `ids`, ``0-0`` if there are none."""
    return max(ids, key=parse_id, default=ZERO)


def created_at(event_id: str) -> datetime:
    """Return the time that the server gave to an id, in UTC.

    Ids beyond the year 9999, which a writer may choose, give the last moment
    that a datetime can hold.
    """
    try:
        return _EPOCH + parse_id(event_id)[0] * _MILLISECOND
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def after_start(start: Start) -> str | None:
    """Return the id after which `start` begins, or None for the newest event.

    A datetime begins with the first event of the millisecond that it falls
    in: the id before that one is returned. Times before 1970 begin at the
    oldest event, and times to come with the events that come then.

    Raises:
        InvalidOptionError: an id that is none, or a datetime without a time zone.
        TypeError: `start` is something else.
    """
    if start is Position.OLDEST:
        return ZERO
    if start is Position.NEWEST:
        return None
    if isinstance(start, str):
        return format_id(*parse_id(start))
    if isinstance(start, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        if start.tzinfo is None or start.utcoffset() is None:
            raise InvalidOptionError(
                f"the start {start.isoformat()} has no time zone: "
                "give an aware datetime, such as datetime.now(UTC)"
            )
        ms = (start - _EPOCH) // _MILLISECOND
        return id_before(format_id(ms, 0)) if ms > 0 else ZERO
    raise TypeError(
        f"a start is OLDEST, NEWEST, an id or an aware datetime, not {type(start).__name__}"
    )
