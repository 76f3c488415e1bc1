"""Reads from replicas beside the master, and news of another master."""

from collections.abc import AsyncGenerator, Sequence

import pytest
import trio
from redis.exceptions import ResponseError

from terzetto.redis import LinkLostError, Redis, UrlError, connect
from terzetto.redis._replicas import READS
from terzetto.server import (
    EmbeddedServer,
    SentinelGroup,
    open_cluster,
    open_sentinel,
)
from tests.redis.scripted import held

FAIL_OVER = 45.0  # seconds for the others to agree; the machine may be busy


@pytest.fixture
async def group() -> AsyncGenerator[SentinelGroup]:
    async with open_sentinel() as group:
        yield group


async def calls(servers: Sequence[EmbeddedServer], command: str) -> int:
    """Return how often servers have carried out a command."""
    total = 0
    for server in servers:
        async with connect(server.url) as client:
            stats: bytes = await client.execute("INFO", "commandstats")
            for line in stats.decode().splitlines():
                name, _, fields = line.partition(":calls=")
                if name == f"cmdstat_{command}":
                    total += int(fields.partition(",")[0])
    return total


async def wait_value(redis: Redis, key: str, value: bytes) -> None:
    """Wait until a replica has what was written."""
    while await redis.execute("GET", key) != value:  # noqa: ASYNC110 - the event is in the server
        await trio.sleep(0.01)


async def wait_called(redis: Redis, servers: Sequence[EmbeddedServer], key: str) -> None:
    """Read until one of `servers` is who answers."""
    before = await calls(servers, "get")
    while await calls(servers, "get") == before:
        await redis.execute("GET", key)


async def check_reads(redis: Redis) -> None:
    """Read and write in every way; raise what a caller would see."""
    await redis.execute("SET", "{t}a", 1)
    await redis.execute("SET", "{t}b", 2)
    await wait_value(redis, "{t}b", b"2")
    assert await redis.execute("MGET", "{t}a", "{t}b") == [b"1", b"2"]
    assert await redis.execute_many([("GET", "{t}a"), ("STRLEN", "{t}b")]) == [b"1", 1]
    assert await redis.execute_many([("GET", "{t}a"), ("INCR", "{t}a")]) == [b"1", 2]
    assert await redis.get("{t}b") == b"2"
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await redis.execute("HGET", "{t}b", "f")
    names = {key async for key in redis.scan_iter(match="{t}*", count=2)}  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] - redis-py types it in part only
    assert names == {b"{t}a", b"{t}b"}
    await redis.execute("DEL", "{t}a", "{t}b")


async def test_a_cluster_is_read_from_its_replicas() -> None:
    async with open_cluster() as cluster, connect(cluster.url, read_from="replica") as redis:
        masters = await cluster.masters()
        replicas = await cluster.replicas()
        with trio.fail_after(FAIL_OVER):
            await redis.execute("SET", "k", "v")
            await wait_called(redis, replicas, "k")
            at_masters = await calls(masters, "get")
            await check_reads(redis)
            assert await calls(masters, "get") == at_masters + 1  # beside INCR, in one unit
            # Without its replica a slot is read from its master; with it, from it again.
            for replica in replicas:
                await replica.kill()
            for _ in range(50):
                assert await redis.execute("GET", "k") == b"v"
            assert await calls(masters, "get") > at_masters + 1
            for replica in replicas:
                await replica.start()
            await wait_called(redis, replicas, "k")
            # A replica that becomes the master answers all the same.
            owner = redis.slot_owner("k") or ""
            victim = next(master for master in masters if owner.endswith(f":{master.port}"))
            await victim.kill()
            for _ in range(50):
                assert await redis.execute("GET", "k") == b"v"
            while redis.slot_owner("k") == owner:
                await redis.wait_changed()
            await redis.execute("SET", "k", "w")
            await wait_value(redis, "k", b"w")
        await victim.start()


async def test_a_service_is_read_from_a_replica(group: SentinelGroup) -> None:
    async with connect(group.url, read_from="replica") as redis:
        master = await group.master()
        assert master is not None
        replicas = [server for server in group.servers if server is not master]
        with trio.fail_after(FAIL_OVER):
            await redis.execute("SET", "k", "v")
            await wait_called(redis, replicas, "k")
            before = await calls([master], "get")
            await check_reads(redis)
            assert await calls([master], "get") == before + 1
            assert (await redis.execute("ROLE"))[0] == b"master"
            for replica in replicas:
                await replica.kill()
            for _ in range(50):
                assert await redis.execute("GET", "k") == b"v"
            for replica in replicas:
                await replica.start()


async def test_replicas_are_asked_only_what_servers_call_reading(redis: Redis) -> None:
    table = {entry[0].decode().upper(): entry for entry in await redis.execute("COMMAND")}
    asked = [table[name] for name in READS & table.keys()]
    assert len(asked) > 70
    for entry in asked:
        flags, first_key = set(entry[2]), entry[3]
        assert b"readonly" in flags, entry[0]
        assert not flags & {b"write", b"may_replicate", b"admin"}, entry[0]
        assert first_key or b"movablekeys" in flags, entry[0]


async def test_replicas_are_for_those_who_know_them(server: EmbeddedServer) -> None:
    for url, options in (
        (server.url, {"read_from": "replica"}),
        ("redis-sentinel://localhost:1/s", {"read_from": "nobody"}),
    ):
        with pytest.raises(UrlError, match="read_from"):
            async with connect(url, **options):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - what is tested
                pass


async def test_a_master_that_hangs_is_left_as_soon_as_there_is_another(
    group: SentinelGroup,
) -> None:
    """The news of the sentinels is enough: nothing here would notice by itself."""
    async with (
        connect(group.url, server_timeout=600, health_check_interval=600) as redis,
        redis.open_dedicated("reader") as dedicated,
    ):
        await dedicated.execute("SET", "k", "v")
        master = await group.master()
        assert master is not None
        lost: list[LinkLostError] = []

        async def pop() -> None:
            with pytest.raises(LinkLostError) as caught:
                await dedicated.execute("BLPOP", "list", 0)
            lost.append(caught.value)

        async def write() -> None:
            with pytest.raises(LinkLostError) as caught:
                await redis.execute("INCR", "n")
            lost.append(caught.value)

        with trio.fail_after(FAIL_OVER):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pop)
                while b"blocked_clients:1" not in await redis.execute("INFO", "clients"):  # noqa: ASYNC110 - the event is in the server
                    await trio.sleep(0.01)
                with held(master):
                    nursery.start_soon(write)
                    while len(lost) < 2:
                        await redis.wait_changed()
                        await trio.sleep(0.01)
                    assert await redis.execute("INCR", "n") == 1
                    assert await dedicated.execute("GET", "k") == b"v"
        assert all(error.may_have_run for error in lost)
