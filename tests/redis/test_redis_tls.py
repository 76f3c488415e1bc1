"""TLS: the certificate and the name are checked, and there is no silent way around it."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from terzetto.redis import (
    ConnectError,
    Gap,
    LinkLostError,
    Message,
    Reply,
    Script,
    UrlError,
    connect,
)
from terzetto.server import EmbeddedServer
from terzetto.testing import Proxy, open_proxy
from tests.redis.certificates import Authority
from tests.redis.scripted import PATIENCE, wait_state


@pytest.fixture
def authority() -> Authority:
    return Authority()


@asynccontextmanager
async def front(
    server: EmbeddedServer, authority: Authority, name: str = "127.0.0.1", *, wants: bool = False
) -> AsyncGenerator[Proxy]:
    """Run a front that ends TLS, with a certificate for `name`."""
    context = authority.server_context(name, wants_certificates=wants)
    async with open_proxy(server.url, tls=context) as proxy:
        yield proxy


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> str:
    return authority.write(str(tmp_path / "ca.pem"))


async def test_a_trusted_server(server: EmbeddedServer, authority: Authority, ca_file: str) -> None:
    async with front(server, authority) as proxy:
        for url in (proxy.url, f"{proxy.url}?ssl_ca_certs={ca_file}"):
            options = {} if "?" in url else {"ssl_ca_certs": ca_file}
            async with connect(url, **options) as redis:  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - a file name
                assert await redis.execute("ECHO", "mine") == b"mine"
                assert redis.url.startswith("rediss://")


async def test_a_server_that_nobody_vouches_for(
    server: EmbeddedServer, authority: Authority
) -> None:
    async with front(server, authority) as proxy:
        with pytest.raises(ConnectError, match="certificate verify failed"):
            async with connect(proxy.url):
                pass


async def test_a_server_with_another_name(
    server: EmbeddedServer, authority: Authority, ca_file: str
) -> None:
    async with front(server, authority, "elsewhere.example") as proxy:
        with pytest.raises(ConnectError, match="IP address mismatch"):
            async with connect(proxy.url, ssl_ca_certs=ca_file):
                pass


async def test_a_server_that_wants_a_certificate(
    server: EmbeddedServer, authority: Authority, ca_file: str, tmp_path: Path
) -> None:
    own = authority.write_certificate("till@shop.example", str(tmp_path / "own.pem"))
    async with front(server, authority, wants=True) as proxy:
        with pytest.raises(ConnectError):
            async with connect(proxy.url, ssl_ca_certs=ca_file):
                pass
        async with connect(proxy.url, ssl_ca_certs=ca_file, ssl_certfile=own) as redis:
            assert await redis.execute("PING") == b"PONG"


async def test_plain_text_where_tls_is_expected_and_the_other_way_round(
    server: EmbeddedServer, authority: Authority, ca_file: str
) -> None:
    with pytest.raises(ConnectError):
        async with connect(
            f"rediss://127.0.0.1:{server.port}", ssl_ca_certs=ca_file, connect_timeout=1
        ):
            pass
    async with front(server, authority) as proxy:
        with pytest.raises(ConnectError):
            async with connect(proxy.url.replace("rediss", "redis"), connect_timeout=1):
                pass


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("rediss://h?ssl_cert_reqs=none", {}),
        ("rediss://h?ssl_check_hostname=false", {}),
        ("redis://h", {"ssl_ca_certs": "ca.pem"}),
        ("redis://h", {"tls": ssl.create_default_context()}),
        ("rediss://h", {"tls": ssl.create_default_context(), "ssl_ca_certs": "ca.pem"}),
    ],
)
async def test_no_silent_way_around(url: str, options: dict[str, object]) -> None:
    with pytest.raises(UrlError):
        async with connect(url, **options):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - as given above
            pass


async def test_a_missing_file(server: EmbeddedServer) -> None:
    with pytest.raises(ConnectError, match=r"No such file"):
        async with connect(f"rediss://127.0.0.1:{server.port}", ssl_ca_certs="/none/ca.pem"):
            pass


async def test_a_lost_connection_over_tls(
    server: EmbeddedServer, authority: Authority, ca_file: str
) -> None:
    async with (
        front(server, authority) as proxy,
        connect(proxy.url, ssl_ca_certs=ca_file) as redis,
    ):
        with trio.fail_after(PATIENCE):
            await server.kill()
            await wait_state(redis, "reconnecting")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(redis.execute, "INCR", "n")
                await server.start()
            assert await redis.execute("GET", "n") == b"1"
            with pytest.raises(LinkLostError):
                await redis.execute("SHUTDOWN", "NOSAVE")


async def test_messages_that_let_replies_go_first_are_all_there(
    server: EmbeddedServer, authority: Authority, ca_file: str
) -> None:
    script = Script("tell", "return redis.call('PUBLISH', 'news', ARGV[1])")
    taken: list[Message | Gap] = []
    all_taken = trio.Event()

    def take(item: Message | Gap) -> None:
        taken.append(item)
        if len(taken) == 50:
            all_taken.set()

    async with (
        front(server, authority) as proxy,
        connect(proxy.url, ssl_ca_certs=ca_file) as redis,
        redis.subscribe("news") as news,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(news.deliver, take)
        await redis.run_script(script, args=["0"])
        heard: list[Reply] = []
        for number in range(1, 50):
            assert redis.post_script(script, [], [number], heard.append)
        with trio.fail_after(PATIENCE):
            await all_taken.wait()
        nursery.cancel_scope.cancel()
    assert heard == [1] * 49
    assert taken == [Message(b"news", b"%d" % number) for number in range(50)]
