"""How what runs in the background writes to a map: until Redis has taken it."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from redis.exceptions import ResponseError

from terzetto._shared._pause import Pause
from terzetto.redis import LinkLostError

T = TypeVar("T")


async def insist(write: Callable[..., Awaitable[T]], *args: object) -> T:
    """Write until it is known to have happened; for what does no harm when it is done twice.

    A lost reply is made good at once, with the next connection; what Redis refuses is tried
    again after a pause.
    """
    pause = Pause()
    while True:
        try:
            return await write(*args)
        except LinkLostError:
            continue
        except ResponseError:
            await trio.sleep(pause.failed())
