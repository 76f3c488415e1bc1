"""One logical queue over several slots of a cluster. Pure.

A queue lives in one slot, and so on one master. A partitioned queue is several
queues with names made from its own: the first is the queue itself, the others
have slots that are spread evenly from there. Names do not depend on how many
there are, so partitions can be added; to take some away, drain them first.

Go sees each partition as a queue of its own, and its producers know only the
first.
"""

import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from terzetto.errors import InvalidOptionError
from terzetto.tasks._keys import SLOTS, QueueKeys
from terzetto.tasks._queues import check_queue

_GOLDEN: Final = 10_126  # of the slots: multiples of it are spread evenly, however many there are
_NEAR: Final = 256  # slots that a partition may be away from its ideal place
_MOST: Final = 1024


@lru_cache(maxsize=1024)
def partition_names(queue: str, count: int) -> tuple[str, ...]:
    """Return the names of the queues that `queue` is spread over."""
    home = QueueKeys(queue).slot
    return (queue, *(_near(queue, k, (home + k * _GOLDEN) % SLOTS) for k in range(1, count)))


def _near(queue: str, number: int, ideal: int) -> str:
    """Return the name of a partition whose slot is near its ideal one."""
    attempt = 0
    while True:
        name = f"{queue}~{number}.{attempt}"
        away = (QueueKeys(name).slot - ideal) % SLOTS
        if min(away, SLOTS - away) <= _NEAR:
            return name
        attempt += 1


def partition_of(names: tuple[str, ...], key: bytes) -> str:
    """Return the partition for tasks with this key."""
    return names[zlib.crc32(key) % len(names)]


def check_partitions(partitions: Mapping[str, int]) -> dict[str, int]:
    """Return a copy of `partitions`.

    Raises:
        InvalidNameError: a queue cannot be called so.
        InvalidOptionError: a count is no whole number from 1 to 1024, or the name has a
            brace, so that its partitions would share their slot.
    """
    for queue, count in partitions.items():
        check_queue(queue)
        whole = isinstance(count, int) and not isinstance(count, bool)  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        if not whole or not 1 <= count <= _MOST:
            raise InvalidOptionError(f"queue {queue!r} in {count!r} partitions: give 1 to {_MOST}")
        if "}" in queue:
            raise InvalidOptionError(f"queue {queue!r} has a brace: its partitions share a slot")
    return dict(partitions)


def partitioned(queue: str, count: int, *, priority: int = 1) -> dict[str, int]:
    """Return all partitions of a queue with a priority, as a server's `queues` wants them.

    Raises:
        InvalidNameError, InvalidOptionError: as for a client's `partitions`.
    """
    check_partitions({queue: count})
    return dict.fromkeys(partition_names(queue, count), priority)
