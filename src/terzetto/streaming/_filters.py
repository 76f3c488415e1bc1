"""Which events of a stream a reader or sink hands on.

Pure. Filters run in the client, after reading: a topic to equal, a pattern to
find in the topic (RE2, as on Go's side, so that both pick the same events and no
pattern can take more than linear time), and a function of the event.
"""

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias, cast

import attrs
import re2  # type: ignore[import-untyped]  # google-re2 has no types; the casts below name what is used

from terzetto._shared._encoding import decode_text, encode_text
from terzetto.errors import InvalidOptionError
from terzetto.streaming._event import Event

Matcher: TypeAlias = Callable[[Event], bool]
"""A function of the event that tells whether it is wanted."""

# Topics are few and come again and again; a verdict remembered costs a tenth of
# a search. The bound keeps topics made per event from piling up.
_MAX_REMEMBERED: Final = 1024


class InvalidPatternError(InvalidOptionError):
    """A topic pattern is no RE2 expression.

    Attributes:
        pattern: the expression.
        position: where the fault is in it, in characters from 0.
    """

    def __init__(self, pattern: str, position: int, fault: str) -> None:
        super().__init__(
            f"the topic pattern {pattern!r} is wrong at position {position}: {fault}; "
            "write it in RE2's syntax, which has no look-around and no back-references"
        )
        self.pattern = pattern
        self.position = position


class _Pattern(Protocol):
    def search(self, text: bytes, /) -> object | None: ...


class _Re2(Protocol):
    """The part of google-re2 that is used; the package brings no types."""

    error: type[Exception]

    def compile(self, pattern: bytes, options: object) -> _Pattern: ...


_re2 = cast("_Re2", re2)


def _compile(pattern: str) -> _Pattern:
    options = re2.Options()
    options.log_errors = False
    try:
        data = encode_text(pattern)
    except UnicodeEncodeError as error:
        reason = "a surrogate that stands for no byte"
        raise InvalidPatternError(pattern, error.start, reason) from None
    try:
        return _re2.compile(data, options)
    except _re2.error as error:
        text = cast("bytes", error.args[0])
        fault, colon, fragment = text.rpartition(b": ")
        if not colon:  # RE2 says no more than what is wrong: it is at the end
            fault, fragment = text, data
        # RE2 gives the piece that it stumbled over; where that is the whole
        # expression (a parenthesis left open) the fault is at its end.
        at = len(data) if fragment == data and len(data) > 1 else max(data.find(fragment), 0)
        raise InvalidPatternError(
            pattern, len(decode_text(data[:at])), decode_text(fault)
        ) from None


@attrs.define
class _TopicPattern:
    pattern: _Pattern
    verdicts: dict[str, bool] = attrs.Factory(dict[str, bool])

    def __call__(self, event: Event) -> bool:
        topic = event.topic
        verdict = self.verdicts.get(topic)
        if verdict is None:
            verdict = self.pattern.search(encode_text(topic)) is not None
            if len(self.verdicts) < _MAX_REMEMBERED:
                self.verdicts[topic] = verdict
        return verdict


def make_filter(
    topic: str | None, topic_pattern: str | None, matcher: Matcher | None
) -> Matcher | None:
    """Return the function that picks events, or None when all are wanted.

    An event has to pass the topic and the matcher. With both a topic and a
    pattern the topic alone decides. An event without a topic has the topic ``""``.

    Raises:
        InvalidPatternError: the pattern is no RE2 expression; it is checked even
            when the topic makes it idle.
        TypeError: an argument has the wrong type.
    """
    by_topic: Matcher | None = None
    if topic_pattern is not None:
        if not isinstance(topic_pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(f"a topic pattern is a str, not {type(topic_pattern).__name__}")
        by_topic = _TopicPattern(_compile(topic_pattern))
    if topic is not None:
        if not isinstance(topic, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(f"a topic is a str, not {type(topic).__name__}")
        wanted = topic

        def equals(event: Event) -> bool:
            return event.topic == wanted

        by_topic = equals
    if matcher is None:
        return by_topic
    if not callable(matcher):  # pyright: ignore[reportUnnecessaryComparison] - callers may be untyped
        raise TypeError(f"a matcher is a function of the event, not {type(matcher).__name__}")
    if by_topic is None:
        return matcher
    first, second = by_topic, matcher

    def both(event: Event) -> bool:
        return first(event) and second(event)

    return both
