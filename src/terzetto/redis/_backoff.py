"""How long to wait before the next attempt to reconnect. Pure.

Exponential with a ceiling, and jittered, so that a thousand clients of one
server that came back do not knock at the same moment.
"""

from random import Random

import attrs

_MAX_EXPONENT = 30  # 2**k of a long outage must not overflow a float


@attrs.define(kw_only=True)
class Backoff:
    """The waits of one outage after the other, in seconds."""

    ceiling: float
    base: float = 0.02
    attempts: int = 0
    random: Random = attrs.field(factory=Random, repr=False)

    def next_delay(self) -> float:
        """Count an attempt that failed; return how long to wait before the next."""
        step = self.base * 2.0 ** min(self.attempts, _MAX_EXPONENT)
        self.attempts += 1
        return min(self.ceiling, step) * self.random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Note that an attempt succeeded."""
        self.attempts = 0
