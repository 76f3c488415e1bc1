"""What a busy server takes before there is a slot for it. Pure: it is told the time.

Theory of operation. A slot that falls free would stand empty for as long as Redis needs
to give the next task. So a server whose slots are all taken, while its queues have more,
takes one task ahead, and the hand whose function ends begins it in the same turn. One is
enough: of slots that fall free in a bunch, the first is ahead of the others by a request
from then on, so that they drift apart, and each of them finds a task.

Lest it wait here while somebody else's slot stands empty, a task is held only while slots
fall free every so often, and goes back to the front of its queue if none does in time.
Where slots fall free all the time, nothing is held: requests bring many tasks at once
then, and one more would only be more work.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs

from terzetto.tasks._broker_values import Lease

AHEAD: Final = 1
"""How many tasks a server takes ahead at most."""

PATIENCE: Final = 1.5
"""Seconds that a task is held at most, and that lie at most between two slots' falling free.

More than one, so that tasks of a second, all of which end at the same moment, find it.
"""

WORTH_IT: Final = 0.01
"""Seconds that the fetcher has to have waited for a slot, lately, for a task to be held."""


@attrs.define(eq=False)
class Held:
    """What is held in one life of a server, and whether it may hold any.

    Attributes:
        most: how many tasks may be held.
        leases: those that are, the oldest first.
    """

    most: int = AHEAD
    leases: deque[Lease] = attrs.field(factory=deque[Lease], init=False)
    _until: float = attrs.field(default=-math.inf, init=False)
    _freed_at: float = attrs.field(default=-math.inf, init=False)
    _waited_at: float = attrs.field(default=-math.inf, init=False)
    _is_brisk: bool = attrs.field(default=False, init=False)

    def slot_freed(self, now: float, *, waited: float) -> None:
        """Take note that a slot has fallen free which had been waited for so many seconds."""
        if waited >= WORTH_IT:
            self._waited_at = now
        self._is_brisk = now - self._freed_at < PATIENCE
        self._freed_at = now

    def room(self, now: float) -> int:
        """Return how many tasks may be taken ahead."""
        if self._is_brisk and now - min(self._freed_at, self._waited_at) < PATIENCE:
            return max(0, self.most - len(self.leases))
        return 0

    def hold(self, leases: Sequence[Lease], now: float) -> None:
        """Hold these, too."""
        self.leases.extend(leases)
        self._until = now + PATIENCE

    def take(self, now: float) -> Lease | None:
        """Return the oldest for a slot, unless none is held, or it is to go back."""
        return self.leases.popleft() if self.leases and now < self._until else None

    def seconds_left(self, now: float) -> float:
        """Return for how long those that are held may be."""
        return max(0.0, self._until - now)

    def give_up(self) -> None:
        """Let no slot take what is held, and take none ahead until slots fall free again."""
        self._until = -math.inf
        self._is_brisk = False

    def drop(self, lease: Lease) -> None:
        """Hold one no longer, if it is."""
        if lease in self.leases:
            self.leases.remove(lease)
