"""The work that several contenders share, so that all do the same."""

from collections.abc import Collection
from statistics import quantiles

TASKS = 100

# What follows the key of an XADD: an event of 200 bytes on a stream capped at about 1,000.
EVENT = ("MAXLEN", "~", "1000", "*", "n", "user.created", "p", "x" * 200)


def percentiles_ms(delays: Collection[float]) -> dict[str, float]:
    """Return the median and the 99th percentile of `delays` (seconds) in milliseconds."""
    cuts = quantiles(delays, n=100)
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}
