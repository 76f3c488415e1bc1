"""Which commands are sent again when a reply is lost, and which never are, one by one."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from terzetto.redis import LinkLostError, Redis, Reply, connect
from terzetto.server import EmbeddedServer
from terzetto.testing import Fault, open_proxy
from tests.redis.scripted import PATIENCE

Call = Callable[[Redis], Awaitable[Reply]]

COUNT = "return redis.call('INCR', KEYS[1])"


async def in_a_transaction(redis: Redis) -> None:
    async with redis.transaction() as then:
        then.get("k")


async def on_a_dedicated_link(redis: Redis) -> Reply:
    async with redis.open_dedicated("mine") as link:
        return await link.execute("GET", "k")


async def in_a_lock(redis: Redis) -> bytes:
    async with redis.open_lock("till"):
        return b"held"


SENT_AGAIN: dict[str, tuple[str, Call, Reply]] = {
    "a read": ("GET", lambda redis: redis.execute("GET", "k"), b"v"),
    "a read of redis-py's": ("HGETALL", lambda redis: redis.hgetall("h"), {}),
    "a script that only reads": (
        "EVAL_RO",
        lambda redis: redis.execute("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, "k"),
        b"v",
    ),
    "taking a lock": ("EVALSHA", in_a_lock, b"held"),
}

NEVER: dict[str, tuple[str, Call]] = {
    "a write": ("INCR", lambda redis: redis.execute("INCR", "n")),
    "a write that would do no harm twice": ("SET", lambda redis: redis.execute("SET", "k", "v")),
    "a script": ("EVAL", lambda redis: redis.execute("EVAL", COUNT, 1, "n")),
    "a unit, though it only reads": ("GET", lambda redis: redis.execute_many([("GET", "k")])),
    "a transaction": ("EXEC", in_a_transaction),
    "what is on a dedicated link": ("GET", on_a_dedicated_link),
}


@pytest.mark.parametrize("kind", SENT_AGAIN)
async def test_what_is_sent_again(server: EmbeddedServer, kind: str) -> None:
    command, call, answer = SENT_AGAIN[kind]
    async with open_proxy(server.url) as proxy, connect(proxy.url, max_backoff=0.05) as redis:
        await redis.execute("SET", "k", "v")
        async with redis.open_lock("till"):
            pass  # the server knows the scripts from now on
        rule = proxy.on(command, Fault.DROP_REPLY, times=2)
        with trio.fail_after(PATIENCE):
            assert await call(redis) == answer
        assert rule.hits == 2


@pytest.mark.parametrize("kind", NEVER)
async def test_what_is_never_sent_again(server: EmbeddedServer, kind: str) -> None:
    command, call = NEVER[kind]
    async with open_proxy(server.url) as proxy, connect(proxy.url, max_backoff=0.05) as redis:
        rule = proxy.on(command, Fault.DROP_REPLY, times=None)
        with pytest.raises(LinkLostError) as caught, trio.fail_after(PATIENCE):
            await call(redis)
        assert caught.value.may_have_run
        assert await redis.execute("PING") == b"PONG"
        assert rule.hits == 1
        if command in {"INCR", "EVAL"}:
            assert await redis.execute("STRLEN", "n") == 1
