"""In which order a server asks its queues for work. Pure.

Strict: by priority, the highest first. Weighted: a queue is asked first with a
probability in proportion to its priority, and so on among the rest; each is asked
every time, so no queue starves, and none that is empty holds up another.
"""

import random
from collections.abc import Mapping
from operator import itemgetter
from typing import Final

import attrs

from terzetto.errors import InvalidNameError, InvalidOptionError

DEFAULT_QUEUE: Final = "default"
_MAX_PRIORITY: Final = 2**31 - 1  # 32 bits on the wire
_MAX_QUEUE_NAME: Final = 512


def check_queue(name: object) -> str:
    """Return `name` if a queue can be called so.

    Raises:
        InvalidNameError: it is no text, blank, too long, starts with a closing brace (its
            keys would be in many slots of a cluster), or is no UTF-8.
    """
    if not isinstance(name, str):
        raise InvalidNameError(f"the name of a queue is a str, not {type(name).__name__}")
    if not name.strip():
        raise InvalidNameError(f"{name!r} cannot name a queue: give it a visible character")
    if len(name) > _MAX_QUEUE_NAME:
        raise InvalidNameError(
            f"the name of a queue has {len(name)} characters: shorten it to {_MAX_QUEUE_NAME}"
        )
    if name.startswith("}"):
        raise InvalidNameError(f"{name!r} cannot name a queue: let it not start with a brace")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"{name!r} cannot name a queue: it is no UTF-8") from error
    return name


def check_queues(queues: Mapping[str, int]) -> dict[str, int]:
    """Return a copy of `queues` if a server can serve them.

    Raises:
        InvalidNameError: as `check_queue`.
        InvalidOptionError: it is no mapping or empty, or a priority is no whole number above 0.
    """
    if not isinstance(queues, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidOptionError(f"queues is {queues!r:.200}: give queues={{'default': 1}}")
    if not queues:
        raise InvalidOptionError("a server needs a queue: give queues={'default': 1}")
    checked: dict[str, int] = {}
    for name, priority in queues.items():
        whole = isinstance(priority, int) and not isinstance(priority, bool)  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        if not whole or not 1 <= priority <= _MAX_PRIORITY:
            raise InvalidOptionError(
                f"queue {name!r} has priority {priority!r}: give a whole number from 1"
            )
        checked[check_queue(name)] = priority
    return checked


@attrs.frozen
class QueueOrder:
    """The queues of a server and how they are asked.

    Attributes:
        queues: names and priorities.
        strict: whether a queue comes only when all with a higher priority are empty.
    """

    queues: Mapping[str, int]
    strict: bool = False
    _fixed: tuple[str, ...] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Sort once; equal priorities stay in the order in which they were given."""
        ranked = sorted(self.queues.items(), key=itemgetter(1), reverse=True)
        object.__setattr__(self, "_fixed", tuple(name for name, _ in ranked))

    def draw(self, chance: random.Random) -> tuple[str, ...]:
        """Return all queues in the order in which to ask them now.

        Weighted: each queue draws a number that is the greater the greater its
        priority, such that the places are those of a draw without replacement.
        """
        if self.strict or len(self._fixed) == 1:
            return self._fixed
        drawn = [(chance.random() ** (1 / weight), name) for name, weight in self.queues.items()]
        drawn.sort(reverse=True)
        return tuple(name for _, name in drawn)
