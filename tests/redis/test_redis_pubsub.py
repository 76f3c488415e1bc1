"""Subscriptions on a healthy server: order, patterns, overflow, coming and going."""

import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError

from terzetto.redis import Answer, Gap, LinkClosedError, Message, Redis
from tests.redis.scripted import PATIENCE


async def channels(redis: Redis) -> list[bytes]:
    found: list[bytes] = await redis.execute("PUBSUB", "CHANNELS")
    return sorted(found)


async def test_messages_come_in_order_to_all_who_subscribed(redis: Redis) -> None:
    async with (
        redis.subscribe("a", b"b") as both,
        redis.subscribe("b") as one,
        redis.subscribe(patterns=["?"]) as all_of_them,
    ):
        for number in range(100):
            await redis.execute("PUBLISH", "ab"[number % 2], number)
        expected = [Message(b"ab"[n % 2 : n % 2 + 1], b"%d" % n) for n in range(100)]
        with trio.fail_after(PATIENCE):
            assert [await anext(both) for _ in range(100)] == expected
            assert [await anext(one) for _ in range(50)] == expected[1::2]
            got: list[Message | Gap] = []
            while len(got) < 100:
                got += await all_of_them.read()
    assert got == [Message(m.channel, m.data, b"?") for m in expected]


async def test_what_nobody_reads_any_more_is_unsubscribed(redis: Redis) -> None:
    async with redis.subscribe("a"):
        async with redis.subscribe("a", "b"):
            assert await channels(redis) == [b"a", b"b"]
        with trio.fail_after(PATIENCE):
            while await channels(redis) != [b"a"]:
                await trio.lowlevel.checkpoint()
    with trio.fail_after(PATIENCE):
        while await channels(redis):
            await trio.lowlevel.checkpoint()


async def test_leaving_and_coming_back_at_once_misses_nothing(redis: Redis) -> None:
    for number in range(50):
        async with redis.subscribe("a") as subscription:
            await redis.execute("PUBLISH", "a", number)
            with trio.fail_after(PATIENCE):
                assert await anext(subscription) == Message(b"a", b"%d" % number)


async def test_a_full_buffer_makes_a_gap(redis: Redis) -> None:
    async with redis.subscribe("a", buffer_size=3) as subscription, redis.subscribe("a") as other:
        for number in range(10):
            await redis.execute("PUBLISH", "a", number)
        with trio.fail_after(PATIENCE):
            for _ in range(10):
                await anext(other)
            assert [await anext(subscription) for _ in range(4)] == [
                *(Message(b"a", b"%d" % number) for number in range(3)),
                Gap(),
            ]
            await redis.execute("PUBLISH", "a", "on")
            assert await anext(subscription) == Message(b"a", b"on")


async def test_one_task_reads_a_subscription(redis: Redis) -> None:
    async with redis.subscribe("a") as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(anext, subscription)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(subscription)
        nursery.cancel_scope.cancel()


async def test_a_reader_in_another_task_learns_that_the_block_was_left(redis: Redis) -> None:
    async with trio.open_nursery() as nursery, redis.subscribe("a") as subscription:

        async def read() -> None:
            with pytest.raises(LinkClosedError):
                await anext(subscription)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(LinkClosedError):
        await anext(subscription)


async def test_a_busy_subscription_lets_others_run(redis: Redis) -> None:
    async with redis.subscribe("a") as subscription:
        for number in range(600):
            await redis.execute("PUBLISH", "a", number)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(count)
                for _ in range(600):
                    await anext(subscription)
                nursery.cancel_scope.cancel()
    assert turns >= 3


async def test_what_is_asked_by_its_connection_has_its_place_among_the_messages(
    redis: Redis,
) -> None:
    async with redis.subscribe("c") as subscription:
        await redis.execute_many([["PUBLISH", "c", "1"], ["SET", "k", "v"]])
        assert subscription.ask("GET", "k", tag="first")
        assert subscription.ask("HGETALL", "k", tag="second")
        found: list[object] = []
        with trio.fail_after(PATIENCE):
            while len(found) < 3:
                found += await subscription.read_with_answers()
            await redis.execute("PUBLISH", "c", "2")
            found += await subscription.read_with_answers()
        assert found[:2] == [Message(b"c", b"1"), Answer(b"v", "first")]
        assert isinstance(found[2], Answer)
        assert isinstance(found[2].reply, ResponseError)
        assert found[3] == Message(b"c", b"2")
        assert subscription.is_exact
