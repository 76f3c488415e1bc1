"""What the pool calls its maps and streams in Redis, and how it adds events to streams. Pure."""

from functools import lru_cache

from terzetto.pool._names import STREAM_MAX_LEN, Names
from terzetto.redis import Arg
from terzetto.rmap import content_key as make_content_key
from terzetto.rmap import updates_channel as make_updates_channel
from terzetto.streaming import stream_key as make_stream_key

# A script's call names a dozen keys, and to make one is to check the name.
content_key = lru_cache(1024)(make_content_key)
updates_channel = lru_cache(1024)(make_updates_channel)
stream_key = lru_cache(1024)(make_stream_key)


def own_key(names: Names, what: str) -> str:
    """Return a key that only nodes of ours know."""
    return f"terzetto:pool:{names.pool}:{what}"


def add_if_exists(stream: str, name: str, body: bytes, topic: str = "") -> tuple[Arg, ...]:
    """Return the command that adds an event to a node's or worker's stream, if it is there."""
    trimmed = ("MAXLEN", "~", STREAM_MAX_LEN)
    about = ("t", topic) if topic else ()
    return ("XADD", stream_key(stream), "NOMKSTREAM", *trimmed, "*", "n", name, "p", body, *about)
