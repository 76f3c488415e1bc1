"""Functions of the user that are handed replies, and raise: nobody else hears of it."""

import logging

import pytest
import trio

from terzetto.redis import (
    Gap,
    LinkClosedError,
    LinkLostError,
    Message,
    Redis,
    Reply,
    connect,
)
from terzetto.server import EmbeddedServer
from terzetto.testing import Fault, open_proxy
from tests.redis.scripted import PATIENCE


def fail(reply: Reply) -> None:
    raise LookupError(reply)


def errors_of(caplog: pytest.LogCaptureFixture) -> list[BaseException | None]:
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    return [record.exc_info[1] for record in records if record.exc_info]


async def test_what_a_function_raises_that_hears_of_a_posted_command_harms_no_caller(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    replies: list[Reply] = []

    async def count() -> None:
        replies.append(await redis.execute("INCR", "n"))

    with trio.fail_after(PATIENCE):
        for _ in range(10):
            assert redis.post("PING", on_reply=fail)
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(count)
    assert sorted(replies) == [*range(1, 51)]
    assert redis.statistics().connections == 1
    assert [str(error) for error in errors_of(caplog)] == ["b'PONG'"] * 10


async def test_what_a_function_raises_that_hears_of_a_lost_connection_harms_no_caller(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[LinkLostError] = []

    async with open_proxy(server.url) as proxy, connect(proxy.url, max_backoff=0.05) as redis:

        async def count() -> None:
            with pytest.raises(LinkLostError) as caught:
                await redis.execute("INCR", "n")
            lost.append(caught.value)

        proxy.on("SET", Fault.DROP_REPLY)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                assert redis.post("SET", "k", "v", on_reply=fail)
                for _ in range(5):
                    nursery.start_soon(count)
            assert await redis.execute("PING") == b"PONG"
        assert redis.statistics().connections == 2
    assert [error.may_have_run for error in lost] == [True] * 5
    assert [type(error) for error in errors_of(caplog)] == [LookupError]


async def test_what_a_function_raises_that_hears_of_an_asked_command_ends_its_delivery_only(
    redis: Redis,
) -> None:
    async with redis.subscribe("c") as subscription, redis.subscribe("c") as other:

        def ask_and_fail(_: Message | Gap) -> None:
            assert subscription.ask("ECHO", "what", on_reply=fail)

        await redis.execute("PUBLISH", "c", "1")
        with trio.fail_after(PATIENCE):
            with pytest.raises(LookupError, match="what"):
                await subscription.deliver(ask_and_fail)
            await redis.execute("PUBLISH", "c", "2")
            assert [await anext(other) for _ in range(2)] == [
                Message(b"c", b"1"),
                Message(b"c", b"2"),
            ]


async def test_what_is_posted_is_not_overtaken_by_later_calls(redis: Redis) -> None:
    """Whether others ask at the same time or not, and however many."""
    heard: list[Reply] = []

    async def post_and_call(name: str) -> None:
        for number in range(50):
            assert redis.post("SET", f"{name}:a", number, on_reply=heard.append)
            assert redis.post("SET", f"{name}:b", number, on_reply=heard.append)
            assert await redis.execute("GET", f"{name}:b") == b"%d" % number
            assert redis.post("DEL", f"{name}:a", f"{name}:b", on_reply=heard.append)
            assert await redis.execute_many([("GET", f"{name}:a"), ("GET", f"{name}:b")]) == [
                None,
                None,
            ]

    with trio.fail_after(PATIENCE):
        await post_and_call("alone")
        async with trio.open_nursery() as nursery:
            for task in range(20):
                nursery.start_soon(post_and_call, f"{task}")
    assert heard.count(b"OK") == 2 * heard.count(2) == 21 * 2 * 50


async def test_posts_alone_are_written_in_their_order(redis: Redis) -> None:
    heard: list[Reply] = []
    for number in range(200):
        assert redis.post("RPUSH", "l", number, on_reply=heard.append)
    assert await redis.execute("LRANGE", "l", 0, -1) == [b"%d" % number for number in range(200)]
    assert heard == [*range(1, 201)]


async def test_what_is_posted_and_not_written_when_the_block_is_left_is_heard_of(
    server: EmbeddedServer,
) -> None:
    heard: list[Reply] = []
    async with connect(server.url) as redis:
        assert redis.post("INCR", "n", on_reply=heard.append)
        assert redis.post("INCR", "n", on_reply=heard.append)
        redis._link.close()  # pyright: ignore[reportPrivateUsage] - in the same turn
    async with connect(server.url) as other:
        assert await other.execute("GET", "n") in {None, b"1"}
    written, unwritten = sorted(heard, key=lambda error: isinstance(error, LinkClosedError))
    assert isinstance(written, LinkLostError)
    assert isinstance(unwritten, LinkClosedError)
