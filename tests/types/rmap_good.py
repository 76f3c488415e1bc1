"""What must type-check: a map has the type of its values, by its codec."""

from collections.abc import AsyncIterator, Mapping
from typing import assert_type

import attrs

from terzetto import rmap
from terzetto.actor import Child, Supervisor
from terzetto.codec import json_codec
from terzetto.redis import Redis
from terzetto.rmap import BytesMap, Change, Map, Swap, TypedMap


@attrs.frozen
class Flag:
    percent: int = 0


async def text(redis: Redis) -> None:
    async with rmap.join("config", redis, ttl=60, sliding=True) as config:
        assert_type(config, Map)
        assert_type(config["k"], str)
        assert_type(config.get("k"), str | None)
        assert_type(config.get("k", ""), str)
        assert_type(config.snapshot(), dict[str, str])
        assert_type(await config.set("k", "v"), str | None)
        assert_type(await config.test_and_set("k", "a", "b"), Swap[str])
        assert_type(await config.increment("n"), int)
        assert_type(await config.append_values("l", "a"), list[str])
        assert_type(await config.remove_values("l", "a"), tuple[list[str], bool])
        assert_type(await config.wait_for(lambda m: m.get_values("l")), list[str])
        async with config.subscribe() as changes:
            assert_type(changes, AsyncIterator[Change])
        async with config.watch("k") as values:
            assert_type(values, AsyncIterator[str | None])
        plain: Mapping[str, str] = config
        assert_type(plain["k"], str)


async def data(redis: Redis) -> None:
    async with rmap.join("data", redis, codec=rmap.BYTES) as config:
        assert_type(config, BytesMap)
        assert_type(config["k"], bytes)
        assert_type(config.get_values("k"), list[bytes])
        assert_type(await config.set("k", b"v"), bytes | None)


async def typed(redis: Redis) -> None:
    async with rmap.join("flags", redis, codec=json_codec(Flag)) as flags:
        assert_type(flags, TypedMap[Flag])
        assert_type(flags["k"], Flag)
        assert_type(await flags.test_and_delete("k", Flag()), Swap[Flag])


async def children(top: Supervisor, redis: Redis) -> None:
    assert_type(rmap.child("config", redis), Child[Map])
    assert_type(await top.spawn(rmap.child("config", redis)), Map)
    assert_type(rmap.child("data", redis, codec=rmap.BYTES), Child[BytesMap])
    assert_type(rmap.child("flags", redis, codec=json_codec(Flag)), Child[TypedMap[Flag]])
    assert_type(top.get("map config", Map), Map)
