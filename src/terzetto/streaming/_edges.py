"""Reading what a stream holds, and turning a start position into a cursor.

Called when a reader opens a stream, and by its loop where it suspects a gap.
"""

from collections.abc import Sequence
from functools import partial

from terzetto.redis import Arg, Redis, Reply
from terzetto.streaming._gap import Cursor, Edges
from terzetto.streaming._positions import ZERO, Start, after_start
from terzetto.streaming._retry import insist
from terzetto.streaming._scripts import EDGES


async def read_edges(redis: Redis, key: str) -> Edges:
    """Return what the stream at `key` holds; asks again when the link is lost meanwhile.

    Raises:
        redis.exceptions.RedisError: the server's error, such as a key that is no stream.
    """
    return edges_of(await insist(partial(redis.run_script, EDGES, keys=[key])))


def edges_command(key: str) -> Sequence[Arg]:
    """Return the command whose reply `edges_of` reads; the server may not know the script yet."""
    return ("EVALSHA", EDGES.sha, 1, key)


def edges_of(reply: Reply) -> Edges:
    """Return what a reply of the script says."""
    exists, first, last, added, length = reply
    return Edges(
        exists=bool(exists),
        first_id=str(first, "ascii"),
        last_id=str(last, "ascii"),
        added=added,
        length=length,
    )


async def open_cursor(redis: Redis, stream: str, key: str, start: Start) -> Cursor:
    """Return the cursor that `start` means at this moment.

    The newest position becomes the last id that the stream ever made, so that
    nothing that is added from now on is missed.

    Raises:
        redis.exceptions.RedisError: as for `read_edges`.
    """
    after = after_start(start)
    edges = await read_edges(redis, key)
    if after is None:
        return Cursor(
            stream=stream, last_id=edges.last_id, number=edges.added, existed=edges.exists
        )
    if after == ZERO:
        return Cursor(stream=stream, last_id=ZERO, number=edges.added - edges.length)
    return Cursor(stream=stream, last_id=after)
