"""The arithmetic of claims: when an entry may be taken over, and who is alive.

Pure; all durations are seconds, all times are those of one monotonic clock.

An entry that a sink delivered belongs to one consumer until it is acknowledged.
Its idle time runs on the server. At `grace` seconds any instance may claim it,
so everything here is a fraction of the grace period: a holder renews before half
of it, looks for idle entries a few times in it, and takes a peer for dead when its
keep-alive has not changed for two of them. What others wrote as a wall-clock
time is only compared for a change, so clocks need not agree.
"""

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from math import ceil
from typing import Final

import attrs

HANDED_BACK_MS: Final = 24 * 3600 * 1000
"""The idle time of an entry that is free for all at once; over any grace period in use."""

LAPSE: Final = 0.9
"""The part of a grace period after which an unrenewed claim is taken for lost.

It is counted from the reply, the server counts from the delivery a little before."""

# A claim is renewed in the first round after 0.4 of the grace period, so it is 0.64
# old at most when a taker takes it; a round later, at 0.88, it is renewed again.
_RENEWAL: Final = 0.4
_CLAIM_INTERVAL: Final = 0.2
_LONGEST_CLAIM_INTERVAL: Final = 0.5  # seconds
_DUE_STEP: Final = 0.005  # seconds
_MILLISECOND: Final = 0.001  # the server counts idle time in whole ones
_MAX_EXPONENT: Final = 30  # 2**k must not overflow a float, however often an event came back


def milliseconds(seconds: float) -> int:
    """Return `seconds` in whole milliseconds, at least 1."""
    return max(1, round(seconds * 1000))


def claim_interval(grace: float) -> float:
    """Return how long an instance waits between two looks for idle entries."""
    return min(_LONGEST_CLAIM_INTERVAL, grace * _CLAIM_INTERVAL)


def keepalive_interval(grace: float) -> float:
    """Return how often a consumer shows that it lives; peers allow two grace periods."""
    return grace / 2


def needs_renewal(since: float, now: float, grace: float) -> bool:
    """Tell whether a claim made or renewed at `since` should be renewed at `now`."""
    return now - since >= grace * _RENEWAL


def retry_delay(deliveries: int, grace: float, base: float) -> float:
    """Return how long a failed event rests before it comes again.

    It doubles with each delivery from `base` and ends at the grace period, as an
    entry is free for everybody from then on.
    """
    return min(grace, base * 2.0 ** min(max(deliveries - 1, 0), _MAX_EXPONENT))


def idle_for_retry_ms(deliveries: int, grace: float, base: float) -> int:
    """Return the idle time, in milliseconds, that makes an entry claimable after `retry_delay`."""
    return max(0, round((grace - retry_delay(deliveries, grace, base)) * 1000))


@attrs.define
class Dues:
    """When the events that rest can be claimed.

    Times within a few milliseconds of each other are one: however many events
    rest, there are no more looks for them than that.
    """

    _steps: list[int] = attrs.field(factory=list[int], init=False)  # a heap
    _known: set[int] = attrs.field(factory=set[int], init=False)

    @property
    def next(self) -> float:
        """The first of the times that are still to come; infinite if there is none."""
        return self._steps[0] * _DUE_STEP if self._steps else float("inf")

    def add(self, at: float) -> None:
        """Note a time; the look is a little after it, never before."""
        step = ceil((at + _MILLISECOND) / _DUE_STEP)
        if step not in self._known:
            self._known.add(step)
            heappush(self._steps, step)

    def reach(self, now: float) -> None:
        """Forget the times up to `now`."""
        while self.next <= now:
            self._known.remove(heappop(self._steps))


@attrs.define
class _Seen:
    value: bytes | None
    since: float


@attrs.define
class Liveness:
    """Which consumers are alive, by the changes of their keep-alives that we saw.

    A consumer is dead when its entry has not changed for two grace periods of
    ours, counted from the first look at it. A peer with a wrong clock is thus
    judged like any other, and after an outage everybody has the time to come back.
    """

    grace: float
    _seen: dict[str, _Seen] = attrs.field(factory=dict[str, _Seen], init=False)

    def observe(self, consumers: Iterable[str], values: Mapping[str, bytes], now: float) -> None:
        """Note the keep-alives of `consumers` as they are at `now`; forget all others."""
        seen: dict[str, _Seen] = {}
        for consumer in consumers:
            value = values.get(consumer)
            known = self._seen.get(consumer)
            if known is None or known.value != value:
                known = _Seen(value, now)
            seen[consumer] = known
        self._seen = seen

    def dead(self, now: float, *, periods: int = 2) -> list[str]:
        """Return the consumers that have been silent for so many grace periods."""
        limit = periods * self.grace
        return [name for name, seen in self._seen.items() if now - seen.since >= limit]

    def forgive(self, now: float) -> None:
        """Give everybody two more grace periods: Redis was away, and nobody could write."""
        for seen in self._seen.values():
            seen.since = now
