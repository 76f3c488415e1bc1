"""Checks of the names of maps, streams, sinks and pools, before Redis is touched.

The rule is that of the wire: 1 to 512 code points, without space, NUL or the
characters that have a meaning in Redis's patterns. Pure; used by every room
that turns a name into a key.
"""

from terzetto._shared._encoding import encode_text
from terzetto.errors import InvalidNameError

MAX_NAME_LENGTH = 512
_FORBIDDEN = frozenset(" \0*?[]")


def check_name(kind: str, name: str, *, limit: int = MAX_NAME_LENGTH) -> str:
    """Return `name` if it may name a `kind` (such as ``"stream"``).

    Args:
        kind: what the name is for; it appears in the error.
        name: the name; bytes that are not UTF-8 may be there as surrogate escapes.
        limit: the greatest length in code points; less than 512 where the room
            builds longer names out of this one.

    Raises:
        InvalidNameError: it is empty, too long, has a forbidden character, or cannot be
            written as UTF-8.
        TypeError: it is not a `str`.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"the name of a {kind} is a str, not {type(name).__name__}")
    if not name:
        raise InvalidNameError(f"the name of a {kind} may not be empty: give it a character")
    if len(name) > limit:
        raise InvalidNameError(
            f"the name of a {kind} has {len(name)} characters: shorten it to {limit}"
        )
    for position, character in enumerate(name):
        if character in _FORBIDDEN:
            raise InvalidNameError(
                f"the name of a {kind} has {character!r} at position {position}: "
                "leave out spaces, NUL and * ? [ ]"
            )
    try:
        encode_text(name)
    except UnicodeEncodeError as error:
        raise InvalidNameError(
            f"the name of a {kind} has {name[error.start]!r} at position {error.start}: "
            "leave out surrogates that stand for no byte"
        ) from error
    return name
