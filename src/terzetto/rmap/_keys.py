"""Where a map lives in Redis, and which keys it may hold. Pure.

Text is UTF-8 on the wire; bytes that are not UTF-8 are surrogate escapes in a
`str`, so every byte string has exactly one `str` and comes back unchanged.
Called by every module of this package, and by rooms that write maps from
scripts of their own.
"""

from terzetto._shared._names import check_name
from terzetto.errors import InvalidNameError, InvalidPayloadError

REVISION_FIELD = b"=rev"
KIND_FIELD = b"=kind"
PREFIX = "map:"
CONTENT_SUFFIX = ":content"


def content_key(name: str) -> str:
    """Return the key of the hash that holds map `name`.

    Raises:
        InvalidNameError: `name` cannot name a map.
    """
    return f"{PREFIX}{check_name('map', name)}{CONTENT_SUFFIX}"


def updates_channel(name: str) -> str:
    """Return the pub/sub channel on which the changes of map `name` are published.

    Raises:
        InvalidNameError: `name` cannot name a map.
    """
    return f"{PREFIX}{check_name('map', name)}:updates"


def encode_key(key: str) -> bytes:
    """Return the bytes of a key, or refuse a key that no map may hold.

    Raises:
        InvalidNameError: the key is empty or contains ``=``.
        InvalidPayloadError: it has a surrogate that stands for no byte.
        TypeError: it is not a `str`.
    """
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"the key of a map is a str, not {type(key).__name__}")
    if not key:
        raise InvalidNameError("a map's key may not be empty: give it a character")
    if "=" in key:
        raise InvalidNameError(
            f"the key {key!r} contains '=', which maps keep for their bookkeeping: leave it out"
        )
    return encode_text(key)


def encode_text(text: str) -> bytes:
    """Return the bytes that `text` stands for.

    Raises:
        InvalidPayloadError: it has a surrogate that stands for no byte.
    """
    # That of `_shared._encoding` inline, for speed, with an error of our own.
    try:
        return text.encode()  # in half the time of the other
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidPayloadError(
            f"{text[error.start : error.end]!r} stands for no byte: "
            "pass text that is Unicode, or bytes decoded with surrogateescape"
        ) from error
