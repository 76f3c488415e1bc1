"""What a map writes and publishes, byte for byte, and what it makes of other writers' bytes.

`Message.encode` is held to the golden vectors in `test_rmap_codecs`; here it stands
for a peer in another language, in both directions.
"""

from collections.abc import Awaitable, Callable

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from terzetto import rmap
from terzetto.errors import InvalidNameError
from terzetto.redis import Message as Published
from terzetto.redis import Redis, connect
from terzetto.rmap import Change, Map, content_key, updates_channel
from terzetto.rmap._message import Message, Op
from terzetto.server import open_embedded

KEY = content_key("config")
CHANNEL = updates_channel("config")


def message(op: Op, revision: int, key: str = "", value: str = "") -> bytes:
    return Message(
        op=op,
        revision=revision,
        key=key.encode("utf-8", "surrogateescape"),
        value=value.encode("utf-8", "surrogateescape"),
    ).encode()


ODD = "\x00\x7f\udcff/é日"
STORED = '["\\u0000\\u007f\udcff\\/é日"]'

# What is called, and the message that must be published, if any; in this order.
CALLS: list[tuple[Callable[[Map], Awaitable[object]], bytes | None]] = [
    (lambda m: m.set("k", "1"), message(Op.SET, 1, "k", "1")),
    (lambda m: m.set("k", "1"), message(Op.SET, 2, "k", "1")),
    (lambda m: m.set("k:", ""), message(Op.SET, 3, "k:", "")),
    (lambda m: m.set_if_absent("k", "2"), None),
    (lambda m: m.set_if_absent("日本", "2"), message(Op.SET, 4, "日本", "2")),
    (lambda m: m.test_and_set("k", "x", "2"), None),
    (lambda m: m.test_and_set("none", "", "2"), None),
    (lambda m: m.test_and_set("k", "1", "2"), message(Op.SET, 5, "k", "2")),
    (lambda m: m.increment("k", 2**62), message(Op.SET, 6, "k", str(2**62 + 2))),
    (lambda m: m.append_values("l"), None),
    (lambda m: m.append_values("l", ODD), message(Op.SET, 7, "l", STORED)),
    (lambda m: m.append_unique_values("l", ODD), None),
    (lambda m: m.append_unique_values("l", "b"), message(Op.SET, 8, "l", STORED[:-1] + ',"b"]')),
    (lambda m: m.remove_values("l", "x"), None),
    (lambda m: m.remove_values("l"), None),
    (lambda m: m.remove_values("l", ODD), message(Op.SET, 9, "l", '["b"]')),
    (lambda m: m.remove_values("l", "b"), message(Op.DELETE, 10, "l")),
    (lambda m: m.delete("l"), None),
    (lambda m: m.delete("日本"), message(Op.DELETE, 11, "日本")),
    (lambda m: m.test_and_delete("k", "x"), None),
    (lambda m: m.test_and_delete("k:", ""), message(Op.DELETE, 12, "k:")),
    (lambda m: m.test_and_reset(["k"], ["x"]), None),
    (lambda m: m.test_and_reset([], []), message(Op.RESET, 13)),
    (lambda m: m.reset(), message(Op.RESET, 14)),
    (lambda m: m.destroy(), message(Op.DESTROY, 15)),
]


async def test_each_commit_publishes_one_message_in_the_bytes_of_the_wire(redis: Redis) -> None:
    async with (
        rmap.join("config", redis, ttl=100) as config,
        redis.subscribe(CHANNEL) as published,
    ):
        for number, (call, expected) in enumerate(CALLS):
            await call(config)
            await redis.execute("PUBLISH", CHANNEL, "end")
            heard: list[bytes] = []
            while b"end" not in heard:
                item = await anext(published)
                assert isinstance(item, Published)
                heard.append(item.data)
            assert heard[:-1] == ([] if expected is None else [expected]), number
        assert await redis.execute("HGETALL", KEY) == {b"=rev": b"15", b"=kind": b"destroy"}


async def test_the_kind_of_the_last_change_stands_in_the_hash(redis: Redis) -> None:
    async with rmap.join("config", redis) as config:
        for call, expected in CALLS:
            await call(config)
            if expected is not None:
                kind = expected.partition(b":")[0]
                assert await redis.execute("HGET", KEY, "=kind") == kind


async def test_changes_of_another_writer_are_followed(redis: Redis) -> None:
    """As a peer does it that shares only the wire with us."""
    async with rmap.join("config", redis) as config, config.subscribe() as changes:
        revision = 0

        async def commit(op: Op, *command: str, key: str = "", value: str = "") -> Change:
            nonlocal revision
            revision += 1
            await redis.execute_many(
                [
                    ["MULTI"],
                    list(command),
                    ["HSET", KEY, "=rev", revision, "=kind", op.value],
                    ["PUBLISH", CHANNEL, message(op, revision, key, value)],
                    ["EXEC"],
                ]
            )
            return await anext(changes)

        assert await commit(Op.SET, "HSET", KEY, "k", ODD, key="k", value=ODD) is Change.SET
        assert config["k"] == ODD
        assert await commit(Op.DELETE, "HDEL", KEY, "k", key="k") is Change.DELETE
        assert not config
        assert await commit(Op.SET, "HSET", KEY, "l", "a,b", key="l", value="a,b") is Change.SET
        assert config.get_values("l") == ["a", "b"]
        assert await commit(Op.RESET, "DEL", KEY) is Change.RESET
        assert not config
        assert await commit(Op.DESTROY, "DEL", KEY) is Change.RESET
        assert config.revision == 5
        await config.set_and_wait("k", "1")
        assert config.revision == 6


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example({b"": b"a", b"=": b"b", b"a=b": b"c", b"\0": b"", b"{}": b"\xff", b",": b'["a"]'})
@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=200), max_size=40))
def test_any_key_and_value_is_byte_exact_or_refused(content: dict[bytes, bytes]) -> None:
    trio.run(write_and_compare, content)


LIST = "a list, longer than any key above: "


async def write_and_compare(content: dict[bytes, bytes]) -> None:
    held: dict[str, bytes] = {}
    async with (
        open_embedded() as server,
        connect(server.url) as redis,
        rmap.join("config", redis, codec=rmap.BYTES) as config,
        rmap.join("config", redis, codec=rmap.BYTES) as other,
    ):
        for key, value in content.items():
            name = key.decode("utf-8", "surrogateescape")
            try:
                await config.set(name, value)
            except InvalidNameError:
                assert not key or b"=" in key
            else:
                held[name] = value
                assert await config.append_values(LIST + name, value, value) == [value, value]
        await other.sync()
        assert other.revision == 2 * len(held)
        for name, value in held.items():
            assert other[name] == value
            assert other.get_values(LIST + name) == [value, value]
