"""A rate limiter that a whole fleet shares: so many calls in each window, and no more.

Run it with ``python -m examples.rmap.limiter``. Each window is a key that counts the
calls; the server counts, so no two processes take the same place. A map with an expiry
would lose all windows at once; here whoever opens a window deletes the one before.
"""

import time

import attrs
import trio

import terzetto
from terzetto import rmap
from terzetto.redis import Redis


@attrs.frozen
class Limiter:
    """At most `limit` calls in each window of `seconds`, over all who join `counts`."""

    counts: rmap.Map
    limit: int
    seconds: float

    async def try_acquire(self, now: float | None = None) -> bool:
        """Take a place in the current window; return whether there was one."""
        window = int((time.time() if now is None else now) / self.seconds)
        # A local read is enough to refuse once the window is full: counts only grow.
        if int(self.counts.get(str(window), "0")) >= self.limit:
            return False
        taken = await self.counts.increment(str(window))
        if taken == 1:
            await self.counts.delete(str(window - 1))
        return taken <= self.limit


async def main() -> None:
    """Let four members of a fleet call as fast as they can, in two windows."""
    granted: dict[tuple[int, str], int] = {}

    async def call(name: str, redis: Redis, now: float) -> None:
        async with rmap.join("limits", redis) as counts:
            limiter = Limiter(counts, limit=10, seconds=60)
            for _ in range(20):
                if await limiter.try_acquire(now):
                    granted[int(now), name] = granted.get((int(now), name), 0) + 1

    async with terzetto.connect("embedded://") as redis:
        for now in (0.0, 60.0):
            async with trio.open_nursery() as nursery:
                for name in ("a", "b", "c", "d"):
                    nursery.start_soon(call, name, redis, now)
            total = sum(count for (window, _), count in granted.items() if window == int(now))
            print(f"window at {now:g} s: {total} of 80 calls granted")
        async with rmap.join("limits", redis) as counts:
            print("windows kept:", list(counts))


if __name__ == "__main__":
    trio.run(main)
