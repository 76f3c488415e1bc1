"""Callers that are cancelled at random moments: no reply reaches the wrong one, nothing leaks."""

from random import Random

import pytest
import trio

from terzetto.redis import Dedicated, LinkLostError, Redis, connect
from terzetto.server import EmbeddedServer
from tests.redis.scripted import PATIENCE

CALLERS = 12_000
AT_A_TIME = 200


@pytest.mark.parametrize("over", ["shared link", "shared link, crowded", "units"])
async def test_no_reply_reaches_the_wrong_caller(server: EmbeddedServer, over: str) -> None:
    random = Random(20_261_121)  # noqa: S311 - a test's dice
    bound = 50 if over == "shared link, crowded" else 20_000
    async with connect(server.url, max_in_flight=bound) as redis:
        answered = cancelled = 0
        limiter = trio.CapacityLimiter(AT_A_TIME)

        async def call(number: int, pause: float | None) -> None:
            nonlocal answered, cancelled
            token = b"%d" % number
            async with limiter:
                with trio.CancelScope() as scope:
                    if pause is not None:
                        scope.deadline = trio.current_time() + pause
                    if over == "units":
                        replies = await redis.execute_many([("ECHO", token), ("GET", token)])
                        assert replies == [token, None]
                    else:
                        assert await redis.execute("ECHO", token) == token
                    answered += 1
                if scope.cancelled_caught:
                    cancelled += 1

        with trio.fail_after(2 * PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(CALLERS):
                    pause = random.expovariate(1000) if random.random() < 0.6 else None
                    nursery.start_soon(call, number, pause)
            assert await redis.execute("ECHO", "last") == b"last"
        assert answered + cancelled == CALLERS
        assert min(answered, cancelled) > CALLERS / 10
        left = redis.statistics()
        assert (left.queued, left.in_flight, left.crowd, left.connections) == (0, 0, 0, 1)


async def test_a_dedicated_link_stays_in_step_when_its_calls_are_cancelled(redis: Redis) -> None:
    random = Random(7)  # noqa: S311 - a test's dice
    async with redis.open_dedicated("stress") as dedicated:
        answered = cancelled = 0

        async def call(dedicated: Dedicated, token: bytes) -> None:
            nonlocal answered
            if random.random() < 0.2:
                await dedicated.execute("BLPOP", "none", "0.002")
            assert await dedicated.execute("ECHO", token) == token
            answered += 1

        with trio.fail_after(2 * PATIENCE):
            for number in range(1500):
                with trio.move_on_after(random.expovariate(1500)) as scope:
                    await call(dedicated, b"%d" % number)
                cancelled += scope.cancelled_caught
        assert answered + cancelled == 1500
        assert min(answered, cancelled) > 100
        assert dedicated.link.statistics().connections == 1


async def test_no_reply_reaches_the_wrong_caller_when_connections_break(
    server: EmbeddedServer,
) -> None:
    random = Random(11)  # noqa: S311 - a test's dice
    async with connect(server.url) as redis, connect(server.url) as killer:
        outcomes = {"answered": 0, "cancelled": 0, "lost": 0, "not run": 0}
        limiter = trio.CapacityLimiter(50)

        async def call(number: int) -> None:
            key = b"k%d" % number
            async with limiter:
                with trio.move_on_after(random.expovariate(100)) as scope:
                    try:
                        assert await redis.execute("INCRBY", key, number) == number
                        outcomes["answered"] += 1
                    except LinkLostError as error:
                        outcomes["lost" if error.may_have_run else "not run"] += 1
                outcomes["cancelled"] += scope.cancelled_caught

        async def kill() -> None:
            while True:
                await trio.sleep(random.uniform(0, 0.05))
                await killer.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        with trio.fail_after(2 * PATIENCE):
            async with trio.open_nursery() as outer:
                outer.start_soon(kill)
                async with trio.open_nursery() as nursery:
                    for number in range(1, 4001):
                        nursery.start_soon(call, number)
                outer.cancel_scope.cancel()
            await redis.wait_connected()
            # Nothing ran twice, whatever was lost or cancelled on the way.
            values = await redis.execute("MGET", *(b"k%d" % number for number in range(1, 4001)))
        assert sum(outcomes.values()) == 4000
        assert outcomes["not run"] == 0
        assert redis.statistics().connections > 2
        for number, value in enumerate(values, 1):
            assert value in (None, b"%d" % number)
