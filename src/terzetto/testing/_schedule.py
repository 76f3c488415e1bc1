"""Time and order under a test's control: a virtual clock, and a scheduler that replays.

trio runs the tasks of one turn in an order that chance decides. `seeded` makes
that chance, and Python's own, start from a seed, so that an interleaving can be
found by trying seeds and then replayed by its number.
"""

import random
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
import trio._core._run as _trio_run
import trio.testing

R = TypeVar("R")


def virtual_clock() -> trio.testing.MockClock:
    """Return a clock that jumps to the next deadline as soon as every task waits.

    For code without real I/O: back-offs, timers and grace periods then take no
    time at all, and happen in their order.
    """
    return trio.testing.MockClock(autojump_threshold=0)


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Let every `trio.run` inside this block schedule its tasks as `seed` says.

    Also seeds the module `random`, from which back-offs take their jitter; both
    are put back afterwards. Tasks that wait for real I/O or threads may still
    be woken in any order.
    """
    # trio has no public switch for this; its own Hypothesis support sets the same two names.
    internals: Any = _trio_run
    deterministic = internals._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001 - see above
    chance: random.Random = internals._r  # noqa: SLF001 - see above
    states = chance.getstate(), random.getstate()
    internals._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001 - see above
    chance.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        internals._ALLOW_DETERMINISTIC_SCHEDULING = deterministic  # noqa: SLF001 - see above
        chance.setstate(states[0])
        random.setstate(states[1])


def run_seeded(async_fn: Callable[..., Awaitable[R]], *args: object, seed: int) -> R:
    """Run an async function under a virtual clock and a seeded scheduler; return its result."""
    with seeded(seed):
        return trio.run(async_fn, *args, clock=virtual_clock())
