"""How far the server's clock is ahead of ours; asked by `Redis.server_time_offset`."""

import time
from collections.abc import Awaitable, Callable

from terzetto.redis._wire import Reply


async def measure_offset(execute: Callable[[str], Awaitable[Reply]], samples: int) -> float:
    """Return by how many seconds the server's clock is ahead of `time.time()` here.

    The sample with the shortest way counts; it is right to half its round trip.
    """
    found: list[tuple[float, float]] = []
    for _ in range(max(1, samples)):
        before = time.time()
        seconds, microseconds = await execute("TIME")
        after = time.time()
        offset = int(seconds) + int(microseconds) / 1e6 - (before + after) / 2
        found.append((after - before, offset))
    return min(found)[1]
