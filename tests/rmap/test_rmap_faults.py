"""The map items of what must survive: each fault is made on a real server and must not show."""

import logging

import pytest
import trio

from terzetto import rmap
from terzetto.actor import open_supervisor
from terzetto.redis import Redis, connect
from terzetto.rmap import Change, Map, TypedMap, content_key, updates_channel
from terzetto.server import EmbeddedServer
from terzetto.testing import open_proxy

KEY = content_key("config")
CHANNEL = updates_channel("config")


async def cut_subscriptions(redis: Redis) -> None:
    """Cut every pub/sub link of the server; the messages until they are back are lost."""
    assert await redis.execute("CLIENT", "KILL", "TYPE", "pubsub") >= 1


def is_stale(config: TypedMap[str]) -> bool:
    return config.stale_since is not None


async def commit_unheard(redis: Redis, key: str, value: str) -> int:
    """Commit a change as a script would, but with its message lost."""
    _, revision = await redis.execute_many(
        [["HSET", KEY, key, value, "=kind", "set"], ["HINCRBY", KEY, "=rev", 1]]
    )
    assert isinstance(revision, int)
    return revision


async def test_a_silent_reconnect_is_made_up_for(redis: Redis) -> None:
    async with rmap.join("config", redis) as config, config.subscribe() as changes:
        await config.set_and_wait("k", "1")
        assert await anext(changes) is Change.SET
        for number in range(5):
            await cut_subscriptions(redis)
            await commit_unheard(redis, "k", f"unheard {number}")
            assert await anext(changes) is Change.SET
            assert config["k"] == f"unheard {number}"


async def test_a_reset_during_an_outage_is_told_as_one(redis: Redis) -> None:
    async with rmap.join("config", redis) as config, config.subscribe() as changes:
        await config.set_and_wait("k", "1")
        assert await anext(changes) is Change.SET
        await cut_subscriptions(redis)
        await config.reset()
        assert await anext(changes) is Change.RESET
        assert not config


async def test_a_reset_during_an_outage_that_sets_follow_is_told_as_what_is_left_of_it(
    server: EmbeddedServer, redis: Redis
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as through,
        rmap.join("config", through) as config,
        rmap.join("config", redis) as other,
        config.subscribe() as changes,
    ):
        await config.set_and_wait("k", "1")
        assert await anext(changes) is Change.SET
        for keys, told in ((["k"], Change.SET), (["new"], Change.DELETE), ([], Change.RESET)):
            await proxy.refuse()
            proxy.cut()
            await other.reset()
            for key in keys:
                await other.set(key, "2")
            await proxy.accept()
            assert await anext(changes) is told
            assert config.snapshot() == dict.fromkeys(keys, "2")


async def test_a_skipped_revision_is_made_up_for(redis: Redis) -> None:
    async with rmap.join("config", redis) as config:
        await commit_unheard(redis, "lost", "1")
        await config.set_and_wait("k", "2")
        assert config.snapshot() == {"lost": "1", "k": "2"}
        assert config.revision == 2


async def test_a_lost_message_without_a_successor_is_found_by_polling(redis: Redis) -> None:
    async with rmap.join("config", redis, poll_interval=0.05) as config:
        await commit_unheard(redis, "k", "1")
        await config.wait_for(lambda m: m.get("k") == "1")


@pytest.mark.parametrize("how", ["FLUSHALL", "FLUSHDB", "DEL"])
async def test_a_lost_hash_is_a_new_epoch(redis: Redis, how: str) -> None:
    async with (
        rmap.join("config", redis) as config,
        rmap.join("config", redis) as other,
        config.subscribe() as changes,
    ):
        for number in range(5):
            await config.set_and_wait(f"old {number}", "1")
        assert await anext(changes) is Change.SET
        await redis.execute(*([how, KEY] if how == "DEL" else [how]))
        await other.set_and_wait("new", "1")
        for joined in (config, other):
            await joined.wait_for(lambda m: m.snapshot() == {"new": "1"})
            assert joined.revision == 1
        assert await anext(changes) is Change.RESET
        await other.set_and_wait("new", "2")
        await config.wait_for(lambda m: m.get("new") == "2")


async def test_a_hash_that_expired_empties_the_map(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "terzetto.rmap")
    async with rmap.join("config", redis, ttl=1, poll_interval=0.05) as config:
        await config.set_and_wait("k", "1")
        await config.wait_for(lambda m: not m)
        assert config.revision == 0
        await config.sync()
    (record,) = caplog.records  # it was to be expected
    assert record.levelno == logging.INFO
    assert "the map expired" in record.getMessage()


async def test_set_and_wait_is_not_over_early_in_a_new_epoch(redis: Redis) -> None:
    async with rmap.join("config", redis) as config, rmap.join("config", redis) as other:
        for number in range(20):
            await config.set_and_wait("k", f"old {number}")
        for number in range(10):
            await redis.execute("FLUSHALL")
            await config.set_and_wait("k", f"new {number}")
            assert config.snapshot() == {"k": f"new {number}"}
        await other.wait_for(lambda m: m.get("k") == "new 9")


async def test_set_and_wait_ends_when_its_value_was_overwritten(redis: Redis) -> None:
    async with rmap.join("config", redis) as config, rmap.join("config", redis) as other:

        async def write(joined: Map, value: str) -> None:
            for _ in range(50):
                await joined.set_and_wait("k", value)

        async with trio.open_nursery() as nursery:
            for joined in (config, other):
                for number in range(5):
                    nursery.start_soon(write, joined, str(number))
        await config.set_and_wait("k", "last")
        await other.wait_for(lambda m: m["k"] == "last")
        assert config.revision == other.revision == 501


async def test_an_old_message_does_not_overwrite_a_newer_snapshot(redis: Redis) -> None:
    async with rmap.join("config", redis) as config:
        await config.set("k", "1")
        await config.set_and_wait("k", "2")
        await redis.execute("PUBLISH", CHANNEL, b"set:\1\0\0\0k\1\0\0\0001\1\0\0\0001")
        await config.set_and_wait("other", "1")
        assert config["k"] == "2"


async def test_malformed_messages_are_passed_over(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "terzetto.rmap")
    bad = [b"", b"x", b"set:", b"set:\xff\xff\xff\xff", b"del:\1\0\0\0k", b"reset:*", b"what:1"]
    async with rmap.join("config", redis) as config:
        for number in range(20):
            for data in bad:
                await redis.execute("PUBLISH", CHANNEL, data)
            await config.set_and_wait("k", str(number))
            assert config["k"] == str(number)
    assert len([r for r in caplog.records if "malformed" in r.getMessage()]) == 20 * len(bad)


async def test_messages_about_the_bookkeeping_fields_are_ignored(redis: Redis) -> None:
    async with rmap.join("config", redis) as config:
        await redis.execute("PUBLISH", CHANNEL, b"set:\4\0\0\0=rev\1\0\0\x009\3\0\0\x00100")
        await config.set_and_wait("k", "1")
        assert config.snapshot() == {"k": "1"}
        assert config.revision == 1


async def test_destroy_does_not_reset_the_revision(redis: Redis) -> None:
    async with rmap.join("config", redis) as config, rmap.join("config", redis) as other:
        await config.set_and_wait("k", "1")
        await config.destroy()
        await config.set_and_wait("k", "2")
        assert config.revision == 3
        await other.wait_for(lambda m: m.get("k") == "2")


async def test_values_with_separators_are_kept_apart(redis: Redis) -> None:
    odd = ["", ":", ",", "\0", "set:k", "=rev", '["a"]', "{}", "\n"]
    async with rmap.join("config", redis) as config, rmap.join("config", redis) as other:
        for number, value in enumerate(odd):
            await config.set_and_wait(f"k{number}:,\0", value)
        await other.wait_for(lambda m: len(m) == len(odd))
        assert list(other.values()) == odd
        assert await config.append_values("l", *odd) == odd


async def test_scripts_survive_script_flush(redis: Redis) -> None:
    async with rmap.join("config", redis) as config:
        for number in range(3):
            await redis.execute("SCRIPT", "FLUSH")
            await config.set_and_wait("k", str(number))
            await config.increment("n")
        await config.wait_for(lambda m: m.snapshot() == {"k": "2", "n": "3"})


@pytest.mark.timeout(180)
async def test_500_cycles_of_joining_and_destroying_leave_no_keys(redis: Redis) -> None:
    for number in range(500):
        async with rmap.join("config", redis) as config:
            await config.set("k", str(number))
            await config.destroy()
    assert await redis.execute("DBSIZE") == 1
    assert await redis.execute("HLEN", KEY) == 2
    await redis.execute("PING")
    with trio.fail_after(10):
        while await redis.execute("PUBSUB", "CHANNELS", "map:*"):
            await trio.lowlevel.checkpoint()


async def test_reads_go_on_while_redis_is_away(server: EmbeddedServer) -> None:
    async with connect(server.url) as redis, rmap.join("config", redis) as config:
        await config.set_and_wait("k", "1")
        assert not is_stale(config)
        await redis.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
        assert config["k"] == "1"
        with trio.fail_after(30):
            while redis.state == "connected":
                await redis.wait_changed()
        since = config.stale_since
        assert since is not None
        assert config["k"] == "1"
        await redis.wait_connected()
        await config.set_and_wait("k", "2")
        assert not is_stale(config)


class Fragile:
    """A codec with a bug: it raises what no codec should, as often as it is told to."""

    crashes = 0

    def encode(self, value: str, /) -> bytes:
        return value.encode()

    def decode(self, data: bytes, /) -> str:
        if self.crashes:
            self.crashes -= 1
            raise ZeroDivisionError
        return data.decode()


async def test_the_map_survives_restarts_of_its_actor(redis: Redis) -> None:
    codec = Fragile()
    async with open_supervisor() as top:
        config = await top.spawn(rmap.child("a/config", redis, codec=codec))
        async with config.subscribe() as changes:
            await config.set_and_wait("k", "1")
            assert await anext(changes) is Change.SET
            codec.crashes = 1
            await config.set("other", "2")
            await config.set("k", "2")
            assert await anext(changes) is Change.SET
            await config.set_and_wait("k", "3")
            assert config.snapshot() == {"k": "3", "other": "2"}
            assert not is_stale(config)
    assert config.is_closed
    assert config["k"] == "3"


def is_closed(config: TypedMap[str]) -> bool:
    return config.is_closed


async def test_a_child_can_be_started_again_after_its_end(redis: Redis) -> None:
    spec = rmap.child("config", redis)
    async with open_supervisor() as top:
        config = await top.spawn(spec)
        await config.set_and_wait("k", "1")
    assert is_closed(config)
    async with open_supervisor() as top:
        assert await top.spawn(spec) is config
        assert not is_closed(config)
        await config.set_and_wait("k", "2")
        assert config["k"] == "2"


async def test_used_up_restarts_cancel_the_block_and_raise_the_last_crash(redis: Redis) -> None:
    codec = Fragile()
    left: list[TypedMap[str]] = []
    ended = trio.Event()

    async def look(config: TypedMap[str]) -> None:
        async with config.subscribe() as changes:
            async for _ in changes:
                pass
        ended.set()

    async def use(outside: trio.Nursery) -> None:
        async with rmap.join("config", redis, codec=codec) as config:
            left.append(config)
            outside.start_soon(look, config)
            await config.set_and_wait("k", "1")
            codec.crashes = 100
            await config.set("other", "1")
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(ZeroDivisionError):
            await use(nursery)
        await ended.wait()
    (config,) = left
    assert config.is_closed
