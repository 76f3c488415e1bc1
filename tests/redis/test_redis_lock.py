"""The shared lock: one holder, growing tokens, loss, and what remains of it."""

import math
import re
from contextlib import AsyncExitStack

import pytest
import trio
from redis.exceptions import ResponseError

from terzetto.errors import InvalidNameError, InvalidOptionError
from terzetto.redis import LockLostError, Redis, connect
from terzetto.server import EmbeddedServer
from tests.redis.scripted import PATIENCE, held

KEY = "terzetto:lock:{till}"


async def test_one_holder_at_a_time_and_each_has_a_greater_token(redis: Redis) -> None:
    inside = 0
    tokens: list[int] = []

    async def work() -> None:
        nonlocal inside
        async with redis.open_lock("till") as lock:
            assert inside == 0
            inside += 1
            await redis.execute("PING")
            tokens.append(lock.token)
            inside -= 1

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(work)
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 30
    assert await redis.execute("EXISTS", KEY) == 0


async def test_tokens_grow_where_the_last_one_was_lost(redis: Redis) -> None:
    """By a fail-over, or a flush; and where the clock is behind the last one."""
    async with redis.open_lock("till") as first:
        pass
    await redis.execute("FLUSHALL")
    async with redis.open_lock("till") as second:
        assert second.token > first.token
    ahead = second.token + 10**12
    await redis.execute("SET", f"{KEY}:fence", ahead)
    async with redis.open_lock("till") as third:
        assert third.token == ahead + 1


async def test_a_lock_is_renewed_while_the_block_runs(redis: Redis) -> None:
    async with redis.open_lock("till", ttl=0.3):
        with trio.fail_after(PATIENCE):
            born = trio.current_time()
            while trio.current_time() < born + 1:
                assert await redis.execute("PTTL", KEY) > 0
                await trio.sleep(0.02)


async def test_a_lock_of_somebody_who_died_is_free_after_its_life(redis: Redis) -> None:
    await redis.execute("HSET", KEY, "owner", "gone", "token", 1)
    await redis.execute("PEXPIRE", KEY, 200)
    with trio.fail_after(PATIENCE):
        async with redis.open_lock("till"):
            assert await redis.execute("HGET", KEY, "owner") != b"gone"


async def test_a_stolen_lock_cancels_the_block(redis: Redis) -> None:
    with pytest.raises(LockLostError, match="till"), trio.fail_after(PATIENCE):
        async with redis.open_lock("till", ttl=0.2):
            await redis.execute("HSET", KEY, "owner", "thief")
            await trio.sleep_forever()
    assert await redis.execute("HGET", KEY, "owner") == b"thief"  # it is not ours to give back


async def test_a_server_that_is_away_for_too_long_cancels_the_block(
    redis: Redis, server: EmbeddedServer
) -> None:
    with pytest.raises(LockLostError), trio.fail_after(PATIENCE):
        async with redis.open_lock("till", ttl=0.3):
            with held(server):
                await trio.sleep_forever()


async def test_a_short_outage_is_survived(redis: Redis, server: EmbeddedServer) -> None:
    async with redis.open_lock("till", ttl=20):
        await server.kill()
        await server.start()
        with trio.fail_after(PATIENCE):
            await redis.wait_connected()
    assert await redis.execute("EXISTS", KEY) == 0


async def refuse_writes(redis: Redis, *, least: int) -> None:
    """Have the server refuse all writes from now on; wait until it has refused some."""
    await redis.execute("CONFIG", "RESETSTAT")
    await redis.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    with trio.fail_after(PATIENCE):
        while await refusals(redis) < least:
            await trio.lowlevel.checkpoint()


async def allow_writes(redis: Redis) -> None:
    await redis.execute("CONFIG", "SET", "min-replicas-to-write", 0)


async def refusals(redis: Redis) -> int:
    found = re.search(rb"NOREPLICAS:count=(\d+)", await redis.execute("INFO", "errorstats"))
    return int(found[1]) if found else 0


async def test_renewals_that_are_refused_for_a_while_are_tried_again(
    redis: Redis, server: EmbeddedServer
) -> None:
    """The client, of which others use the link, outlives any number of refusals."""
    count, ttl = 6, 3.0

    async with connect(server.url) as operator, AsyncExitStack() as stack:
        for number in range(count):
            await stack.enter_async_context(redis.open_lock(f"{number}", ttl=ttl))
        await refuse_writes(operator, least=3 * count)
        await allow_writes(operator)
        with trio.fail_after(PATIENCE):
            for number in range(count):
                while await redis.pttl(f"terzetto:lock:{{{number}}}") < 800 * ttl:
                    await trio.lowlevel.checkpoint()
    assert await redis.execute("DBSIZE") == count  # the fences


async def test_renewals_that_are_refused_for_too_long_cancel_the_block(redis: Redis) -> None:
    with pytest.raises(LockLostError) as caught, trio.fail_after(PATIENCE):
        async with redis.open_lock("till", ttl=0.3):
            await refuse_writes(redis, least=1)
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, ResponseError)
    await allow_writes(redis)
    async with redis.open_lock("till"):
        pass


async def test_a_lock_that_cannot_be_given_back_expires(redis: Redis) -> None:
    with trio.fail_after(PATIENCE):
        async with redis.open_lock("till", ttl=1):
            await redis.execute("CONFIG", "SET", "min-replicas-to-write", 1)
        await allow_writes(redis)
        assert await redis.execute("EXISTS", KEY) == 1
        async with redis.open_lock("till"):
            pass


async def test_a_cancelled_block_gives_the_lock_back(redis: Redis) -> None:
    with trio.CancelScope() as scope:
        async with redis.open_lock("till"):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert await redis.execute("EXISTS", KEY) == 0


async def test_who_stops_waiting_leaves_nothing(server: EmbeddedServer) -> None:
    async with connect(server.url) as redis, redis.open_lock("till") as lock:
        with trio.move_on_after(0.1) as scope:
            async with redis.open_lock("till"):
                pytest.fail("two holders")
        assert scope.cancelled_caught
        assert await redis.execute("HGET", KEY, "owner") == lock.owner.encode()


async def test_an_error_of_the_block_comes_out_as_it_is(redis: Redis) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with redis.open_lock("till"):
            raise KeyError("mine")


@pytest.mark.parametrize("name", ["a b", "", "}x", "}"])
async def test_a_name_that_cannot_name_a_lock_is_refused(redis: Redis, name: str) -> None:
    """Behind a closing brace a cluster would look for the keys of one lock in two slots."""
    with pytest.raises(InvalidNameError):
        async with redis.open_lock(name):
            pass


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, 1e300, 1e10])
async def test_a_life_that_no_lock_can_have_is_refused(redis: Redis, ttl: float) -> None:
    with pytest.raises(InvalidOptionError):
        async with redis.open_lock("till", ttl=ttl):
            pass


async def test_the_longest_life_is_taken(redis: Redis) -> None:
    async with redis.open_lock("till", ttl=1e9):
        assert await redis.execute("PTTL", KEY) > 0


async def test_the_offset_of_the_servers_clock(redis: Redis) -> None:
    assert abs(await redis.server_time_offset()) < 5
