"""Which worker a key belongs to: the ring that Go and Python share.

Pure. A key's bytes are hashed with CRC-64/XZ, which is what Go's standard
library calls ECMA, and a jump consistent hash picks one of the workers, sorted
by creation time. Every node must come to the same answer from the same
workers, so ties in time are settled by the id.
"""

from collections.abc import Sequence

import attrs
import jump
from fastcrc import crc64

from terzetto._shared._encoding import encode_text


@attrs.frozen(order=True)
class Member:
    """A worker on the ring; members sort as the ring wants them."""

    created_ns: int
    worker_id: str


def key_hash(key: str) -> int:
    """Return the 64-bit hash of a job's key."""
    return crc64.xz(encode_text(key))


def place(key: str, ring: Sequence[Member]) -> str | None:
    """Return the id of the worker that `key` belongs to; None if the ring is empty.

    Args:
        key: the job's key.
        ring: the active workers, sorted.
    """
    if not ring:
        return None
    return ring[jump.hash(key_hash(key), len(ring))].worker_id
