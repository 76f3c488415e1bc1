"""Looking at maps without a replica."""

import pytest

from terzetto import rmap
from terzetto.errors import InvalidNameError
from terzetto.redis import Redis
from terzetto.rmap import Update, find_maps, open_log, read_map
from terzetto.rmap._message import Message, Op


async def test_a_map_is_read_as_it_stands(redis: Redis) -> None:
    async with rmap.join("config", redis, ttl=60.0) as config:
        await config.set("a", "1")
        await config.set("b", "\udcff")
        await config.delete("a")
    seen = await read_map("config", redis)
    assert (seen.revision, seen.last_op, seen.values) == (3, "del", {"b": "\udcff"})
    assert seen.expires_in is not None
    assert 0 < seen.expires_in <= 60
    assert await find_maps(redis) == ["config"]


async def test_a_map_that_is_not_there_is_empty(redis: Redis) -> None:
    seen = await read_map("none", redis)
    assert (seen.revision, seen.last_op, seen.expires_in, seen.values) == (None, None, None, {})
    assert await find_maps(redis) == []


async def test_a_hash_of_others_is_shown_without_a_revision(redis: Redis) -> None:
    await redis.hset("map:odd:content", mapping={"=rev": "soon", "k": "v"})
    seen = await read_map("odd", redis)
    assert (seen.revision, seen.values) == (None, {"k": "v"})


async def test_the_log_has_every_change_and_leaves_out_what_is_none(redis: Redis) -> None:
    async with rmap.join("config", redis) as config, open_log("config", redis) as log:
        await config.set("a", "1")
        await redis.execute("PUBLISH", "map:config:updates", b"no change")
        for key in (b"", b"=rev", b"=kind"):
            for message in (Message(Op.SET, 5, key, b"1"), Message(Op.DELETE, 5, key)):
                await redis.execute("PUBLISH", "map:config:updates", message.encode())
        await config.set("a", "2")
        await config.delete("a")
        await config.reset()
        await config.destroy()
        updates = [await anext(log) for _ in range(5)]
    assert updates == [
        Update(op="set", revision=1, key="a", value="1"),
        Update(op="set", revision=2, key="a", value="2"),
        Update(op="delete", revision=3, key="a", value=""),
        Update(op="reset", revision=4, key="", value=""),
        Update(op="destroy", revision=5, key="", value=""),
    ]


async def test_names_that_no_map_has_are_refused(redis: Redis) -> None:
    with pytest.raises(InvalidNameError):
        await read_map("a b", redis)
    with pytest.raises(InvalidNameError):
        async with open_log("", redis):
            pass
