"""The keys of streams and sinks, and the checks of the names they are built from.

Pure. Every key of this room is built here and nowhere else; the layout is the
one that Pulse's Go side reads and writes.
"""

from terzetto._shared._names import MAX_NAME_LENGTH, check_name
from terzetto.errors import InvalidNameError

STREAM_PREFIX = "pulse:stream:"
CONSUMERS_PREFIX = "stream:"
CONSUMERS_SUFFIX = ":sinks"
KEEPALIVE_PREFIX = "sink:"
KEEPALIVE_SUFFIX = ":keepalive"
DEAD_SUFFIX = ":dead"

# The maps of a stream and of a sink carry the name inside a longer one, which
# has to be valid itself.
MAX_STREAM_NAME = MAX_NAME_LENGTH - len(CONSUMERS_PREFIX) - len(CONSUMERS_SUFFIX)
MAX_SINK_NAME = MAX_NAME_LENGTH - len(KEEPALIVE_PREFIX) - len(KEEPALIVE_SUFFIX)


def stream_key(name: str) -> str:
    """Return the Redis key of the stream `name`."""
    return f"{STREAM_PREFIX}{name}"


def consumers_map(stream: str) -> str:
    """Return the name of the replicated map that lists the consumers of `stream`, by sink."""
    return f"{CONSUMERS_PREFIX}{stream}{CONSUMERS_SUFFIX}"


def keepalive_map(sink: str) -> str:
    """Return the name of the replicated map with the keep-alive of each consumer of `sink`."""
    return f"{KEEPALIVE_PREFIX}{sink}{KEEPALIVE_SUFFIX}"


def dead_stream(stream: str) -> str:
    """Return the name of the stream that takes the dead letters of `stream`."""
    return f"{stream}{DEAD_SUFFIX}"


def check_stream_name(name: str) -> str:
    """Return `name` if a stream can have it.

    Raises:
        InvalidNameError: it is empty, over 499 characters, or has a forbidden character.
    """
    return check_name("stream", name, limit=MAX_STREAM_NAME)


def check_sink_name(name: str) -> str:
    """Return `name` if a sink can have it; sink names are keys of a map, too.

    Raises:
        InvalidNameError: it is empty, over 497 characters, or has a forbidden
            character, of which ``=`` is one here.
    """
    check_name("sink", name, limit=MAX_SINK_NAME)
    if "=" in name:
        raise InvalidNameError(
            f"the name of a sink has '=' at position {name.index('=')}: leave it out"
        )
    return name


def check_event_name(name: str) -> str:
    """Return `name` if an event can have it: any text but the empty one.

    Raises:
        InvalidNameError: it is empty.
        TypeError: it is not a `str`.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"the name of an event is a str, not {type(name).__name__}")
    if not name:
        raise InvalidNameError("the name of an event may not be empty: give it a character")
    return name
