"""Maps on a real cluster: scripts touch only what they declare; all nodes hear of changes."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
import trio
from redis.exceptions import MovedError

from terzetto import rmap
from terzetto.redis import Message, Redis, connect
from terzetto.rmap import content_key, updates_channel
from terzetto.server import EmbeddedServer, open_cluster

NAME = "{pool}:config"


async def owns(redis: Redis) -> bool:
    """Whether the node of this client serves the slot of the map."""
    try:
        await redis.execute("HGET", content_key(NAME), "=rev")
    except MovedError:
        return False
    return True


@pytest.mark.timeout(120)
async def test_every_operation_works_on_the_node_that_has_the_map_and_is_heard_on_all() -> None:
    async with open_cluster(replicas=0) as cluster, AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(connect(m.url)) for m in cluster.members]
        (owner,) = [node for node in nodes if await owns(node)]
        listeners = [
            await stack.enter_async_context(node.subscribe(updates_channel(NAME))) for node in nodes
        ]
        async with rmap.join(NAME, owner, ttl=100) as config:
            await config.set_and_wait("k", "1")
            await config.set_if_absent("n", "1")
            await config.test_and_set("k", "1", "2")
            await config.increment("n")
            await config.append_values("l", "a")
            await config.append_unique_values("l", "b")
            await config.remove_values("l", "a")
            await config.delete("n")
            await config.test_and_delete("k", "2")
            await config.sync()
            assert config.snapshot() == {"l": '["b"]'}
            await config.test_and_reset(["l"], ['["b"]'])
            await config.reset()
            await config.destroy()
            await config.sync()
            assert config.revision == 12
        for listener in listeners:
            heard = [await anext(listener) for _ in range(12)]
            assert all(isinstance(message, Message) for message in heard)


async def calls(servers: Sequence[EmbeddedServer], *commands: str) -> int:
    """Return how often servers have carried out some commands."""
    total = 0
    for server in servers:
        async with connect(server.url) as client:
            stats: bytes = await client.execute("INFO", "commandstats")
            for line in stats.decode().splitlines():
                name, _, fields = line.partition(":calls=")
                if name in {f"cmdstat_{command}" for command in commands}:
                    total += int(fields.partition(",")[0])
    return total


@pytest.mark.timeout(120)
async def test_a_map_is_read_at_its_master_though_the_client_reads_from_replicas() -> None:
    async with open_cluster() as cluster, connect(cluster.url, read_from="replica") as redis:
        replicas = await cluster.replicas()
        with trio.fail_after(60):
            for number in range(9):  # most of them are elsewhere than their messages
                key = content_key(str(number))
                before = await calls(replicas, "hget")
                while await calls(replicas, "hget") == before:  # until replicas are read from
                    await redis.execute("HGET", key, "k")
            before = await calls(replicas, "hget", "hmget", "hgetall")
            for number in range(9):
                async with rmap.join(str(number), redis) as config:
                    await config.set_and_wait("k", "1")
                    await config.sync()
                    assert config["k"] == "1"
        assert await calls(replicas, "hget", "hmget", "hgetall") == before
