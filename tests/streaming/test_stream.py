"""Streams: adding, removing, expiry, and what they hold, on the wire that Go peers read."""

import math
from itertools import pairwise

import pytest
import trio

from terzetto.codec import json_codec
from terzetto.errors import InvalidNameError, InvalidOptionError
from terzetto.redis import Redis
from terzetto.streaming import OLDEST, InvalidPatternError, Stream, stream_key
from terzetto.streaming._positions import parse_id


async def entries(redis: Redis, name: str) -> list[tuple[bytes, list[bytes]]]:
    found: list[tuple[bytes, list[bytes]]] = await redis.execute(
        "XRANGE", stream_key(name), "-", "+"
    )
    return found


async def test_an_entry_has_the_fields_that_go_peers_read(redis: Redis) -> None:
    users = Stream("users", redis)
    first = await users.add("user.created", b"\x00\xff", topic="eu")
    second = await users.add("user.deleted", b"")
    assert await redis.execute("KEYS", "*") == [b"pulse:stream:users"]
    assert [
        (str(entry_id, "ascii"), fields) for entry_id, fields in await entries(redis, "users")
    ] == [
        (first, [b"n", b"user.created", b"p", b"\x00\xff", b"t", b"eu"]),
        (second, [b"n", b"user.deleted", b"p", b""]),
    ]


async def test_only_if_exists_does_not_make_the_stream(redis: Redis) -> None:
    users = Stream("users", redis)
    assert await users.add("a", b"", only_if_exists=True) is None
    assert await users.add_many([("a", b""), ("b", b"")], only_if_exists=True) == [None, None]
    assert not await redis.execute("EXISTS", users.key)
    await users.add("a", b"")
    assert await users.add("b", b"", only_if_exists=True) is not None
    assert await users.length() == 2


async def test_add_many_keeps_the_order_and_returns_the_ids(redis: Redis) -> None:
    users = Stream("users", redis, max_len=0)
    ids = await users.add_many((f"e{n}", b"%d" % n, "t" if n % 2 else None) for n in range(1201))
    assert [str(entry_id, "ascii") for entry_id, _ in await entries(redis, "users")] == ids
    known = [event_id for event_id in ids if event_id is not None]
    assert all(parse_id(one) < parse_id(other) for one, other in pairwise(known))
    assert await users.add_many([]) == []


async def test_max_len_trims_about_and_0_keeps_all(redis: Redis) -> None:
    for name, max_len, kept in (("a", 100, range(100, 300)), ("b", 0, [1000])):
        stream = Stream(name, redis, max_len=max_len)
        await stream.add_many([("n", b"")] * 1000)
        assert await stream.length() in kept


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("sliding", [False, True])
async def test_expiry(redis: Redis, *, many: bool, sliding: bool) -> None:
    stream = Stream("s", redis, ttl=100, sliding=sliding)
    for left in (100, 50):
        if many:
            await stream.add_many([("a", b"")])
        else:
            await stream.add("a", b"")
        expected = {100} if left == 100 or sliding else {49, 50}
        assert await redis.execute("TTL", stream.key) in {*expected, *(n - 1 for n in expected)}
        await redis.execute("EXPIRE", stream.key, 50)


async def test_a_sink_arms_the_expiry_when_it_makes_the_group(redis: Redis) -> None:
    stream = Stream("s", redis, ttl=100)
    async with stream.open_sink("k"):
        assert await redis.execute("TTL", stream.key) in {99, 100}
        assert await redis.execute("TTL", "map:stream:s:sinks:content") in {99, 100}
        assert await redis.execute("TTL", "map:sink:k:keepalive:content") == -1


async def test_remove_deletes_events(redis: Redis) -> None:
    stream = Stream("s", redis)
    ids = await stream.add_many([("a", b""), ("b", b""), ("c", b"")])
    known = [event_id for event_id in ids if event_id is not None]
    assert await stream.remove(*known[:2]) == 2
    assert await stream.remove(*known) == 1
    assert await stream.remove() == 0
    with pytest.raises(InvalidOptionError):
        await stream.remove("x")


async def test_destroy_takes_the_consumers_map_with_it(redis: Redis) -> None:
    stream = Stream("s", redis)
    await stream.destroy()
    assert await redis.execute("KEYS", "*") == []
    async with stream.open_sink("k"):
        before = await redis.execute("HGETALL", "map:stream:s:sinks:content")
        assert before[b"k"].startswith(b'["')
    async with redis.subscribe("map:stream:s:sinks:updates") as updates:
        await stream.destroy()
        message = await anext(aiter(updates))
    after = await redis.execute("HGETALL", "map:stream:s:sinks:content")
    assert after == {b"=rev": str(int(before[b"=rev"]) + 2).encode(), b"=kind": b"destroy"}
    assert getattr(message, "data", None) == b"destroy:" + after[b"=rev"]
    assert not await redis.execute("EXISTS", stream.key)


async def test_info(redis: Redis) -> None:
    stream = Stream("s", redis)
    nothing = await stream.info()
    assert (nothing.length, nothing.added, nothing.first_id, nothing.last_id) == (
        0,
        0,
        "0-0",
        "0-0",
    )
    assert nothing.groups == ()
    ids = await stream.add_many([("a", b"")] * 3)
    async with stream.open_sink("k", start=OLDEST, max_polled=2, buffer_size=2) as sink:
        await sink.ack((await sink.read())[0])
        info = await stream.info()
    assert (info.length, info.first_id, info.last_id) == (3, ids[0], ids[-1])
    (group,) = info.groups
    assert group.name == "k"
    assert group.consumers == 1
    assert group.lag is not None
    assert group.pending + group.lag == 2


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 * 1024])
async def test_payloads_come_back_as_they_were(redis: Redis, size: int) -> None:
    stream = Stream("s", redis)
    payload = bytes(range(256)) * (size // 256) + b"\xff" * (size % 256)
    async with stream.open_reader() as reader:
        await stream.add("a", payload, topic="\udcff: =*\0\n")
        with trio.fail_after(30):
            event = await anext(reader)
    assert event.payload == payload
    assert event.topic == "\udcff: =*\0\n"


async def test_what_cannot_be_added_is_refused_before_redis_is_touched(redis: Redis) -> None:
    stream = Stream("s", redis)
    with pytest.raises(InvalidNameError):
        await stream.add("", b"")
    with pytest.raises(TypeError):
        await stream.add("a", "text")  # type: ignore[arg-type]  # what an untyped caller may pass
    with pytest.raises(TypeError):
        await stream.add(b"a", b"")  # type: ignore[arg-type]  # likewise
    with pytest.raises(InvalidNameError):
        await stream.add_many([("a", b""), ("", b"")])
    for text in ("\ud800", "a\udfff"):
        with pytest.raises(InvalidNameError, match="surrogates"):
            await stream.add(text, b"")
        with pytest.raises(InvalidNameError, match="surrogates"):
            await stream.add_many([("a", b""), ("b", b"", text)])
        with pytest.raises(InvalidPatternError, match="surrogate"):
            stream.open_reader(topic_pattern=text)
    for topic in (5, 0, b"t"):
        with pytest.raises(TypeError, match="a topic is a str"):
            await stream.add("a", b"", topic=topic)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - likewise
    for event in (("a",), ("a", b"", None, None), "ab", 5):
        with pytest.raises(TypeError, match="tuple of name, payload"):
            await stream.add_many([("a", b""), event])  # type: ignore[list-item] # pyright: ignore[reportArgumentType] - likewise
        with pytest.raises(TypeError, match="tuple of name, payload"):
            await stream.typed(json_codec(int)).add_many([("a", 1), event])  # type: ignore[list-item] # pyright: ignore[reportArgumentType] - likewise
    with pytest.raises(InvalidNameError):
        Stream("a b", redis)
    for max_len in (1.5, None, "a", math.nan, math.inf, 2**63):
        with pytest.raises(InvalidOptionError, match="max_len is"):
            Stream("s", redis, max_len=max_len)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - likewise
    with pytest.raises(InvalidOptionError):
        Stream("s", redis, ttl=-1)
    for event_id in (5, None, b"1-0"):
        with pytest.raises(TypeError, match="an event id is a str"):
            await stream.remove(event_id)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - likewise
    for wrong in (
        {"block": -1},
        {"max_polled": 0},
        {"max_polled": 1.5},
        {"max_polled": 10**30},
        {"buffer_size": 10**30},
        {"buffer_size": 0},
        {"buffer_size": None},
        {"ack_grace_period": 0},
        {"ack_grace_period": "20"},
        {"ack_grace_period": 1e10},
        {"ack_grace_period": 1e-9},
        {"max_deliveries": math.nan},
        {"max_deliveries": "3"},
        {"retry_base": math.inf},
        {"close_grace": None},
    ):
        with pytest.raises(InvalidOptionError, match=f"{next(iter(wrong))} is"):
            stream.open_sink("k", **wrong)  # pyright: ignore[reportArgumentType] - the table mixes types
    with pytest.raises(InvalidNameError):
        stream.open_sink("a=b")
    with pytest.raises(InvalidOptionError):
        stream.open_reader(start="no id")
    assert await redis.execute("KEYS", "*") == []
