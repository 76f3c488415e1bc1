"""Commands to bytes, and what replies are. Pure: no trio, no socket.

hiredis packs commands. What it refuses (a `bytearray`, a subclass, a str with
surrogate escapes) is brought into a form that it takes, by a slower road.
Replies are parsed in `_reader.py`, and their bytes counted in `_link.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

import hiredis

from terzetto.errors import InvalidPayloadError
from terzetto.redis._errors import ReplyTooLongError

Arg: TypeAlias = bytes | str | int | float
"""What a command may be made of. A str is encoded as UTF-8 with surrogateescape."""

Reply: TypeAlias = Any
"""A RESP3 reply: bytes, int, float, bool, None, or a list or dict of these; a set comes as a list.

Each command has a shape of its own, which its caller knows.
"""

NEED_MORE: Final = object()
"""What a reader's `gets` returns while a reply is not complete."""

Push = hiredis.PushNotification

pack_common = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)
"""Packs a command of bytes, str, int and float; else raises TypeError or UnicodeEncodeError."""


_LONG: Final = 6  # arguments: fewer are packed sooner than looked up
_MOST_HEADS: Final = 1000  # heads are few; a caller who makes them up must not fill the memory
_LONGEST_HEAD: Final = 1000  # bytes
_EMPTY: Final = b"$0\r\n\r\n"
_heads: dict[tuple[Any, ...], bytes] = {}
_head_of = _heads.get


def pack_often(args: tuple[Any, ...]) -> bytes:
    """Pack as `pack_common` does, and what a program's long commands open with only once.

    An `XADD` names the same stream and fields again and again, and ends with what is new.
    Heads of text only are kept, for an int, a float and a bool can be equal; text is not
    equal to anything else.
    """
    if len(args) < _LONG:
        return pack_common(args)
    first, last = args[:-1], args[-1]
    head = _head_of(first)
    if head is not None:
        end = last.encode() if type(last) is str else last
        if type(end) is bytes:
            return b"%b$%d\r\n%b\r\n" % (head, len(end), end)
    elif len(_heads) < _MOST_HEADS and all(type(arg) is str for arg in first):
        opening = pack_common((*first, b""))[: -len(_EMPTY)]
        if len(opening) < _LONGEST_HEAD:
            _heads[first] = opening
    return pack_common(args)


def drop_push(_: list[Reply]) -> bool:
    """Drop what the server says unasked, on a link that has subscribed to nothing."""
    return True


def bounded(size: int, limit: int) -> int:
    """Return the bytes that have come of a reply that is not whole yet, if they may be so many.

    Raises:
        ReplyTooLongError: they are more than `limit`.
    """
    if size > limit:
        raise ReplyTooLongError(
            f"a reply is longer than {limit} bytes: ask for less, or raise max_reply_bytes"
        )
    return size


def pack(args: tuple[Arg, ...]) -> bytes:
    """Return the bytes of one command.

    Raises:
        InvalidPayloadError: an argument is neither bytes, str, int nor float, or there is none.
    """
    try:
        data = pack_common(args)
    except (TypeError, UnicodeEncodeError):
        data = pack_common(tuple(plain(arg) for arg in args))
    if not args:
        raise nameless()
    return data


def nameless() -> InvalidPayloadError:
    """Return the error of a command without any word."""
    return InvalidPayloadError("a command without a name: give at least one argument")


def pack_many(commands: Sequence[Sequence[Arg]]) -> bytes:
    """Return the bytes of several commands, in order."""
    return b"".join([pack(tuple(command)) for command in commands])


def as_text(arg: Arg) -> str:
    """Return an argument as text, to compare it with words of commands."""
    if isinstance(arg, (bytes, bytearray, memoryview)):
        return bytes(arg).decode("latin-1")
    return str(arg)


def plain(arg: object) -> bytes | int | float:
    """Return `arg` in a form that hiredis packs.

    Raises:
        InvalidPayloadError: it has no such form.
    """
    if isinstance(arg, str):
        try:
            return str.encode(arg, "utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise InvalidPayloadError(
                f"a text has {arg[error.start]!r} at position {error.start}: leave out surrogates"
                " that stand for no byte"
            ) from error
    if isinstance(arg, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", arg))
    if isinstance(arg, int) and not isinstance(arg, bool):
        return int(arg)
    if isinstance(arg, float):
        return float(arg)
    raise InvalidPayloadError(
        f"a {type(arg).__name__} cannot be sent to Redis: make it bytes, str, int or float"
    )
