"""The options that readers and sinks share, checked before Redis is touched. Pure."""

import math
from typing import Final

import attrs

from terzetto.errors import InvalidOptionError
from terzetto.streaming._filters import Matcher, make_filter
from terzetto.streaming._positions import NEWEST, Start, after_start

_MAX_SECONDS: Final = 10**9  # thirty years; more overflows in places that count milliseconds
_SHORTEST_GRACE: Final = 0.01  # seconds
_MAX_LENGTH: Final = 2**63 - 1
_MAX_COUNT: Final = 10**9  # servers take no more than 63 bits, and no process holds so many events


def _is_number(value: object) -> bool:
    """Tell whether `value` is a finite number; callers may be untyped."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_seconds(option: str, value: float, *, zero: bool = False) -> float:
    """Return `value` if it is a duration: finite and positive, or zero where that is allowed.

    Raises:
        InvalidOptionError: it is not.
    """
    if not _is_number(value) or value < 0 or value > _MAX_SECONDS or (not value and not zero):
        least = "0 or more" if zero else "more than 0"
        raise InvalidOptionError(
            f"{option} is {value!r}: give seconds, {least} and {_MAX_SECONDS} at most"
        )
    return value


def check_grace(option: str, value: float) -> float:
    """Return `value` if it is a grace period: loops look around a few times in it.

    Raises:
        InvalidOptionError: it is no duration, or below a hundredth of a second.
    """
    if check_seconds(option, value) < _SHORTEST_GRACE:
        raise InvalidOptionError(f"{option} is {value!r}: give {_SHORTEST_GRACE} seconds or more")
    return value


def check_count(option: str, value: int) -> int:
    """Return `value` if it is a whole number from 1 to a thousand million.

    Raises:
        InvalidOptionError: it is not.
    """
    if not _is_number(value) or value != int(value) or not 1 <= value <= _MAX_COUNT:
        raise InvalidOptionError(
            f"{option} is {value!r}: give a whole number from 1 to {_MAX_COUNT}"
        )
    return int(value)


def check_length(option: str, value: int) -> int:
    """Return `value` if it is a whole number from 0 on that servers can count.

    Raises:
        InvalidOptionError: it is not.
    """
    if not _is_number(value) or value != int(value) or not 0 <= value <= _MAX_LENGTH:
        raise InvalidOptionError(
            f"{option} is {value!r}: give a whole number up to {_MAX_LENGTH}, 0 for no bound"
        )
    return int(value)


def whole_seconds(option: str, value: float | None) -> int:
    """Return an expiry in whole seconds, at least 1, or 0 for none.

    Raises:
        InvalidOptionError: it is negative or not finite.
    """
    if value is None:
        return 0
    seconds = check_seconds(option, value, zero=True)
    return max(1, int(seconds)) if seconds else 0


@attrs.frozen(kw_only=True)
class ReadOptions:
    """How a reader or sink reads; checked when it is made.

    Attributes:
        start: where to begin.
        topic: the topic that an event must have.
        topic_pattern: an RE2 expression to find in the topic.
        matcher: a function of the event.
        block: how long one poll waits for events, in seconds; 0 waits for ever.
        max_polled: how many events one poll brings at most.
        buffer_size: how many events wait for a taker at most; one more of each stream
            where there are many.
        select: the filter that comes of the three, or None for all events.
    """

    start: Start = NEWEST
    topic: str | None = None
    topic_pattern: str | None = None
    matcher: Matcher | None = None
    block: float = 5.0
    max_polled: int = 1000
    buffer_size: int = 1000
    select: Matcher | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Check everything, and make the filter."""
        after_start(self.start)
        check_seconds("block", self.block, zero=True)
        check_count("max_polled", self.max_polled)
        check_count("buffer_size", self.buffer_size)
        chosen = make_filter(self.topic, self.topic_pattern, self.matcher)
        object.__setattr__(self, "select", chosen)

    @property
    def block_ms(self) -> int:
        """The wait of a poll as Redis takes it."""
        return max(1, round(self.block * 1000)) if self.block else 0
