"""Finding keys by pattern, over one server or all masters of a cluster.

For rooms that list what there is of their kind; never used on the road of a command.
"""

from collections.abc import AsyncIterator
from typing import Any, cast

from terzetto._shared._encoding import decode_text
from terzetto.redis._client import Redis

_STEP = 1000  # keys that the server looks at in one step


async def find_keys(
    redis: Redis, prefix: str, suffix: str = "", *, kind: str | None = None
) -> list[str]:
    """Return what stands between `prefix` and `suffix` in the keys that have both, sorted.

    The whole keyspace is walked with SCAN, in steps that hold up nobody; keys that
    come or go meanwhile may or may not be seen. Bytes that are not UTF-8 come back
    as surrogate escapes.

    Args:
        redis: the client; on a cluster all masters are walked.
        prefix: what the keys begin with, without wildcard characters.
        suffix: what they end with, likewise.
        kind: the type they have, as TYPE spells it: "hash", "stream" and so on.
    """
    found: set[str] = set()
    scan = cast("Any", redis).scan_iter  # redis-py's own, which has no types
    keys: AsyncIterator[bytes | str] = scan(match=f"{prefix}*{suffix}", count=_STEP, _type=kind)
    async for name in keys:
        text = name if isinstance(name, str) else decode_text(name)
        found.add(text[len(prefix) : len(text) - len(suffix)])
    return sorted(found)
