"""How often, and how many at once, tasks of a kind may run, over all servers. Pure.

A limit picks tasks by type or queue, and may count apart by a key of the task's.
What it counts is kept in Redis under a scope of its own, so all servers that have
the same limit share it. A task that a limit does not let run goes back and is
tried again a little later; that is no failure and uses up no retry.
"""

import math
import random
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from terzetto.errors import InvalidOptionError
from terzetto.tasks._message import TaskMessage

KeyOf: TypeAlias = Callable[[TaskMessage], str | None]
"""What a limit counts apart by; None: the task is not limited."""

_LONGEST_KEY: Final = 512
_SHORTEST_WAIT: Final = 1.0
_MAX_COUNT: Final = 2**31


@attrs.frozen(kw_only=True)
class Limit:
    """What both kinds of limits have: whom they are for.

    Attributes:
        name: names what is counted in Redis; servers share a limit of the same name.
        pattern: only tasks whose type begins so; "" for all.
        queue: only tasks of this queue; None for those of all.
        key: counts apart for each text that it returns; None counts all together.
    """

    name: str
    pattern: str = ""
    queue: str | None = None
    key: KeyOf | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse a limit that cannot be counted."""
        if not isinstance(self.name, str) or not self.name.strip():  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidOptionError(f"a limit is named {self.name!r}: give it a visible character")
        if self.key is not None and not callable(self.key):  # pyright: ignore[reportUnnecessaryComparison] - callers may be untyped
            raise InvalidOptionError(f"the key of limit {self.name!r} is no function")

    def scope(self, task: TaskMessage) -> str | None:
        """Return under what name a task counts; None if it does not.

        Raises:
            Exception: what the key function raises.
        """
        if not task.type.startswith(self.pattern) or self.queue not in (None, task.queue):
            return None
        if self.key is None:
            return self.name
        key = self.key(task)
        return None if key is None else f"{self.name}:{key[:_LONGEST_KEY]}"


@attrs.frozen(kw_only=True)
class RateLimit(Limit):
    """At most so many starts in a time.

    Attributes:
        count: how many starts there may be in `per` seconds, on average.
        per: seconds.
        burst: how many may come at once; by default `count`, at least 1.
    """

    count: float
    per: float = 1.0
    burst: int = 0

    def __attrs_post_init__(self) -> None:
        """Refuse figures that cannot be."""
        super().__attrs_post_init__()
        for name, value in (("count", self.count), ("per", self.per)):
            if not 0 < value < math.inf:
                raise InvalidOptionError(f"{name} of limit {self.name!r} is {value!r}: give more")
        if not 0 <= self.burst <= _MAX_COUNT:
            raise InvalidOptionError(f"burst of limit {self.name!r} is {self.burst!r}: give 1")

    @property
    def per_second(self) -> float:
        """The average rate."""
        return self.count / self.per

    @property
    def at_once(self) -> int:
        """How many starts may come together."""
        return self.burst or max(1, int(self.count))


@attrs.frozen(kw_only=True)
class ConcurrencyLimit(Limit):
    """At most so many running at once.

    Attributes:
        count: how many.
    """

    count: int

    def __attrs_post_init__(self) -> None:
        """Refuse figures that cannot be."""
        super().__attrs_post_init__()
        whole = isinstance(self.count, int) and not isinstance(self.count, bool)  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        if not whole or not 1 <= self.count <= _MAX_COUNT:
            raise InvalidOptionError(
                f"count of limit {self.name!r} is {self.count!r}: give a whole number from 1"
            )


def later(wait: float) -> float:
    """Return in how many seconds a task that has to wait is tried again.

    A little is added by chance, so that those who wait for one place do not all come
    at the same moment.
    """
    return max(wait, _SHORTEST_WAIT) * random.uniform(1.0, 1.5)  # noqa: S311 - to spread the load
