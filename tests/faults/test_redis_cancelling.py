"""A hundred thousand callers, cancelled at random, over every kind of deployment."""

from random import Random

import pytest
import trio

from tests.contract.conftest import KINDS

CALLERS = 100_000
AT_A_TIME = 500
HURRIED = 0.8  # the part of the callers that may be cancelled, some earlier and some later
FIRST_GUESS = 0.01  # seconds that a call takes, until the first ones have shown it

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_no_reply_of_a_hundred_thousand_goes_astray(kind: str) -> None:
    random = Random(kind)  # noqa: S311 - a test's dice
    outcomes = {"answered": 0, "cancelled": 0}
    limiter = trio.CapacityLimiter(AT_A_TIME)
    usual = FIRST_GUESS
    async with KINDS[kind]() as deployment, deployment.connect() as redis:

        async def call(number: int) -> None:
            nonlocal usual
            token = b"%d" % number
            async with limiter:
                is_hurried = random.random() < HURRIED
                patience = random.expovariate(1 / usual) if is_hurried else float("inf")
                began = trio.current_time()
                with trio.move_on_after(patience) as scope:
                    assert await redis.execute("ECHO", token) == token
                    outcomes["answered"] += 1
                outcomes["cancelled"] += scope.cancelled_caught
                if not is_hurried:
                    usual += (trio.current_time() - began - usual) / 20

        async with trio.open_nursery() as nursery:
            for number in range(CALLERS):
                await limiter.acquire_on_behalf_of(number)
                limiter.release_on_behalf_of(number)
                nursery.start_soon(call, number)
        assert await redis.execute("ECHO", "last") == b"last"
        assert sum(outcomes.values()) == CALLERS
        assert min(outcomes.values()) > CALLERS / 20
        left = redis.statistics()
        assert (left.queued, left.in_flight, left.crowd) == (0, 0, 0)
