"""Sentinel: discovery, fail-over, a master that steps down, replicas for reads."""

from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest
import trio

from terzetto.redis import ConnectError, LinkLostError, UrlError, connect
from terzetto.server import SentinelGroup, open_sentinel

FAIL_OVER = 45.0  # seconds for the sentinels to agree; the machine may be busy


@pytest.fixture
async def group() -> AsyncGenerator[SentinelGroup]:
    async with open_sentinel() as group:
        with trio.fail_after(FAIL_OVER):
            await group.wait_ready()
        yield group


async def test_the_master_is_found_and_followed(group: SentinelGroup) -> None:
    async with connect(group.url) as redis, redis.subscribe("c") as subscription:
        assert redis.url == group.url
        assert (await redis.execute("ROLE"))[0] == b"master"
        old = await group.master()
        assert old is not None
        await old.kill()
        with trio.fail_after(FAIL_OVER):
            written = 0
            while written < 20:
                try:
                    await redis.execute("INCR", "n")
                    written += 1
                except LinkLostError:
                    continue
            assert await redis.execute("INFO", "replication") != b""
            assert await group.master() is not old
            await redis.execute("PUBLISH", "c", "after")
            await anext(subscription)
        await old.start()
        assert int(await redis.execute("GET", "n")) >= 20


async def test_a_master_that_steps_down_is_left(group: SentinelGroup) -> None:
    """READONLY is answered by finding the new master."""
    async with connect(group.url) as redis:
        old = await group.master()
        assert old is not None
        async with connect(f"redis://127.0.0.1:{group.sentinels[0].port}") as sentinel:
            with trio.fail_after(FAIL_OVER):
                async with trio.open_nursery() as nursery:

                    async def write() -> None:
                        while (await group.master()) is old:
                            with suppress(LinkLostError):
                                await redis.execute("INCR", "n")

                    async def write_in_transactions() -> None:
                        while (await group.master()) is old:
                            with suppress(LinkLostError):
                                async with redis.transaction() as then:
                                    then.incr("n")

                    for _ in range(5):
                        nursery.start_soon(write)
                        nursery.start_soon(write_in_transactions)
                    await sentinel.execute("SENTINEL", "FAILOVER", group.service)
                await redis.execute("INCR", "n")  # never an error that says READONLY
                assert (await redis.execute("ROLE"))[0] == b"master"


async def test_replicas_for_reads(group: SentinelGroup) -> None:
    async with connect(group.url) as master, connect(group.url, role="replica") as replica:
        assert (await replica.execute("ROLE"))[0] == b"slave"
        await master.execute("SET", "k", "v")
        with trio.fail_after(FAIL_OVER):
            while await replica.execute("GET", "k") != b"v":  # noqa: ASYNC110 - the event is in the server
                await trio.sleep(0.01)


async def test_sentinels_that_are_gone_or_know_nothing(group: SentinelGroup) -> None:
    await group.sentinels[0].kill()
    for server in group.servers:
        async with connect(server.url) as client:
            await client.execute("ACL", "SETUSER", "plain", "on", "nopass", "~*", "+@all", "-role")
    for user in (None, "plain"):  # one that may not ask whether it is a master
        async with connect(group.url, username=user) as redis:
            assert await redis.execute("SET", "k", "v") == b"OK"
    other = group.url.replace(f"/{group.service}", "/unknown")
    with pytest.raises(ConnectError, match="knows no master of 'unknown'"):
        async with connect(other, connect_timeout=2):
            pass
    await group.sentinels[0].start()


@pytest.mark.parametrize("url", ["redis-sentinel://h:1,h:2", "redis-sentinel:///service"])
async def test_urls_that_miss_a_part(url: str) -> None:
    with pytest.raises(UrlError):
        async with connect(url):
            pass
