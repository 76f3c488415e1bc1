"""Where one command or reply ends in a stream of Redis's protocol: frames, as they were sent.

Pure. The proxy needs the bytes themselves, to pass them on unchanged; a parser
gives values and keeps to itself how many bytes they took.
"""

from collections.abc import Sequence

import attrs

_BULKS = b"$!="
_LISTS = b"*~>"
_PAIRS = b"%"
_ATTRIBUTE = b"|"  # comes before the value that it belongs to
PUSH = b">"


@attrs.define
class FrameSplitter:
    """Cuts a stream into frames: RESP2, RESP3, and commands in a line of plain text."""

    _buffer: bytearray = attrs.field(factory=bytearray, init=False)
    _position: int = attrs.field(default=0, init=False)  # where the next value begins
    _missing: int = attrs.field(default=1, init=False)  # values that the frame still lacks

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return the frames that are now complete."""
        self._buffer += data
        frames: list[bytes] = []
        while self._take_value():
            if self._missing == 0:
                frames.append(bytes(self._buffer[: self._position]))
                del self._buffer[: self._position]
                self._position, self._missing = 0, 1
        return frames

    def _take_value(self) -> bool:
        """Go past the next value, or the head of the next list; False if it isn't here yet."""
        end = self._buffer.find(b"\r\n", self._position)
        if end < 0:
            return False
        kind = bytes(self._buffer[self._position : self._position + 1])
        count = _count(bytes(self._buffer[self._position + 1 : end]))
        end += 2
        more = 0
        if kind in _BULKS and kind:
            if count >= 0:
                end += count + 2
            if end > len(self._buffer):
                return False
        elif kind in _LISTS and kind:
            more = max(count, 0)
        elif kind == _PAIRS:
            more = 2 * max(count, 0)
        elif kind == _ATTRIBUTE:
            more = 2 * max(count, 0) + 1
        self._position = end
        self._missing += more - 1
        return True


def _count(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        return 0


def words_of(frame: bytes) -> Sequence[bytes]:
    """Return the words of a command, given its frame."""
    if not frame.startswith(b"*"):
        return frame.split()
    words: list[bytes] = []
    position = frame.index(b"\r\n") + 2
    while (end := frame.find(b"\r\n", position)) >= 0:
        length = _count(frame[position + 1 : end])
        words.append(frame[end + 2 : end + 2 + length])
        position = end + 2 + length + 2
    return words
