"""The clock that tasks are measured by: that of the server, estimated here.

Clients' clocks may differ, and may be set while they run; leases and due times
may not. So a client asks the server for its time now and then, and counts on by
a clock that nobody sets. Asked by the brokers.
"""

import time
from typing import Final, Protocol

import attrs

from terzetto.redis import Redis

_REFRESH: Final = 60.0  # seconds in which two clocks may drift apart
_SAMPLES: Final = 3


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Return the time in Unix seconds."""
        ...


@attrs.define
class ServerClock:
    """The server's time, right to about half a round trip."""

    redis: Redis
    _base: float = attrs.field(init=False, factory=lambda: time.time() - time.monotonic())
    _refresh_at: float = attrs.field(init=False, default=0.0)

    def now(self) -> float:
        """Return the server's time in Unix seconds; before the first `sync`, our own."""
        return self._base + time.monotonic()

    @property
    def is_stale(self) -> bool:
        """Whether it is time for `sync`."""
        return time.monotonic() >= self._refresh_at

    async def sync(self) -> None:
        """Ask the server for its time. Raises what the link raises."""
        self._refresh_at = time.monotonic() + _REFRESH  # one asks; the others go on
        try:
            offset = await self.redis.server_time_offset(samples=_SAMPLES)
        except BaseException:
            self._refresh_at = 0.0
            raise
        self._base = time.time() - time.monotonic() + offset
