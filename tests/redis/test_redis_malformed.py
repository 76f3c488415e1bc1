"""A server that says what it should not among right replies: no caller gets another's."""

import pytest
import trio

from terzetto.redis import (
    Gap,
    LinkLostError,
    Message,
    Redis,
    ReplyTooLongError,
    Script,
    connect,
)
from terzetto.testing._resp import FrameSplitter, words_of
from tests.redis.scripted import PATIENCE, ScriptedServer, open_scripted

CALLERS = 40

# What stands before the 10th reply, and whether the link can go on after it.
DISTURBANCES = {
    "a push": (b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", True),
    "a push without parts": (b">0\r\n", True),
    "an attribute": (b"|1\r\n+ttl\r\n:1\r\n", False),
    "an attribute within": (b"*2\r\n|1\r\n+ttl\r\n:1\r\n:1\r\n:2\r\n", False),
    "a map with keys of lists": (b"%1\r\n*0\r\n:1\r\n", False),
    "a list too long to be": (b"*999999999\r\n", False),
    "a string too long to be": (b"$99999999999999999999\r\n", False),
    "a negative length": (b"$-7\r\n", False),
    "an unknown type": (b"?\r\n", False),
    "nesting without end": (b"*1\r\n" * 5000, False),
    "a reply that breaks off": (b"$100\r\nonly this", False),
    "an error within that breaks the rules": (b"*2\r\n-MOVED \x8e h:1\r\n?", False),
}


def echo(server: ScriptedServer, disturbance: bytes, *, hangs_up: bool) -> None:
    """Let the server echo; on its first connection, with a disturbance before the 10th reply."""

    async def answer(stream: trio.SocketStream) -> None:
        frames, count = FrameSplitter(), 0
        while data := await stream.receive_some():
            for frame in frames.feed(data):
                token = words_of(frame)[-1]
                count += 1
                if count == 10 and server.connections == 1:
                    await stream.send_all(disturbance)
                    if hangs_up:
                        return
                await stream.send_all(b"$%d\r\n%s\r\n" % (len(token), token))

    server.answer = answer


@pytest.mark.parametrize("what", DISTURBANCES)
async def test_no_caller_gets_the_reply_of_another(what: str) -> None:
    disturbance, goes_on = DISTURBANCES[what]
    async with open_scripted(trio.SocketStream.aclose) as server:
        too_long: list[int] = []
        echo(server, disturbance, hangs_up=what == "a reply that breaks off")
        async with connect(server.url, max_backoff=0.05) as redis:

            async def call(number: int) -> None:
                token = b"token %d" % number
                for _ in range(3):
                    try:
                        assert await redis.execute("ECHO", token) == token  # sent again if need be
                    except ReplyTooLongError:
                        too_long.append(number)

            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for number in range(CALLERS):
                        nursery.start_soon(call, number)
            assert server.connections == (1 if goes_on else 2)
            assert len(too_long) == (what == "a list too long to be")


@pytest.mark.parametrize(
    "push",
    [
        b">0\r\n",
        b">1\r\n+message\r\n",
        b">2\r\n+message\r\n+c\r\n",
        b">3\r\n+message\r\n*1\r\n:1\r\n+x\r\n",
        b">3\r\n+message\r\n%0\r\n+x\r\n",
        b">2\r\n+pmessage\r\n+p\r\n",
        b">1\r\n+sunsubscribe\r\n",
    ],
)
async def test_a_push_without_its_parts_costs_a_subscription_a_gap(push: bytes) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        frames = FrameSplitter()
        while data := await stream.receive_some():
            for frame in frames.feed(data):
                if words_of(frame)[0] == b"SUBSCRIBE":
                    await stream.send_all(b">3\r\n+subscribe\r\n+c\r\n:1\r\n")
                    await stream.send_all(b">3\r\n+message\r\n+c\r\n+before\r\n")
                    if server.connections == 2:  # the first one is the shared link's
                        await stream.send_all(push)

    async with open_scripted(answer) as server, connect(server.url, max_backoff=0.05) as redis:
        with trio.fail_after(PATIENCE):
            async with redis.subscribe("c") as subscription:
                got = [await anext(subscription) for _ in range(3)]
    assert got[0] == Message(b"c", b"before")
    assert set(got[1:]) == {Gap(), Message(b"c", b"before")}


MAP = Script("map", "redis.setresp(3); return {map={[{1}]=2}}")


async def test_a_script_whose_map_has_lists_as_keys_ends_its_connection_only(redis: Redis) -> None:
    await redis.execute("SET", "k", "v")
    with trio.fail_after(PATIENCE):
        with pytest.raises(LinkLostError, match="cannot be understood") as caught:
            await redis.run_script(MAP)
        assert caught.value.may_have_run
        assert await redis.execute("GET", "k") == b"v"
