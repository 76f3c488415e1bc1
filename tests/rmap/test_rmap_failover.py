"""Maps over whole topologies, through their own addresses: every operation, and fail-overs."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from redis.exceptions import MovedError

from terzetto import rmap
from terzetto.redis import LinkLostError, Redis, connect
from terzetto.rmap import Map, content_key
from terzetto.server import Cluster, EmbeddedServer, SentinelGroup, open_cluster, open_sentinel

NAME = "{pool}:config"
FAIL_OVER = 60.0  # seconds for the servers to agree; the machine may be busy

pytestmark = pytest.mark.timeout(180)


@asynccontextmanager
async def open_group(kind: str) -> AsyncGenerator[Cluster | SentinelGroup]:
    if kind == "cluster":
        async with open_cluster() as cluster:
            yield cluster
    else:
        async with open_sentinel() as group:
            with trio.fail_after(FAIL_OVER):
                await group.wait_ready()
            yield group


async def owner_of(group: Cluster | SentinelGroup) -> EmbeddedServer:
    """Return the master that has the map."""
    if isinstance(group, SentinelGroup):
        master = await group.master()
        assert master is not None
        return master
    for master in await group.masters():
        async with connect(master.url) as redis:
            with suppress(MovedError):
                await redis.execute("HGET", content_key(NAME), "=rev")
                return master
    raise AssertionError("no master has the map's slot")


async def write(config: Map, key: str, value: str) -> None:
    """Set a key, and read back before trying again if nobody can tell whether it was set."""
    while True:
        try:
            await config.set_and_wait(key, value)
        except LinkLostError:
            await config.sync()
            if config.get(key) == value:
                return
        else:
            return


async def content_of(redis: Redis) -> dict[str, str]:
    stored: dict[bytes, bytes] = await redis.execute("HGETALL", content_key(NAME))
    return {k.decode(): v.decode() for k, v in stored.items() if not k.startswith(b"=")}


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
async def test_a_map_goes_on_when_the_master_that_has_it_is_lost(kind: str) -> None:
    async with open_group(kind) as group, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(group.url)) for _ in range(2)]
        one, two = [
            await stack.enter_async_context(rmap.join(NAME, redis, poll_interval=0.5))
            for redis in clients
        ]
        # Every operation, heard by the other client.
        assert await one.set_and_wait("k", "1") is None
        assert await two.set_if_absent("n", "1")
        assert (await one.test_and_set("k", "1", "2")).done
        assert await two.increment("n") == 2
        assert await one.append_values("l", "a") == ["a"]
        assert await two.append_unique_values("l", "a", "b") == ["a", "b"]
        assert await one.remove_values("l", "a") == (["b"], True)
        assert await two.delete("n") == "2"
        assert (await one.test_and_delete("k", "2")).done
        await two.sync()
        assert two.snapshot() == {"l": '["b"]'}
        assert await two.test_and_reset(["l"], ['["b"]'])
        await one.reset()
        await two.destroy()
        await write(one, "before", "kept")
        await two.sync()
        assert one.snapshot() == two.snapshot() == {"before": "kept"}
        # The master that has the map dies.
        old = await owner_of(group)
        async with connect(old.url) as master, master.open_dedicated("wait") as dedicated:
            await dedicated.execute("SET", f"{NAME}:other", 1)
            assert await dedicated.execute("WAIT", 1, 5000)  # the replica has it all
        await old.kill()
        assert two["before"] == "kept"
        with trio.fail_after(FAIL_OVER):
            for number in range(20):
                await write(one, f"key {number}", str(number))
                await write(two, "both", str(number))
            await two.sync()
            await one.sync()
            expected = {"before": "kept", "both": "19"} | {f"key {n}": str(n) for n in range(20)}
            assert one.snapshot() == two.snapshot() == await content_of(clients[0]) == expected
            assert (await owner_of(group)).url != old.url
        # It comes back, as a replica of the one that took over.
        await old.start()
        with trio.fail_after(FAIL_OVER):
            await group.wait_ready()
            await write(two, "after", "too")
            await one.sync()
        assert one["after"] == "too"
        assert one.stale_since is None
