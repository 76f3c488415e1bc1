"""How fast a loop may go on after an error. Pure.

A loop whose command failed waits before it sends the next one: a twentieth of
a second at first, so that no loop ever sends more than 20 commands a second
into an error, doubling up to two seconds, with jitter upwards so that the
loops of many processes do not march in step.
"""

from random import Random
from typing import Final

import attrs

_FIRST: Final = 0.05
_LONGEST: Final = 2.0
_MAX_EXPONENT: Final = 10


@attrs.define
class Pace:
    """The waits of one loop, in seconds."""

    failures: int = 0
    random: Random = attrs.field(factory=Random, repr=False)

    def failed(self) -> float:
        """Count a failure; return how long to wait before the next command."""
        step = min(_LONGEST, _FIRST * 2.0 ** min(self.failures, _MAX_EXPONENT))
        self.failures += 1
        return step * self.random.uniform(1.0, 1.5)

    def worked(self) -> None:
        """Note that a command succeeded."""
        self.failures = 0
