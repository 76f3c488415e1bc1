"""Subscriptions on a healthy server: order, patterns, overflow, coming and going."""

import math
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError

from terzetto.errors import InvalidOptionError
from terzetto.redis import (
    Gap,
    LinkClosedError,
    Message,
    Redis,
    Reply,
    Script,
    Subscription,
    connect,
)
from terzetto.redis._io import READ_SIZE
from terzetto.server import EmbeddedServer
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


async def test_what_is_delivered_comes_in_order_in_the_task_that_read_it(redis: Redis) -> None:
    async with redis.subscribe("c") as subscription, trio.open_nursery() as nursery:
        await redis.execute("PUBLISH", "c", "buffered")
        await trio.testing.wait_all_tasks_blocked()
        found: list[object] = []
        grown = trio.Event()

        def take(item: object) -> None:
            nonlocal grown
            assert trio.lowlevel.current_task() is not root
            found.append(item)
            grown.set()
            grown = trio.Event()

        async def until_there_are(count: int) -> None:
            with trio.fail_after(PATIENCE):
                while len(found) < count:
                    await grown.wait()

        root = trio.lowlevel.current_task()
        nursery.start_soon(deliver, subscription, take)
        await redis.execute_many([["PUBLISH", "c", "1"], ["SET", "k", "v"]])
        assert subscription.ask("GET", "k", on_reply=take)
        assert subscription.ask("HGETALL", "k", on_reply=take)
        await until_there_are(4)
        await redis.execute("PUBLISH", "c", "2")
        await until_there_are(5)
        assert subscription.is_subscribed
        nursery.cancel_scope.cancel()
    refusal = found.pop(3)
    assert isinstance(refusal, ResponseError)
    buffered, first, second = (Message(b"c", text) for text in (b"buffered", b"1", b"2"))
    assert found == [buffered, first, b"v", second]


async def test_what_a_taker_raises_ends_its_delivery_and_nothing_else(redis: Redis) -> None:
    async with redis.subscribe("c") as subscription, redis.subscribe("c") as other:

        def take(item: object) -> None:
            raise LookupError(item)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for text in ("1", "2"):
                    nursery.start_soon(redis.execute, "PUBLISH", "c", text)
                with pytest.raises(LookupError, match=r"data=b'[12]'"):
                    await subscription.deliver(take)
            assert {(await anext(other)), (await anext(other))} == {
                Message(b"c", b"1"),
                Message(b"c", b"2"),
            }


async def test_what_is_no_longer_delivered_is_buffered_again(redis: Redis) -> None:
    async with redis.subscribe("c") as subscription:
        found: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver, subscription, found.append)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await anext(subscription)
            with pytest.raises(trio.BusyResourceError):
                await subscription.deliver(found.append)
            nursery.cancel_scope.cancel()
        await redis.execute("PUBLISH", "c", "1")
        with trio.fail_after(PATIENCE):
            assert await anext(subscription) == Message(b"c", b"1")
    assert found == []


async def test_a_delivered_burst_lets_others_run(redis: Redis) -> None:
    async with redis.subscribe("c") as subscription:
        sizes: list[int] = []  # of what was delivered between two turns of another task
        size = total = 0
        expected = 4_000_000

        def take(item: object) -> None:
            nonlocal size
            assert isinstance(item, Message)
            size += len(item.data)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(deliver, subscription, take)
                nursery.start_soon(
                    redis.execute_many, [["PUBLISH", "c", "x" * 100]] * (expected // 100)
                )
                while total < expected:
                    await trio.lowlevel.checkpoint()
                    sizes.append(size)
                    total += size
                    size = 0
                nursery.cancel_scope.cancel()
        assert total == expected
        assert max(sizes) <= 2 * READ_SIZE  # the turns of two tasks may lie two reads apart


@pytest.mark.parametrize("name", [3, 3.5, None, ["c"]])
async def test_what_is_no_channel_is_refused(redis: Redis, name: Any) -> None:  # noqa: ANN401 - the types forbid it
    with pytest.raises(InvalidOptionError, match="str or bytes"):
        async with redis.subscribe(name):
            pass
    with pytest.raises(InvalidOptionError, match="str or bytes"):
        async with redis.subscribe("c", patterns=[name]):
            pass


@pytest.mark.parametrize("size", [0, math.nan])
async def test_a_buffer_without_a_size_is_refused(redis: Redis, size: float) -> None:
    with pytest.raises(InvalidOptionError, match="buffer_size"):
        async with redis.subscribe("c", buffer_size=size):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - as callers without types may have it
            pass


async def deliver(subscription: Subscription, take: Callable[[Message | Gap], None]) -> None:
    await subscription.deliver(take)


def wait_for_writes(server: EmbeddedServer) -> None:
    """Wait, and nobody else goes on, until the server has written what it has to say so far."""
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        for _ in range(2):  # with the first answer the others may be written yet
            plain.sendall(b"PING\r\n")
            assert plain.recv(100) == b"+PONG\r\n"


async def test_who_waits_for_a_posted_script_goes_on_before_its_messages_are_taken(
    server: EmbeddedServer,
) -> None:
    """The reply and the message are both there; which is looked at first is chance."""
    script = Script("tell", "return redis.call('PUBLISH', ARGV[1], 'it')")
    order: list[str] = []
    taken = trio.Event()

    def take(_: Message | Gap) -> None:
        order.append("message")
        taken.set()

    async with (
        connect(server.url) as redis,
        redis.subscribe("news") as news,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(news.deliver, take)
        await redis.run_script(script, args=["others"])
        for _ in range(21):
            heard = trio.Event()
            taken = trio.Event()

            def hear(_: Reply, heard: trio.Event) -> None:
                heard.set()

            assert redis.post_script(script, [], ["news"], partial(hear, heard=heard))
            wait_for_writes(server)
            await heard.wait()
            order.append("caller")
            with trio.fail_after(PATIENCE):
                await taken.wait()
        nursery.cancel_scope.cancel()
    assert order[2:] == ["caller", "message"] * 20  # the first found messages waited for already
