"""Doing again what a lost link may or may not have done.

Only for what can be done twice without harm: reads, acknowledgements, making a
group that may be there. How long to insist is up to the caller's deadline.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from terzetto.redis import LinkLostError
from terzetto.streaming._pace import Pace

T = TypeVar("T")


async def insist(repeatable: Callable[[], Awaitable[T]]) -> T:
    """Return what `repeatable` returns; call it again as long as the link loses its replies."""
    pace: Pace | None = None  # made when it is needed: this stands in the way of every `ack`
    while True:
        try:
            return await repeatable()
        except LinkLostError:
            pace = pace or Pace()
            await trio.sleep(pace.failed())
