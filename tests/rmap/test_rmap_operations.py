"""Every operation of a map against a real server: effect, result, revision, what is stored."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from redis.exceptions import ResponseError

from terzetto import rmap
from terzetto.codec import json_codec
from terzetto.errors import ClosedError, InvalidNameError, InvalidOptionError, InvalidPayloadError
from terzetto.redis import Redis
from terzetto.rmap import Map, Swap

KEY = "map:config:content"


@pytest.fixture
async def config(redis: Redis) -> AsyncIterator[Map]:
    async with rmap.join("config", redis) as joined:
        yield joined


async def settle(config: Map, redis: Redis) -> None:
    """Wait until the copy has what the server has."""
    stored = await redis.execute("HGET", KEY, "=rev")
    await config.wait_for(lambda m: m.revision >= int(stored or 0))


async def test_a_map_is_empty_at_first(config: Map) -> None:
    assert dict(config) == {}
    assert len(config) == 0
    assert config.revision == 0
    assert config.stale_since is None
    assert not config.is_closed
    assert config.name == "config"
    assert "no" not in config
    with pytest.raises(KeyError):
        config["no"]


async def test_set_gives_the_value_before(config: Map, redis: Redis) -> None:
    assert await config.set("k", "1") is None
    assert await config.set("k", "") == "1"
    assert await config.set("k", "2") == ""
    await settle(config, redis)
    assert config["k"] == "2"
    assert await redis.execute("HGETALL", KEY) == {b"k": b"2", b"=rev": b"3", b"=kind": b"set"}


async def test_set_and_wait_reads_its_own_write(config: Map) -> None:
    for number in range(50):
        await config.set_and_wait("k", str(number))
        assert config["k"] == str(number)
        assert config.revision == number + 1


async def test_set_if_absent(config: Map, redis: Redis) -> None:
    assert await config.set_if_absent("k", "1")
    assert not await config.set_if_absent("k", "2")
    await settle(config, redis)
    assert config["k"] == "1"
    assert config.revision == 1


async def test_test_and_set(config: Map, redis: Redis) -> None:
    assert await config.test_and_set("k", "", "1") == Swap(None, done=False)
    await config.set("k", "1")
    assert await config.test_and_set("k", "2", "3") == Swap("1", done=False)
    assert await config.test_and_set("k", "1", "3") == Swap("1", done=True)
    await settle(config, redis)
    assert config["k"] == "3"
    assert config.revision == 2


async def test_increment(config: Map, redis: Redis) -> None:
    assert await config.increment("n") == 1
    assert await config.increment("n", 41) == 42
    assert await config.increment("n", -(2**63) - 0) == 42 - 2**63
    await config.set("n", str(2**63 - 1))
    await settle(config, redis)
    revision = config.revision
    await config.set("text", "abc")
    with pytest.raises(ResponseError, match=r"'n' of the map 'config' .* fit into 64 bits"):
        await config.increment("n")
    with pytest.raises(ResponseError, match=r"'text' of the map 'config' .* is no integer"):
        await config.increment("text")
    with pytest.raises(InvalidOptionError):
        await config.increment("n", 2**63)
    for delta in ("2", 1.5, None):
        with pytest.raises(TypeError, match="delta is an integer"):
            await config.increment("n", delta)  # type: ignore[arg-type] # on purpose  # pyright: ignore[reportArgumentType] - likewise
    await settle(config, redis)
    assert config.revision == revision + 1
    assert config.snapshot() == {"n": str(2**63 - 1), "text": "abc"}


async def test_lists(config: Map, redis: Redis) -> None:
    assert config.get_values("l") == []
    assert await config.append_values("l") == []
    assert await config.append_values("l", "a", "b/c", "a") == ["a", "b/c", "a"]
    assert await config.append_values("l") == ["a", "b/c", "a"]
    assert await config.append_unique_values("l", "a", "d", "d") == ["a", "b/c", "a", "d"]
    assert await config.append_unique_values("l", "d") == ["a", "b/c", "a", "d"]
    assert await redis.execute("HGET", KEY, "l") == rb'["a","b\/c","a","d"]'
    await settle(config, redis)
    assert config.revision == 2
    assert config.get_values("l") == ["a", "b/c", "a", "d"]
    assert await config.remove_values("l", "a", "x") == (["b/c", "d"], True)
    assert await config.remove_values("l", "x") == (["b/c", "d"], False)
    assert await config.remove_values("l") == (["b/c", "d"], False)
    assert await config.remove_values("none", "x") == ([], False)
    assert await config.remove_values("l", "b/c", "d") == ([], True)
    await settle(config, redis)
    assert "l" not in config
    assert await redis.execute("HGET", KEY, "=kind") == b"del"
    assert config.revision == 4


async def test_a_list_that_is_no_json(config: Map, redis: Redis) -> None:
    await config.set_and_wait("l", "x,,y")
    assert config.get_values("l") == ["x", "", "y"]
    assert await config.append_values("l", "z") == ["x", "y", "z"]
    await config.set("l", '["a",1,null,{"b":[2]}]')
    assert await config.remove_values("l", "1") == (['["a"', "1", "null", '{"b":[2]}]'], False)
    await config.append_unique_values("l", "c")
    assert await redis.execute("HGET", KEY, "l") == b'["a",1,null,{"b":[2]},"c"]'
    await config.set("l", '{"a":"b"}')
    await config.append_values("l", "c")
    await settle(config, redis)
    assert sorted(config["l"].strip("{}").split(",")) == ['"1":"c"', '"a":"b"']


async def test_delete(config: Map, redis: Redis) -> None:
    assert await config.delete("k") is None
    await config.set("k", "1")
    assert await config.test_and_delete("k", "2") == Swap("1", done=False)
    assert await config.test_and_delete("k", "1") == Swap("1", done=True)
    assert await config.test_and_delete("k", "1") == Swap(None, done=False)
    await config.set("k", "2")
    assert await config.delete("k") == "2"
    await settle(config, redis)
    assert len(config) == 0
    assert config.revision == 4


async def test_reset_and_destroy(config: Map, redis: Redis) -> None:
    await config.set("a", "1")
    await config.set("b", "2")
    assert not await config.test_and_reset(["a", "b"], ["1", "1"])
    assert not await config.test_and_reset(["a", "c"], ["1", ""])
    await settle(config, redis)
    assert len(config) == 2
    assert await config.test_and_reset(["a", "b"], ["1", "2"])
    await settle(config, redis)
    assert len(config) == 0
    assert await config.test_and_reset([], [])
    await config.set("a", "1")
    await config.reset()
    assert await redis.execute("HGETALL", KEY) == {b"=rev": b"6", b"=kind": b"reset"}
    await config.set("a", "1")
    await config.destroy()
    await settle(config, redis)
    assert len(config) == 0
    assert await redis.execute("HGETALL", KEY) == {b"=rev": b"8", b"=kind": b"destroy"}
    with pytest.raises(InvalidOptionError):
        await config.test_and_reset(["a"], [])


async def test_any_bytes_round_trip(config: Map, redis: Redis) -> None:
    key, value = b"k\xff\0\n:", bytes(range(256))
    text = value.decode("utf-8", "surrogateescape")
    name = key.decode("utf-8", "surrogateescape")
    await config.set_and_wait(name, text)
    assert config[name] == text
    assert await redis.execute("HGET", KEY, key) == value
    assert await config.append_values("l", text) == [text]
    async with rmap.join("config", redis, codec=rmap.BYTES) as other:
        assert other[name] == value
        assert other.get_values("l") == [value]
        assert await other.append_unique_values("l", value, b"\xfe") == [value, b"\xfe"]
        assert await other.set("k", b"") is None


async def test_a_value_of_ten_megabytes(config: Map, redis: Redis) -> None:
    big = "x" * 10_000_000
    await config.set_and_wait("k", big)
    assert config["k"] == big
    async with rmap.join("config", redis) as other:
        assert other["k"] == big
    assert await config.delete("k") == big


async def test_typed_values(redis: Redis) -> None:
    async with rmap.join("config", redis, codec=json_codec(dict[str, int])) as config:
        await config.set_and_wait("k", {"a": 1})
        assert config["k"] == {"a": 1}
        assert await config.test_and_set("k", {"a": 1}, {"b": 2}) == Swap({"a": 1}, done=True)
        with pytest.raises(InvalidPayloadError):
            await config.set("k", {"a": "1"})  # type: ignore[dict-item] # on purpose  # pyright: ignore[reportArgumentType] - likewise
        with pytest.raises(InvalidPayloadError):
            await config.set("k", {"a": object()})  # type: ignore[dict-item] # on purpose  # pyright: ignore[reportArgumentType] - likewise
        async with rmap.join("config", redis) as text:
            await text.set("k", "not JSON")
        await config.wait_for(lambda m: m.undecodable)
        assert dict(config.undecodable) == {"k": b"not JSON"}
        assert "k" not in config
        assert config.get("k") is None
        with pytest.raises(InvalidPayloadError, match="'k' in the map 'config'"):
            config["k"]
        assert await config.set("k", {}) is None


@pytest.mark.parametrize("key", ["", "a=b", "=rev"])
async def test_keys_are_checked_before_redis_is_touched(
    config: Map, redis: Redis, key: str
) -> None:
    calls = [
        config.set(key, "1"),
        config.set_and_wait(key, "1"),
        config.set_if_absent(key, "1"),
        config.test_and_set(key, "1", "2"),
        config.increment(key),
        config.append_values(key, "1"),
        config.append_unique_values(key, "1"),
        config.remove_values(key, "1"),
        config.delete(key),
        config.test_and_delete(key, "1"),
        config.test_and_reset([key], ["1"]),
    ]
    for call in calls:
        with pytest.raises(InvalidNameError):
            await call
    assert await redis.execute("EXISTS", KEY) == 0


async def test_values_of_the_wrong_type_are_refused(config: Map, redis: Redis) -> None:
    with pytest.raises(InvalidPayloadError, match="not int"):
        await config.set("k", 1)  # type: ignore[arg-type] # on purpose  # pyright: ignore[reportArgumentType] - likewise
    async with rmap.join("other", redis, codec=rmap.BYTES) as other:
        with pytest.raises(InvalidPayloadError, match="not str"):
            await other.set("k", "1")  # type: ignore[arg-type] # on purpose  # pyright: ignore[reportArgumentType] - likewise


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": "60"}, TypeError),
        ({"ttl": None}, TypeError),
        ({"ttl": timedelta(minutes=1)}, TypeError),
        ({"ttl": -1}, InvalidOptionError),
        ({"ttl": float("nan")}, InvalidOptionError),
        ({"sliding": True}, InvalidOptionError),
        ({"poll_interval": "1"}, TypeError),
        ({"poll_interval": 0}, InvalidOptionError),
        ({"redis": "redis://127.0.0.1"}, TypeError),
    ],
)
@pytest.mark.parametrize("join", [rmap.join, rmap.child])
async def test_options_are_checked_before_redis_is_touched(
    redis: Redis, join: Callable[..., object], options: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options)) if "redis" not in options else "client"):
        join("config", **({"redis": redis} | options))


@pytest.mark.parametrize("stored", ['["a","b",1e999]', '["a","b",NaN]', '["a",["b",Infinity]]'])
async def test_a_list_that_cannot_be_written_is_left_as_it_is(
    config: Map, redis: Redis, stored: str
) -> None:
    await config.set("l", stored)
    for call in (config.remove_values("l", "a"), config.append_values("l", "x")):
        with pytest.raises(ResponseError):
            await call
    await config.sync()
    assert config.revision == 1
    assert config["l"] == stored


@pytest.mark.parametrize("name", ["", "a b", "a*", "a?", "[a]", "a\0", "x" * 513])
async def test_names_are_checked_before_redis_is_touched(redis: Redis, name: str) -> None:
    with pytest.raises(InvalidNameError):
        rmap.join(name, redis)


async def test_a_left_map_is_frozen_but_can_be_reset(redis: Redis) -> None:
    async with rmap.join("config", redis) as config, rmap.join("config", redis) as other:
        await config.set_and_wait("k", "1")
        await other.wait_for(lambda m: "k" in m)
    assert config.is_closed
    assert config["k"] == "1"
    assert config.snapshot() == {"k": "1"}
    assert config.stale_since is not None
    for call in (config.set("k", "2"), config.delete("k"), config.append_values("k")):
        with pytest.raises(ClosedError):
            await call
    async with rmap.join("config", redis) as other:
        await config.reset()
        await other.wait_for(lambda m: not m)
        await other.set("k", "3")
        await config.destroy()
        await other.wait_for(lambda m: not m)
    assert config["k"] == "1"


async def test_something_else_at_the_maps_place(redis: Redis) -> None:
    await redis.execute("SET", KEY, "no hash")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        async with rmap.join("config", redis):
            raise AssertionError
    assert await redis.execute("GET", KEY) == b"no hash"


async def test_a_revision_that_cannot_be_read(redis: Redis) -> None:
    await redis.execute("HSET", KEY, "=rev", "text", "k", "1", "foreign=", "2")
    async with rmap.join("config", redis) as config:
        assert config.snapshot() == {"k": "1", "foreign=": "2"}
        with pytest.raises(ResponseError):
            await config.set("k", "2")
        for key in ("k", "n"):
            with pytest.raises(ResponseError, match="the revision of the map cannot be read"):
                await config.increment(key)
        assert await redis.execute("HGETALL", KEY) == {
            b"=rev": b"text",
            b"k": b"1",
            b"foreign=": b"2",
        }
        await config.reset()
        await config.wait_for(lambda m: not m)
        await config.set_and_wait("k", "1")
        assert config.snapshot() == {"k": "1"}


async def test_an_absolute_expiry_is_armed_once(redis: Redis) -> None:
    async with rmap.join("config", redis, ttl=100.9) as config:
        assert await config.delete("k") is None
        assert await redis.execute("EXISTS", KEY) == 0
        await config.set("k", "1")
        assert 90 < await redis.execute("TTL", KEY) <= 100
        await redis.execute("EXPIRE", KEY, 50)
        await config.set("k", "1")
        await config.set_if_absent("k", "1")
        assert await redis.execute("TTL", KEY) <= 50
        await config.reset()
        assert 90 < await redis.execute("TTL", KEY) <= 100


async def test_a_sliding_expiry_is_armed_by_each_operation(redis: Redis) -> None:
    async with rmap.join("config", redis, ttl=0.5, sliding=True) as short:
        await short.set("k", "1")
        assert await redis.execute("PTTL", KEY) <= 1000
    async with rmap.join("config", redis, ttl=100, sliding=True) as config:
        calls = [
            config.set("k", "1"),
            config.set_if_absent("k", "1"),
            config.test_and_set("k", "x", "2"),
            config.increment("n"),
            config.append_values("l", "a"),
            config.append_unique_values("l", "a"),
            config.remove_values("l", "b"),
            config.delete("none"),
            config.test_and_delete("none", "1"),
            config.test_and_reset(["k"], ["x"]),
            config.reset(),
            config.destroy(),
        ]
        for number, call in enumerate(calls):
            await redis.execute("EXPIRE", KEY, 1)
            await call
            assert await redis.execute("TTL", KEY) > 90, number


@pytest.mark.parametrize("ttl", [-1.0, float("nan"), float("inf"), 1e10])
async def test_an_expiry_out_of_range_is_refused(redis: Redis, ttl: float) -> None:
    with pytest.raises(InvalidOptionError):
        rmap.join("config", redis, ttl=ttl)
    with pytest.raises(InvalidOptionError):
        rmap.join("config", redis, poll_interval=0)
