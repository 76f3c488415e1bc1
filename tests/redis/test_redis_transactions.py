"""Pipelines, transactions and watched keys."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import trio
import trio.testing
from redis.commands.core import AsyncScript
from redis.exceptions import ExecAbortError, ResponseError, WatchError

from terzetto.errors import TerzettoError
from terzetto.redis import (
    LinkLostError,
    Redis,
    Transaction,
    UnsentError,
    Watching,
    WrongLinkError,
    connect,
)
from terzetto.server import EmbeddedServer
from terzetto.testing import Fault, open_proxy
from tests.redis.scripted import PATIENCE, held


async def test_a_pipeline_is_sent_when_its_block_is_left(redis: Redis) -> None:
    async with redis.pipeline() as pipe:
        pipe.set("k", "v")
        got = pipe.get("k")
        scores = pipe.zadd("z", {"a": 1})
        ranks = pipe.execute_command("ZRANGE", "z", 0, -1, "WITHSCORES", withscores=True)
        with pytest.raises(UnsentError):
            await got
        assert len(pipe) == 4
        assert await redis.execute("EXISTS", "k") == 0
    assert (await got, await scores, await ranks) == (b"v", 1, [[b"a", 1.0]])


async def test_a_pipeline_can_be_sent_at_will(redis: Redis) -> None:
    pipe = redis.pipeline()
    assert pipe
    pipe.incr("n")
    pipe.hgetall("none")
    assert await pipe.execute() == [1, {}]
    assert await pipe.execute() == []
    pipe.incr("n")
    assert await pipe.execute() == [2]


async def test_an_error_in_a_pipeline_is_raised_after_all_have_run(redis: Redis) -> None:
    await redis.execute("SET", "text", "x")
    pipe = redis.pipeline()
    failed = pipe.incr("text")
    fine = pipe.incr("n")
    with pytest.raises(ResponseError, match="not an integer"):
        async with pipe:
            pass
    assert await fine == 1
    with pytest.raises(ResponseError):
        await failed
    pipe.incr("text")
    pipe.incr("n")
    results = await pipe.execute(raise_on_error=False)
    assert isinstance(results[0], ResponseError)
    assert results[1] == 2


async def test_a_block_that_raises_sends_nothing(redis: Redis) -> None:
    pipe = redis.pipeline()
    queued = pipe.incr("n")
    with pytest.raises(KeyError):
        async with pipe:
            raise KeyError
    assert await redis.execute("GET", "n") is None
    with pytest.raises(TerzettoError, match="not been sent"):
        await queued


async def test_what_was_queued_in_a_pipeline_that_is_lost_says_that_it_may_have_run(
    server: EmbeddedServer,
) -> None:
    async with open_proxy(server.url) as proxy, connect(proxy.url) as redis:
        proxy.on("SET", Fault.DROP_REPLY)
        pipe = redis.pipeline()
        queued = pipe.set("k", "v")
        with pytest.raises(LinkLostError), trio.fail_after(PATIENCE):
            await pipe.execute()
        with pytest.raises(LinkLostError) as caught:
            await queued
        assert caught.value.may_have_run
        assert await redis.execute("GET", "k") == b"v"


async def test_what_was_queued_in_a_transaction_that_a_watched_key_stops_says_so(
    redis: Redis,
) -> None:
    async with redis.watch_keys("k") as now:
        await redis.execute("SET", "k", 10)
        then = now.transaction()
        queued = then.incr("k")
        with pytest.raises(WatchError):
            await then.execute()
        with pytest.raises(WatchError):
            await queued


async def test_what_was_queued_in_a_pipeline_that_is_cancelled_says_so(
    redis: Redis, server: EmbeddedServer
) -> None:
    pipe = redis.pipeline()
    queued = pipe.set("k", "v")
    with held(server), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_once_blocked, scope)
            await pipe.execute()
    with pytest.raises(TerzettoError, match="may have run"):
        await queued


async def cancel_once_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_pipeline_refuses_what_would_hold_up_the_link(redis: Redis) -> None:
    with pytest.raises(WrongLinkError):
        async with redis.pipeline() as pipe:
            pipe.blpop(["list"])


async def test_a_transaction_is_whole(redis: Redis) -> None:
    async with redis.transaction() as then:
        then.set("a", 1)
        then.incr("a")
        last = then.get("a")
    assert await last == b"2"
    async with redis.transaction():
        pass  # nothing to do is fine
    with pytest.raises(ExecAbortError) as caught:
        async with redis.transaction() as then:
            then.set("a", 5)
            then.execute_command("NO.SUCH")
    assert "NO.SUCH" in str(caught.value.__cause__)
    assert await redis.execute("GET", "a") == b"2"


async def test_many_transactions_at_once_do_not_mix(redis: Redis) -> None:
    async def swap(number: int) -> None:
        async with redis.transaction() as then:
            old = then.getset("who", number)
            new = then.get("who")
        assert await new == b"%d" % number
        assert await old != await new

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(swap, number)


async def test_a_watched_key_that_changed_stops_the_transaction(redis: Redis) -> None:
    await redis.execute("SET", "k", 1)
    async with redis.watch_keys("k") as now:
        assert await now.get("k") == b"1"
        async with now.transaction() as then:
            then.incr("k")
    assert await redis.execute("GET", "k") == b"2"
    async with redis.watch_keys("k") as now:
        await redis.execute("SET", "k", 10)
        with pytest.raises(WatchError):
            async with now.transaction() as then:
                then.incr("k")
    assert await redis.execute("GET", "k") == b"10"


async def test_watching_ends_with_the_block(redis: Redis) -> None:
    async with redis.watch_keys("k") as now:
        await now.get("k")
    await redis.execute("SET", "k", 1)
    async with redis.watch_keys("other") as now, now.transaction() as then:  # the same link
        then.set("other", 1)
    assert await redis.execute("GET", "other") == b"1"


async def test_transact_repeats_until_nobody_else_has_written(redis: Redis) -> None:
    calls = 0

    async def increment(now: Watching, then: Transaction) -> int:
        nonlocal calls
        calls += 1
        value = int(await now.get("n") or 0)
        then.set("n", value + 1)
        return value

    async def several() -> None:
        for _ in range(10):
            await redis.transact(increment, "n")

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(several)
    assert await redis.execute("GET", "n") == b"50"
    assert calls >= 50


async def test_an_exception_of_a_change_comes_out_and_writes_nothing(redis: Redis) -> None:
    async def change(_: Watching, then: Transaction) -> None:
        then.set("n", 1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await redis.transact(change, "n")
    assert await redis.execute("GET", "n") is None


async def test_a_lost_connection_ends_the_watching(redis: Redis, server: EmbeddedServer) -> None:
    """The transaction is not carried out on another connection, where nothing is watched."""
    with pytest.raises(LinkLostError) as caught:
        async with redis.watch_keys("k") as now:
            await server.kill()
            await server.start()
            await redis.wait_connected()
            async with now.transaction() as then:
                then.set("k", "unwatched")
    assert not caught.value.may_have_run
    assert await redis.execute("GET", "k") is None


async def test_a_transaction_lost_on_its_way_may_have_run(
    redis: Redis, server: EmbeddedServer
) -> None:
    async def lose() -> None:
        with pytest.raises(LinkLostError) as caught:
            async with redis.transaction() as then:
                then.set("k", 1)
        assert caught.value.may_have_run

    async with trio.open_nursery() as nursery:
        with held(server):
            nursery.start_soon(lose)
            await trio.testing.wait_all_tasks_blocked()
            await server.kill()
        await server.start()


async def test_decoded_replies(server: EmbeddedServer) -> None:
    async with connect(server.url, decode_replies=True) as redis:
        await redis.hset("h", "grün", "\udcff")
        assert await redis.hgetall("h") == {"grün": "\udcff"}
        assert await redis.execute("HGETALL", "h") == {"grün".encode(): b"\xff"}
        async with redis.pipeline() as pipe:
            keys = pipe.hkeys("h")
        assert await keys == ["grün"]
        assert await gather(redis, "hscan_iter", "h") == {("grün", "\udcff")}


async def gather(client: Any, scan: str, *args: str, **options: Any) -> set[Any]:  # noqa: ANN401 - redis-py types its scans in part only
    items: AsyncIterator[Any] = getattr(client, scan)(*args, **options)
    return {item if isinstance(item, bytes) else tuple(item) async for item in items}


async def test_scans_go_over_all(redis: Redis) -> None:
    names = {b"key:%d" % number for number in range(300)}
    await redis.execute_many([("SET", name, 1) for name in names])
    assert await gather(redis, "scan_iter", match="key:*", count=50) == names
    await redis.execute("SADD", "s", *names)
    assert await gather(redis, "sscan_iter", "s") == names
    await redis.zadd("z", dict.fromkeys(names, 1.5))
    assert await gather(redis, "zscan_iter", "z") == {(name, 1.5) for name in names}
    await redis.hset("h", mapping=dict.fromkeys(names, b"v"))
    assert await gather(redis, "hscan_iter", "h") == {(name, b"v") for name in names}


async def test_registered_scripts_of_redis_py(redis: Redis) -> None:
    script = AsyncScript(cast("Any", redis), "return {KEYS[1], ARGV[1]}")
    assert await script(keys=["k"], args=["v"]) == [b"k", b"v"]
