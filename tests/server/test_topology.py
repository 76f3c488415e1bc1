"""Clusters and sentinel groups: whole when the block begins, and again after a member died."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from terzetto.server import (
    Cluster,
    EmbeddedServer,
    SentinelGroup,
    ServerStartError,
    open_cluster,
    open_sentinel,
)
from terzetto.server._ask import ask, ask_info
from terzetto.server._binary import find_server
from terzetto.server._process import Launch, open_process
from terzetto.server._topology import have_met


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with open_cluster() as opened:
        yield opened


@pytest.fixture
async def group() -> AsyncIterator[SentinelGroup]:
    async with open_sentinel() as opened:
        yield opened


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():  # noqa: ASYNC110 - replication has no event to wait for
        await trio.sleep(0.02)


async def has(server: EmbeddedServer, key: str, value: str) -> bool:
    """Whether a replica has got `key`; it redirects who asks in a cluster, so count keys."""
    keyspace = await ask_info(server, "INFO", "keyspace")
    return keyspace.get("db0", "").startswith("keys=1,") or await ask(server, "GET", key) == value


def gone(*pids: int) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_who_is_still_shaking_hands_has_not_met() -> None:
    launch = Launch(command=(str(find_server()), "-"), port=0, config=("cluster-enabled yes",))
    async with open_process(launch) as one, open_process(launch) as other:

        async def nodes() -> str:
            return str(await ask(one, "CLUSTER", "NODES"))

        async def have_two_met() -> bool:
            return have_met(await nodes(), 2)

        async def are_connected() -> bool:
            return (await nodes()).count(" connected") == 2

        os.kill(other.pid, signal.SIGSTOP)  # it takes a connection, and says nothing
        try:
            await ask(one, "CLUSTER", "MEET", "127.0.0.1", str(other.port))
            await until(are_connected)
            assert not await have_two_met(), "it is known by a name of no account"
        finally:
            os.kill(other.pid, signal.SIGCONT)
        await until(have_two_met)
        assert str(await ask(other, "CLUSTER", "MYID")) in await nodes()


async def test_a_new_cluster_is_whole(cluster: Cluster) -> None:
    assert len(cluster.members) == 6
    assert await cluster.masters() == cluster.members[:3]
    assert await cluster.replicas() == cluster.members[3:]
    for member in cluster.members:
        info = await ask_info(member, "CLUSTER", "INFO")
        assert info["cluster_state"] == "ok"
        assert info["cluster_known_nodes"] == "6"
        assert info["cluster_size"] == "3"
    assert cluster.url.startswith("redis-cluster://127.0.0.1:")
    assert cluster.url.count(",") == 5


async def test_a_cluster_survives_the_kill_of_a_master_and_takes_it_back(cluster: Cluster) -> None:
    owner = cluster.members[0]
    replica = cluster.members[3]
    # The first master has the lowest slots; "{b}" is in slot 3300.
    assert await ask(owner, "SET", "{b}", "kept") == "OK"
    await until(lambda: has(replica, "{b}", "kept"))

    await owner.kill()
    await cluster.wait_ready()
    assert await cluster.masters() == (*cluster.members[1:3], replica)
    assert await ask(replica, "GET", "{b}") == "kept"

    await owner.start()
    await cluster.wait_ready()
    assert owner in await cluster.replicas()
    assert await ask(replica, "GET", "{b}") == "kept"


async def test_members_of_a_cluster_end_with_the_block() -> None:
    pids: list[int] = []
    with trio.CancelScope() as scope:
        async with open_cluster(replicas=0) as cluster:
            pids.extend(member.pid for member in cluster.members)
            scope.cancel()
            await trio.sleep_forever()
    assert len(pids) == 3
    assert gone(*pids)


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.9])
async def test_a_cluster_that_is_cancelled_on_its_way_leaves_nothing(seconds: float) -> None:
    # What is left would be found by the leak check.
    with trio.move_on_after(seconds) as scope:
        async with open_cluster():
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_line_of_configuration_that_is_none_is_an_error() -> None:
    with pytest.raises(ServerStartError, match="no-such-option"):
        async with open_cluster(config=["no-such-option 1"]):
            pass


async def test_groups_are_as_large_as_was_asked_for() -> None:
    async with open_cluster(masters=4, replicas=0) as cluster:
        assert await cluster.masters() == cluster.members
        assert len(cluster.members) == 4
        info = await ask_info(cluster.members[0], "CLUSTER", "INFO")
        assert (info["cluster_state"], info["cluster_size"]) == ("ok", "4")


async def test_a_sentinel_group_is_what_was_asked_for() -> None:
    options = ["maxmemory-policy allkeys-lru"]
    async with open_sentinel(
        service="orders", replicas=1, sentinels=1, down_after=7.5, config=options
    ) as group:
        assert (len(group.servers), len(group.sentinels)) == (2, 1)
        assert group.url.endswith("/orders")
        assert await group.master() is group.servers[0]
        for server in group.servers:
            assert (await ask_info(server, "INFO", "memory"))["maxmemory_policy"] == "allkeys-lru"
        said = await ask(group.sentinels[0], "SENTINEL", "MASTER", "orders")
        assert isinstance(said, list)
        facts = dict(zip(said[::2], said[1::2], strict=True))
        assert facts["down-after-milliseconds"] == "7500"
        assert facts["quorum"] == "1"


async def test_a_new_sentinel_group_is_whole(group: SentinelGroup) -> None:
    assert await group.master() is group.servers[0]
    assert len(group.servers) == len(group.sentinels) == 3
    assert group.url.startswith("redis-sentinel://127.0.0.1:")
    assert group.url.endswith("/main")
    for sentinel in group.sentinels:
        replicas = await ask(sentinel, "SENTINEL", "REPLICAS", group.service)
        assert isinstance(replicas, list)
        assert len(replicas) == 2


async def test_sentinels_replace_a_killed_master_and_take_it_back(group: SentinelGroup) -> None:
    old = group.servers[0]
    assert await ask(old, "SET", "key", "kept") == "OK"
    for replica in group.servers[1:]:
        await until(partial(has, replica, "key", "kept"))

    await old.kill()
    await group.wait_ready()
    new = await group.master()
    assert new in group.servers[1:]
    assert await ask(new, "GET", "key") == "kept"

    await old.start()
    await group.wait_ready()
    assert await group.master() is new
    info = await ask_info(old, "INFO", "replication")
    assert info["master_port"] == str(new.port)


async def test_a_sentinel_that_is_killed_keeps_what_it_knew(group: SentinelGroup) -> None:
    sentinel = group.sentinels[0]
    identity = await ask(sentinel, "SENTINEL", "MYID")
    await sentinel.kill()
    await sentinel.start()
    await group.wait_ready()
    assert await ask(sentinel, "SENTINEL", "MYID") == identity


async def test_a_paused_master_is_replaced(group: SentinelGroup) -> None:
    old = group.servers[0]
    pid = old.pid
    os.kill(pid, signal.SIGSTOP)

    async def replaced() -> bool:
        return await group.master() not in (None, old)

    await until(replaced)
    os.kill(pid, signal.SIGCONT)
    await group.wait_ready()
    assert await group.master() is not old


async def test_a_cluster_needs_a_port_for_each_member() -> None:
    with pytest.raises(ServerStartError, match="6 members need 6 ports, not 2"):
        async with open_cluster(ports=[1, 2]):
            pass
