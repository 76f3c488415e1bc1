"""The parser of replies: hiredis, guarded against what it would not survive well. Pure.

hiredis makes room for a list as soon as its head has come, however long the head
says it is: a dozen bytes would cost seconds and gigabytes. It gives attributes
(which no server sends unasked) as if they were replies, and so every later one to
the wrong caller. So heads of lists are looked at before hiredis sees them:
`_HEAD` finds what might be one, at the speed of a search; whether it is one, and
not a piece of a string, hiredis itself says: it has nothing left when it has been
fed all that stands before. What is found is rare, so that may be slow.

Links and greetings have one for each connection.
"""

import re
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import RedisError, ResponseError

from terzetto.redis._errors import ReplyError, ReplyTooLongError
from terzetto.redis._wire import NEED_MORE, Reply

# An attribute's head follows a line's end, or nothing: `|` is common in strings. For lists that
# would not do, since hiredis takes whatever two bytes end a string.
_ATTRIBUTE: Final = rb"\|(?:(?<=\n.)|(?<!..))(?:\d+|\Z)"
_HEAD: Final = re.compile(rb"(?s)[*%~>](?:\d{8,}|\d*\Z)|" + _ATTRIBUTE)
"""A head of a list of ten millions or more, or of an attribute, or one that is not whole yet."""

_LONG_HEADS: Final = tuple(
    (kind, re.compile(rb"\%b\d{8}" % kind)) for kind in (b"*", b">", b"%", b"~")
)
"""Long lists' heads for each first byte: searches that know it take a tenth of the time of one."""

_CUT_HEAD: Final = re.compile(rb"[*%~>]\d{0,7}\Z")
_MOST_CUT: Final = 8  # bytes of a head that may be one of a long list, and is not known to be

_SMALLEST: Final = 3  # bytes of the shortest reply
_HEADS: Final = b"*%~>|"
_FEW: Final = 500  # bytes: in so many it is quicker to look for all heads in one call

_BAR: Final = ord("|")
_CR: Final = ord("\r")
_LF: Final = ord("\n")
_MOST_DIGITS: Final = 19  # of a number that hiredis takes

_classify_error = cast(
    "Callable[[str], RedisError]",
    BaseParser.parse_error,  # pyright: ignore[reportUnknownMemberType] - redis-py leaves it untyped
)


def _parse_error(text: str) -> RedisError:
    """Return an error reply as redis-py's error; never raises, since hiredis might crash then.

    redis-py fails on texts that open as a known one does and go on otherwise ("MOVED there").
    """
    try:
        return _classify_error(text)
    except (ValueError, LookupError, TypeError):
        return ResponseError(text)


class ReplyReader:
    """A parser of RESP3.

    `gets` returns the next reply, or `NEED_MORE`. It is looked up anew after each
    `feed`. It raises `ReplyError` for bytes that are no reply, or more than may come, once
    the replies before them have been taken; and TypeError for a map with keys that are
    lists, as Python cannot have them; `take` raises `ReplyError` for those too. After an
    error it is of no use any more.
    """

    def __init__(self, max_bytes: int) -> None:
        """Take no list that cannot be within `max_bytes`."""
        self._hiredis = hiredis.Reader(
            protocolError=ReplyError, replyError=_parse_error, notEnoughData=NEED_MORE
        )
        self._max_bytes = max_bytes
        self._ready: deque[Reply] = deque()  # taken while feeding
        self._held = b""  # the beginning of a head, not fed yet
        self._error: ReplyError | None = None  # what comes after those
        self._at_line = True  # whether a line had ended before the next byte
        self.gets: Callable[[], Reply] = self._hiredis.gets

    def feed(self, buffer: bytes | bytearray, count: int) -> None:
        """Take the first `count` bytes of `buffer`."""
        if self._held or _may_have_head(buffer, count):
            self._feed_with_care(self._held + bytes(buffer[:count]))
        else:
            self._hiredis.feed(buffer, 0, count)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - takes any buffer
        self._at_line = buffer[count - 1] == _LF

    def take(self) -> Reply:
        """Return the next reply, or `NEED_MORE`; raises `ReplyError` for all that is none."""
        try:
            return self.gets()
        except TypeError as error:
            raise malformed(error) from error

    def _feed_with_care(self, data: bytes) -> None:
        at_line = self._at_line or bool(self._held)
        self._held, begin = b"", 0
        for head in _HEAD.finditer(data):
            if head.start() == 0 and data[:1] == b"|" and not at_line:
                continue
            self._hiredis.feed(data[begin : head.start()])
            begin = head.start()
            self._drain()
            if not self._hiredis.has_data():  # else it is a piece of a string
                self._error = self._error_of(head.group())
                if self._error is not None:
                    return
                if head.end() == len(data):
                    self._held, begin = head.group(), len(data)
        self._hiredis.feed(data[begin:])

    def _drain(self) -> None:
        try:
            while (reply := self._hiredis.gets()) is not NEED_MORE:
                self._ready.append(reply)
        except TypeError as error:
            raise malformed(error) from error
        self.gets = self._next_ready

    def _next_ready(self) -> Reply:
        if self._ready:
            return self._ready.popleft()
        if self._error is not None:
            raise self._error
        self.gets = self._hiredis.gets
        return self.gets()

    def _error_of(self, head: bytes) -> ReplyError | None:
        digits = head[1:].decode()
        if digits and head[:1] == b"|":
            return ReplyError("the server sent an attribute, which nobody asked for")
        if len(digits) > _MOST_DIGITS or int(digits or 0) * _SMALLEST > self._max_bytes:
            return ReplyTooLongError(
                f"a list has more parts than can be within {self._max_bytes} bytes: ask for less,"
                " or raise max_reply_bytes"
            )
        return None


def _may_have_head(buffer: bytes | bytearray, count: int) -> bool:
    if count <= _FEW:
        # Most replies are short and have no list but the one that they are, with one digit.
        begin = 3 if buffer[0] != _BAR and buffer.startswith(b"\r", 2, count) else 0
        rest = buffer[begin:count]
        if len(rest.translate(None, _HEADS)) == len(rest):
            return False
    for kind, head in _LONG_HEADS:
        begin = buffer.find(kind, 0, count)
        if 0 <= begin < count - 2 and buffer[begin + 2] == _CR:
            # A head of one digit, as most are. Often it is the only one: that saves a search.
            begin = buffer.find(kind, begin + 3, count)
        if begin >= 0 and head.search(buffer, begin, count):
            return True
    if buffer[count - 1] != _LF and _CUT_HEAD.search(buffer, max(0, count - _MOST_CUT), count):
        return True
    bar = buffer.find(b"|", 0, count)
    return bar == 0 or (bar > 0 and buffer.find(b"\n|", bar - 1, count) >= 0)


def malformed(error: Exception) -> ReplyError:
    """Return the error of a connection whose server said what cannot be understood."""
    return ReplyError(f"the server sent what cannot be understood ({error})")
