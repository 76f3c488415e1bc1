"""Maps whose actor crashes for good, or is no longer allowed what it does: who waits is told."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from terzetto import rmap
from terzetto.actor import open_supervisor
from terzetto.errors import ClosedError
from terzetto.redis import Redis, connect
from terzetto.rmap import TypedMap
from terzetto.server import EmbeddedServer

StrMap = TypedMap[str]


class Buggy:
    """A codec with a bug: one value makes it raise what no codec should."""

    def encode(self, value: str, /) -> bytes:
        return value.encode()

    def decode(self, data: bytes, /) -> str:
        if data == b"bad":
            raise ZeroDivisionError
        return data.decode()


async def wait_for(config: StrMap) -> None:
    with pytest.raises(ClosedError):
        await config.wait_for(lambda m: m.get("k") == "never")


async def set_and_wait(config: StrMap) -> None:
    with pytest.raises(ClosedError):
        await config.set_and_wait("k", "bad")


async def watch(config: StrMap) -> None:
    async with config.watch("k") as values:
        async for _ in values:
            pass


async def subscribe(config: StrMap) -> None:
    async with config.subscribe() as changes:
        async for _ in changes:
            pass


async def becomes(config: StrMap, *, stale: bool) -> None:
    """Wait until the map says so; nobody tells of it, for it is what nobody hears."""
    while (config.stale_since is not None) is not stale:  # noqa: ASYNC110 - as above
        await trio.sleep(0.01)


WAITS: list[Callable[[StrMap], Awaitable[None]]] = [wait_for, watch, subscribe]


async def test_who_waits_in_a_child_that_crashed_for_good_is_told(redis: Redis) -> None:
    spec = rmap.child("config", redis, codec=Buggy(), restart="temporary")
    async with open_supervisor() as top:
        config = await top.spawn(spec)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for wait in WAITS:
                    nursery.start_soon(wait, config)
                await wait_all_tasks_blocked()
                nursery.start_soon(set_and_wait, config)
        assert config.is_closed
        await config.reset()
        assert await top.spawn(spec) is config  # and it can be used again
        with trio.fail_after(60):
            await config.set_and_wait("k", "1")
        assert config["k"] == "1"


async def test_who_waits_outside_a_tree_that_failed_is_told(redis: Redis) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with pytest.raises(ZeroDivisionError):
                async with open_supervisor() as top:
                    config = await top.spawn(rmap.child("config", redis, codec=Buggy()))
                    for wait in WAITS:
                        nursery.start_soon(wait, config)
                    await wait_all_tasks_blocked()
                    await config.set("k", "bad")
                    await trio.sleep_forever()


async def test_a_map_whose_messages_are_forbidden_goes_on_by_polls_and_comes_back(
    server: EmbeddedServer, redis: Redis
) -> None:
    await redis.execute("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all")
    async with (
        connect(server.url, username="bob", password="pw") as bobs,  # noqa: S106 - a test's own
        rmap.join("config", bobs, poll_interval=0.1) as config,
        rmap.join("config", redis) as other,
    ):
        await config.set_and_wait("k", "1")
        await redis.execute("ACL", "SETUSER", "bob", "resetchannels")
        with trio.fail_after(60):
            await becomes(config, stale=True)
            await other.set("k", "2")
            await config.wait_for(lambda m: m["k"] == "2")
            assert config.stale_since is not None
            await other.set("k", "3")
            await config.sync()
            assert config["k"] == "3"
            await redis.execute("ACL", "SETUSER", "bob", "allchannels")
            await becomes(config, stale=False)
            await config.set_and_wait("k", "4")
