"""What the tests of streams share: a stream, and waiting for a state that has no event."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
import trio

from terzetto.redis import Redis
from terzetto.streaming import Stream

Eventually: TypeAlias = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]


@pytest.fixture
def stream(redis: Redis) -> Stream:
    """Return a stream on a server of the test's own."""
    return Stream("s", redis)


@pytest.fixture
def eventually() -> Eventually:
    """Return a function that waits until a condition, plain or async, holds."""

    async def wait(condition: Callable[[], Awaitable[object] | bool]) -> None:
        with trio.fail_after(30):
            while True:
                answer = condition()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await trio.sleep(0.01)  # the state is the server's, and says nothing of itself

    return wait
