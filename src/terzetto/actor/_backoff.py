"""Back-off: how long a crashed child waits for its next start.

Pure arithmetic, used by the policy. The delay grows by `factor` with every
crash that follows soon on a start, never beyond `ceiling`, and jitter takes
away a random share so that siblings that fell together do not rise together.
"""

import math
from collections.abc import Callable

import attrs

from terzetto.actor._checks import check_seconds
from terzetto.actor._errors import SpecError


@attrs.frozen(kw_only=True)
class Backoff:
    """How long restarts wait; all times in seconds.

    Raises:
        SpecError: a number is negative or not finite, `factor` is below 1, or
            `jitter` is not between 0 and 1.
    """

    first: float = 0.02
    """The wait before the first restart; 0 restarts at once, always."""

    factor: float = 2.0
    """How much longer each further one waits."""

    ceiling: float = 5.0
    """No wait is longer than this."""

    jitter: float = 0.5
    """The share of a wait, 0 to 1, that chance may take away."""

    quiet: float = 10.0
    """A child that was up this long has its crashes forgiven: the next wait is the first again."""

    def __attrs_post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for name in ("first", "ceiling", "quiet"):
            check_seconds(f"Backoff: {name}", getattr(self, name))
        if not (1 <= self.factor < math.inf):
            raise SpecError(f"Backoff(factor={self.factor!r}): give a number of 1 or more")
        if not (0 <= self.jitter <= 1):
            raise SpecError(f"Backoff(jitter={self.jitter!r}): give a share from 0 to 1")

    def delay(self, streak: int, chance: Callable[[], float]) -> float:
        """Return the seconds to wait after `streak` crashes in a row before this one.

        Args:
            streak: how many crashes came before, none of them forgiven.
            chance: gives a number from 0 to 1 each time, such as `random.random`.
        """
        if self.first == 0:
            return 0.0
        # The power is taken only while it can matter: with thousands of crashes
        # factor ** streak would overflow a float.
        if self.factor == 1 or self.first >= self.ceiling:
            wait = min(self.first, self.ceiling)
        elif streak * math.log(self.factor) >= math.log(self.ceiling) - math.log(self.first):
            wait = self.ceiling
        else:
            wait = self.first * self.factor**streak
        return wait * (1 - self.jitter * chance())
