"""Members of a cluster under the names that they announce: IPv6, host names, fronts, none."""

import socket
from contextlib import AsyncExitStack

import pytest
import trio

from terzetto.redis import connect
from terzetto.server import Cluster, open_cluster
from terzetto.testing import open_proxy
from tests.redis.certificates import Authority
from tests.redis.moving import KEY, begin_move, end_move, owner_and_other

PATIENCE = 45.0  # seconds for the members to tell each other; the machine may be busy


def has_ipv6() -> bool:
    """Tell whether servers can listen on ``::1`` here."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def configure(cluster: Cluster, name: str, *values: object) -> None:
    """Set an option of each member, to one value or to one each."""
    for number, member in enumerate(cluster.members):
        async with connect(member.url) as client:
            await client.execute("CONFIG", "SET", name, str(values[number % len(values)]))


async def wait_announced(cluster: Cluster, host: str | None, *ports: int) -> None:
    """Wait until each member names all members by that host, and these ports."""
    for member in cluster.members:
        async with connect(member.url) as client:
            wanted = {(host, port) for port in ports}
            while wanted != {  # noqa: ASYNC110 - the event is in the server
                (owner[0] and owner[0].decode(), owner[1])
                for *_, owner in await client.execute("CLUSTER", "SLOTS")
            }:
                await trio.sleep(0.01)


async def use(cluster: Cluster, url: str, prefix: str, **options: object) -> None:
    """Use a cluster in all the ways that meet names: the map, MOVED, ASK, links of all sorts."""
    async with connect(url, **options) as redis, AsyncExitStack() as stack:  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - files for TLS
        names = [f"k{number}" for number in range(30)]
        await redis.execute_many([("SET", name, 1) for name in names])
        owners = {redis.slot_owner(name) for name in names}
        assert len(owners) == 3
        assert all(owner is not None and owner.startswith(prefix) for owner in owners)
        source, target = await owner_and_other(stack, cluster)
        async with (
            redis.open_dedicated("reader", key=KEY) as dedicated,
            redis.subscribe(KEY, sharded=True) as subscription,
        ):
            assert await dedicated.execute("DEL", KEY) == 0
            await begin_move(source, target)
            await redis.execute("SET", KEY, "asked")  # ASK names the target
            assert await dedicated.execute("GET", KEY) == b"asked"
            await end_move(source, target)
            assert await dedicated.execute("GET", KEY) == b"asked"  # MOVED names it
            assert await redis.execute("DEL", KEY) == 1
            await anext(subscription)
            assert await redis.execute("SPUBLISH", KEY, "m") == 1


async def test_names_that_members_announce() -> None:
    listening = "bind 127.0.0.1 ::1" if has_ipv6() else "bind 127.0.0.1"
    async with open_cluster(replicas=0, config=[listening]) as cluster:
        ports = [member.port or 0 for member in cluster.members]
        with trio.fail_after(PATIENCE):
            await configure(cluster, "cluster-announce-hostname", "localhost")
            await configure(cluster, "cluster-preferred-endpoint-type", "hostname")
            await wait_announced(cluster, "localhost", *ports)
            await use(cluster, cluster.url, "redis://localhost:")

            await configure(cluster, "cluster-preferred-endpoint-type", "unknown-endpoint")
            await wait_announced(cluster, None, *ports)
            await use(cluster, cluster.url, "redis://127.0.0.1:")

            await configure(cluster, "cluster-preferred-endpoint-type", "ip")
            await through_fronts(cluster)

            if not has_ipv6():
                pytest.skip("there is no IPv6 here: its part has not run")
            await configure(cluster, "cluster-announce-port", 0)
            await configure(cluster, "cluster-announce-ip", "::1")
            await wait_announced(cluster, "::1", *ports)
            seeds = ",".join(f"[::1]:{port}" for port in ports)
            await use(cluster, f"redis-cluster://{seeds}", "redis://[::1]:")


async def through_fronts(cluster: Cluster) -> None:
    """Use a cluster whose members announce the ports of fronts that end TLS for them."""
    authority = Authority()
    async with AsyncExitStack() as stack:
        fronts = [
            await stack.enter_async_context(
                open_proxy(member.url, tls=authority.server_context("127.0.0.1"))
            )
            for member in cluster.members
        ]
        ports = [front.port for front in fronts]
        await configure(cluster, "cluster-announce-port", *ports)
        await wait_announced(cluster, "127.0.0.1", *ports)
        url = f"rediss-cluster://127.0.0.1:{ports[0]}"
        await use(cluster, url, "rediss://127.0.0.1:", tls=authority.client_context())
        assert all(front.accepted > 0 for front in fronts)
