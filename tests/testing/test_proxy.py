"""The fault proxy passes everything on, but for the fault that a test asks for."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

import terzetto
from terzetto.errors import InvalidOptionError
from terzetto.redis import LinkLostError, Message
from terzetto.server import EmbeddedServer
from terzetto.testing import Fault, Proxy, open_proxy


@pytest.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[Proxy]:
    async with open_proxy(server.url) as opened:
        yield opened


async def connect(where: Proxy | EmbeddedServer) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", where.port or 0)


async def reply_to(stream: trio.abc.Stream, line: str) -> bytes:
    """The first piece of the reply; empty or an error when the connection is gone."""
    await stream.send_all(line.encode() + b"\r\n")
    return bytes(await stream.receive_some())


async def ask(where: Proxy | EmbeddedServer, line: str) -> bytes:
    async with await connect(where) as stream:
        return await reply_to(stream, line)


async def is_broken(stream: trio.abc.Stream) -> bool:
    try:
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - sockets of another task have no event for it
        await trio.sleep(0.005)


async def nothing_comes(stream: trio.abc.Stream) -> bool:
    with trio.move_on_after(0.05):
        await stream.receive_some()
        return False
    return True


async def test_passes_on_what_it_is_given(proxy: Proxy) -> None:
    async with terzetto.connect(proxy.url) as redis:
        large = bytes(range(256)) * 4000
        await redis.execute("SET", "key", large)
        assert await redis.execute("GET", "key") == large
        replies = await redis.execute_many([("INCR", "count")] * 500)
        assert replies == list(range(1, 501))
        async with redis.subscribe("news") as news:
            await redis.execute("PUBLISH", "news", "hello")
            assert await anext(aiter(news)) == Message(channel=b"news", data=b"hello")


async def test_knows_its_connections(proxy: Proxy) -> None:
    async with await connect(proxy) as first, await connect(proxy) as second:
        await reply_to(first, "CLIENT SETNAME writer")
        await reply_to(first, "PING")
        await reply_to(second, "SUBSCRIBE news")
        one, two = proxy.connections
        assert (one.name, one.is_subscribed, one.commands) == ("writer", False, 2)
        assert (two.name, two.is_subscribed) == ("", True)
        assert proxy.accepted == 2
    await until(lambda: not proxy.connections)


async def test_a_server_that_is_not_there_is_a_connection_that_breaks(
    proxy: Proxy, server: EmbeddedServer
) -> None:
    await server.kill()
    async with await connect(proxy) as stream:
        assert await is_broken(stream)
    await server.start()
    assert await ask(proxy, "PING") == b"+PONG\r\n"


async def test_cut(proxy: Proxy) -> None:
    async with await connect(proxy) as first, await connect(proxy) as second:
        await reply_to(first, "PING")
        await reply_to(second, "PING")
        proxy.connections[0].cut()
        assert await is_broken(first)
        assert await reply_to(second, "PING") == b"+PONG\r\n"
        proxy.cut()
        assert await is_broken(second)
    assert await ask(proxy, "PING") == b"+PONG\r\n"


async def test_half_close(proxy: Proxy, server: EmbeddedServer) -> None:
    async with await connect(proxy) as stream:
        await reply_to(stream, "PING")
        proxy.half_close()
        assert await stream.receive_some() == b""
        await stream.send_all(b"SET key arrived\r\n")
        while await ask(server, "GET key") == b"$-1\r\n":
            await trio.lowlevel.checkpoint()


async def test_hold_and_release(proxy: Proxy) -> None:
    async with await connect(proxy) as stream:
        await reply_to(stream, "PING")
        for holder in (proxy, proxy.connections[0]):
            holder.hold()
            await stream.send_all(b"PING\r\n")
            assert await nothing_comes(stream)
            holder.release()
            assert await stream.receive_some() == b"+PONG\r\n"


async def test_refuse_and_accept(proxy: Proxy) -> None:
    async with await connect(proxy) as stream:
        await reply_to(stream, "PING")
        await proxy.refuse()
        await proxy.refuse()
        with pytest.raises(OSError, match=r"connect|refused"):
            await connect(proxy)
        assert await reply_to(stream, "PING") == b"+PONG\r\n"
        await proxy.accept()
        await proxy.accept()
        assert await ask(proxy, "PING") == b"+PONG\r\n"


async def test_a_reply_is_dropped_after_the_command_ran(
    proxy: Proxy, server: EmbeddedServer
) -> None:
    rule = proxy.on("INCR", Fault.DROP_REPLY)
    async with await connect(proxy) as stream:
        assert await reply_to(stream, "SET other 1") == b"+OK\r\n"
        await stream.send_all(b"INCR key\r\n")
        await rule.wait_hit()
        assert await is_broken(stream)
    assert await ask(server, "GET key") == b"$1\r\n1\r\n"
    assert await ask(proxy, "INCR key") == b":2\r\n", "once is enough"
    assert rule.hits == 1


async def test_a_command_is_cut_off_before_it_runs(proxy: Proxy, server: EmbeddedServer) -> None:
    rule = proxy.on("INCR", Fault.CUT)
    async with await connect(proxy) as stream:
        await stream.send_all(b"SET other 1\r\nINCR key\r\nINCR key\r\n")
        await rule.wait_hit()
        with trio.fail_after(10):
            while not await is_broken(stream):
                pass
    assert await ask(server, "GET key") == b"$-1\r\n"
    assert await ask(server, "GET other") == b"$1\r\n1\r\n", "what came before was passed on"


async def test_a_command_is_held_and_runs_later(proxy: Proxy, server: EmbeddedServer) -> None:
    rule = proxy.on("INCR", Fault.HOLD)
    async with await connect(proxy) as stream:
        await stream.send_all(b"INCR key\r\n")
        await rule.wait_hit()
        assert await ask(server, "GET key") == b"$-1\r\n"
        assert await nothing_comes(stream)
        rule.release()
        assert await stream.receive_some() == b":1\r\n"


async def test_a_held_command_arrives_though_its_client_is_gone(
    proxy: Proxy, server: EmbeddedServer
) -> None:
    rule = proxy.on("INCR", Fault.HOLD)
    async with await connect(proxy) as stream:
        await stream.send_all(b"INCR key\r\n")
        await rule.wait_hit()
    rule.release()
    await until(lambda: not proxy.connections)
    assert await ask(server, "GET key") == b"$1\r\n1\r\n"


async def test_a_reply_is_held(proxy: Proxy, server: EmbeddedServer) -> None:
    rule = proxy.on("INCR", Fault.HOLD_REPLY)
    async with await connect(proxy) as stream:
        await stream.send_all(b"INCR key\r\nPING\r\n")
        await rule.wait_hit()
        assert await ask(server, "GET key") == b"$1\r\n1\r\n"
        assert await nothing_comes(stream)
        rule.release()
        assert await stream.receive_some() == b":1\r\n+PONG\r\n"


async def test_a_reply_is_late(proxy: Proxy) -> None:
    proxy.on("INCR", Fault.DELAY, seconds=0.05)
    async with await connect(proxy) as stream:
        await reply_to(stream, "PING")
        started = trio.current_time()
        assert await reply_to(stream, "INCR key") == b":1\r\n"
        assert trio.current_time() - started >= 0.05


async def test_everything_is_late_and_many_no_later_than_one(proxy: Proxy) -> None:
    proxy.delay = 0.5
    async with await connect(proxy) as stream:
        started = trio.current_time()
        for _ in range(16):
            await stream.send_all(b"PING\r\n")
            await trio.sleep(0.001)  # so that the pings come in pieces of their own
        received = b""
        while len(received) < 16 * len(b"+PONG\r\n"):
            received += await stream.receive_some()
        took = trio.current_time() - started
    assert took >= 2 * 0.5
    # Delays that add up make 8 s of the pings alone; a machine that stalls has 4 s for that.
    assert took < 5, "delays add up"


async def test_rules_choose_their_commands(proxy: Proxy) -> None:
    rule = proxy.on(
        "xgroup create", Fault.CUT, times=2, skip=1, where=lambda words: words[2] == b"wanted"
    )

    async def survives(line: str) -> bool:
        async with await connect(proxy) as stream:
            await stream.send_all(line.encode() + b"\r\n")
            return not await is_broken(stream)

    wanted = "XGROUP CREATE wanted group $ MKSTREAM"
    assert await survives("XGROUP HELP")
    assert await survives("XGROUP CREATE other group $ MKSTREAM")
    assert await survives(wanted), "the first one is skipped"
    assert not await survives(wanted)
    assert not await survives(wanted)
    assert await survives(wanted), "twice is enough"
    assert rule.hits == 2
    any_command = proxy.on("", Fault.CUT, times=None)
    assert not await survives("PING")
    assert not await survives("ECHO x")
    any_command.remove()
    assert await survives("PING")


async def test_the_link_goes_on_after_a_dropped_reply(proxy: Proxy) -> None:
    async with terzetto.connect(proxy.url) as redis:
        proxy.on("INCR", Fault.DROP_REPLY)
        with pytest.raises(LinkLostError) as caught:
            await redis.execute("INCR", "key")
        assert caught.value.may_have_run
        assert await redis.execute("GET", "key") == b"1"


async def test_a_unix_socket_in_front(server: EmbeddedServer, tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    async with open_proxy(f"redis://127.0.0.1:{server.port}", socket_path=path) as proxy:
        async with terzetto.connect(proxy.url) as redis:
            assert await redis.execute("PING") == b"PONG"
        assert proxy.port == 0
    with pytest.raises(FileNotFoundError):
        await trio.open_unix_socket(path)


@asynccontextmanager
async def tls_front(server: EmbeddedServer) -> AsyncGenerator[tuple[Proxy, ssl.SSLContext], None]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)  # pyright: ignore[reportUnknownMemberType] - OpenSSL's context, untyped, would do too
    client = ssl.create_default_context()
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType] - likewise untyped
    async with open_proxy(server.url, tls=context) as proxy:
        yield proxy, client


async def test_tls_in_front(server: EmbeddedServer) -> None:
    async with tls_front(server) as (proxy, context):
        assert proxy.url == f"rediss://127.0.0.1:{proxy.port}"
        async with await trio.open_ssl_over_tcp_stream(
            "localhost", proxy.port, ssl_context=context
        ) as stream:
            assert await reply_to(stream, "PING") == b"+PONG\r\n"
            proxy.cut()
            assert await is_broken(stream)


async def test_who_speaks_no_tls_to_it_is_cut(server: EmbeddedServer) -> None:
    async with tls_front(server) as (proxy, context):
        async with await connect(proxy) as stream:
            await stream.send_all(b"PING\r\n")
            while not await is_broken(stream):
                pass
        async with await trio.open_ssl_over_tcp_stream(
            "localhost", proxy.port, ssl_context=context
        ) as stream:
            assert await reply_to(stream, "PING") == b"+PONG\r\n"


@pytest.mark.parametrize("url", ["", "redis://host", "http://host:1", "unix://", "/path"])
async def test_a_target_that_is_none(url: str) -> None:
    with pytest.raises(InvalidOptionError, match="write unix"):
        async with open_proxy(url):
            pass


async def test_an_error_in_the_block_comes_out_as_it_is(server: EmbeddedServer) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_proxy(server.url) as proxy, await connect(proxy):
            raise KeyError("mine")


@pytest.mark.parametrize("action", ["refuse", "accept", "wait_hit", "open"])
async def test_each_wait_can_be_cancelled(
    proxy: Proxy, server: EmbeddedServer, action: str
) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        if action == "refuse":
            await proxy.refuse()
        elif action == "accept":
            await proxy.refuse()
            await proxy.accept()
        elif action == "wait_hit":
            await proxy.on("ECHO", Fault.CUT).wait_hit()
        else:
            async with open_proxy(server.url):
                await trio.sleep_forever()
    assert scope.cancelled_caught
    await proxy.refuse()
    await proxy.accept()
    assert await ask(proxy, "PING") == b"+PONG\r\n"
