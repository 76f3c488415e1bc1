"""TLS between all: clients, the members of a cluster, sentinels and their servers."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from terzetto.redis import ConnectError, Gap, LinkLostError, Message, Redis, UrlError, connect
from terzetto.server import Tls, open_cluster, open_embedded, open_sentinel
from tests.redis.certificates import Authority, binary_with_tls, server_binary
from tests.redis.moving import KEY

FAIL_OVER = 45.0  # seconds for the others to agree; the machine may be busy


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> Iterator[Tls]:
    """Return the files of a server for 127.0.0.1; see to it that the server has TLS.

    The program is looked for before the test's own run of trio, in which the
    reason of a skip would be lost.
    """
    tls = authority.files(tmp_path, "127.0.0.1")
    with server_binary(trio.run(binary_with_tls, tls)):
        yield tls


async def write(redis: Redis, key: str, value: str) -> None:
    """Write, again if it may not have run."""
    while True:
        try:
            await redis.execute("SET", key, value)
        except LinkLostError:
            continue
        return


async def test_a_server_with_tls_of_its_own(tls: Tls) -> None:
    async with (
        open_embedded(port=0, tls=tls) as server,
        connect(f"rediss://127.0.0.1:{server.port}", ssl_ca_certs=tls.authority) as redis,
    ):
        assert await redis.execute("ECHO", "mine") == b"mine"
        with pytest.raises(ConnectError):  # nothing listens there in plain
            async with connect(f"redis://127.0.0.1:{server.port}", connect_timeout=2):
                pass


async def test_a_cluster_with_tls(authority: Authority, tls: Tls, tmp_path: Path) -> None:
    mine = authority.write_certificate("client.example", str(tmp_path / "mine.pem"))
    async with open_cluster(tls=attrs.evolve(tls, wants_certificates=True)) as cluster:
        assert cluster.url.startswith("rediss-cluster://127.0.0.1:")
        for url, options in (
            (cluster.url, {}),  # an authority that nobody knows here
            (cluster.url, {"ssl_ca_certs": tls.authority}),  # the members want a certificate
            (
                f"rediss-cluster://localhost:{cluster.members[0].port}",  # not its name
                {"ssl_ca_certs": tls.authority, "ssl_certfile": mine},
            ),
        ):
            with pytest.raises(ConnectError):
                async with connect(url, connect_timeout=2, **options):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - file names
                    pass
        url = f"{cluster.url}?ssl_ca_certs={tls.authority}&ssl_certfile={mine}"
        async with (
            connect(url) as redis,
            redis.open_dedicated("reader", key=KEY) as dedicated,
            redis.subscribe("{moving}c", sharded=True) as subscription,
        ):
            assert redis.url == cluster.url
            await redis.execute_many([("SET", f"k{number}", number) for number in range(50)])
            assert await redis.execute("DBSIZE") == 50
            assert (redis.slot_owner(KEY) or "").startswith("rediss://127.0.0.1:")
            victim = next(
                m for m in cluster.members if f":{m.port}" in (redis.slot_owner(KEY) or "")
            )
            await victim.kill()
            with trio.fail_after(FAIL_OVER):
                await write(redis, KEY, "after")
                assert await dedicated.execute("GET", KEY) == b"after"
                assert await anext(subscription) == Gap()
                await redis.execute("SPUBLISH", "{moving}c", "m")
                assert await anext(subscription) == Message(b"{moving}c", b"m")
            await victim.start()


async def test_sentinels_with_tls(tls: Tls) -> None:
    async with open_sentinel(tls=tls) as group:
        assert group.url.startswith("rediss-sentinel://127.0.0.1:")
        with pytest.raises(ConnectError, match="certificate verify failed"):
            async with connect(group.url, connect_timeout=2):
                pass
        async with connect(group.url, ssl_ca_certs=tls.authority) as redis:
            assert redis.url == group.url
            await redis.execute("SET", "k", "v")
            master = await group.master()
            assert master is not None
            await master.kill()
            with trio.fail_after(FAIL_OVER):
                await write(redis, "k", "after")
                assert await redis.execute("GET", "k") == b"after"
            await master.start()


@pytest.mark.parametrize("scheme", ["redis-cluster", "redis-sentinel"])
async def test_options_of_tls_want_a_scheme_with_tls(scheme: str) -> None:
    with pytest.raises(UrlError, match="nothing would be encrypted"):
        async with connect(f"{scheme}://localhost:1/s", ssl_ca_certs="ca.pem"):
            pass
