"""Error replies that say that a command was not carried out here and now."""

import pytest
import trio

from terzetto.redis import Redis, connect
from tests.redis.scripted import PATIENCE, open_scripted, say_nothing

SECRET = "hush"  # noqa: S105 - it guards nothing


@pytest.mark.parametrize("refusal", [b"-LOADING Redis is loading\r\n", b"-NOAUTH needed\r\n"])
async def test_a_refusal_that_a_new_connection_mends(refusal: bytes) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(refusal if server.connections < 3 else b":7\r\n")
        await say_nothing(stream)

    async with open_scripted(answer) as server, connect(server.url) as redis:
        with trio.fail_after(PATIENCE):
            assert await redis.execute("INCR", "n") == 7
    assert server.connections == 3


async def test_others_on_the_way_are_answered_before_a_link_is_left() -> None:
    """A refusal does not make the commands beside it uncertain."""
    count = 20

    async def answer(stream: trio.SocketStream) -> None:
        data = b""
        while data.count(b"INCR") < count:
            data += bytes(await stream.receive_some())
        if server.connections == 1:
            await stream.send_all(b"-LOADING Redis is loading\r\n" * count)
        else:
            await stream.send_all(b":7\r\n" * count)
        await say_nothing(stream)

    async with open_scripted(answer) as server, connect(server.url) as redis:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(redis.execute, "INCR", "n")
    assert server.connections == 2


async def test_a_password_that_is_set_while_the_link_is_up(redis: Redis) -> None:
    async with connect(redis.url, password=SECRET) as other:
        await redis.execute("CONFIG", "SET", "requirepass", SECRET)
        assert await other.execute("PING") == b"PONG"
