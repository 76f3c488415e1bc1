"""What the contenders for work on maps share, and its arithmetic."""

import sys
from collections.abc import Mapping, Sequence
from statistics import quantiles
from time import perf_counter

from tests.bench.harness import Figures

KEYS = 100_000


class Sightings:
    """When a process saw each value of a key, which are numbers until the last, "end"."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def note(self, value: str) -> None:
        """Note that a value is seen now; at the last one print all, as `lags_of` takes them."""
        if value == "end":
            print(*self._lines, "end", sep="\n", flush=True)
            self._lines.clear()
        else:
            self._lines.append(f"{value} {perf_counter()}")


def lags_of(began: Sequence[float], done: Sequence[float], seen: str) -> Figures:
    """Return how long values took to be seen, in ms: from the writes' return, and from the call.

    `seen` has a line with number and time for each value that was seen. What was
    overtaken by the next value counts as seen with it; what was seen before the write
    returned counts as no lag from there.
    """
    times = dict(line.split() for line in seen.splitlines()[:-1])
    lags: list[float] = []
    whole: list[float] = []
    later = float("inf")
    for number in reversed(range(len(done))):
        later = float(times.get(str(number), later))
        if later != float("inf"):
            lags.append(max(0.0, later - done[number]))
            whole.append(later - began[number])
    return {
        "p50": quantiles(lags, n=100)[49] * 1e3,
        "p99": quantiles(lags, n=100)[98] * 1e3,
        "call_p50": quantiles(whole, n=100)[49] * 1e3,
        "call_p99": quantiles(whole, n=100)[98] * 1e3,
    }


def size_per_key(content: Mapping[str, str] | Mapping[bytes, bytes]) -> float:
    """Return the bytes of memory for each key: the dict's, the keys' and the values'."""
    total = sys.getsizeof(content)
    for key, value in content.items():
        total += sys.getsizeof(key) + sys.getsizeof(value)
    return total / len(content)
