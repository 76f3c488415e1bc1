"""Opening a client: what is refused, with which error, and that no secret is told."""

import errno
import logging
import math
import os
import socket
import traceback
from pathlib import Path

import pytest
import trio
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from terzetto.errors import TerzettoError
from terzetto.redis import (
    AuthError,
    ConnectError,
    Credentials,
    Gap,
    Redis,
    UrlError,
    connect,
)
from terzetto.server import EmbeddedServer
from tests.redis.scripted import PATIENCE, open_scripted, say_nothing, wait_state

SECRET = "hush-hush"  # noqa: S105 - it guards nothing
OTHER_SECRET = f"other {SECRET}"


async def refuse(url: str | None, **options: object) -> BaseException:
    """Return the error of a connect that fails."""
    with pytest.raises(TerzettoError) as caught:
        async with connect(url, **options):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - each test gives its own
            pass
    return caught.value


async def test_no_url_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    error = await refuse(None)
    assert isinstance(error, UrlError)
    assert "REDIS_URL" in str(error)
    monkeypatch.setenv("REDIS_URL", "")
    assert isinstance(await refuse(None), UrlError)


async def test_the_url_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, server: EmbeddedServer
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    async with connect() as redis:
        assert await redis.execute("PING") == b"PONG"
    # One that does not answer is an error, never a reason to take something else.
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")
    assert isinstance(await refuse(None), ConnectError)


async def test_an_unknown_scheme() -> None:
    error = await refuse("http://localhost")
    assert isinstance(error, UrlError)
    assert "redis://" in str(error)


async def test_a_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = await refuse(f"redis://127.0.0.1:{port}")
    assert isinstance(error, ConnectError)
    assert isinstance(error, RedisConnectionError)
    assert isinstance(error.__cause__, OSError)
    assert "is the server running" in str(error)


async def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    error = await refuse(f"unix://{tmp_path}/none.sock")
    assert isinstance(error, ConnectError)
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno in {errno.ENOENT, None}


async def test_a_server_that_does_not_answer() -> None:
    async with open_scripted(say_nothing, greeting=b"") as server:
        error = await refuse(server.url, connect_timeout=0.2)
    assert isinstance(error, ConnectError)
    assert "0.2 s" in str(error)


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"-ERR unknown command 'HELLO'\r\n" * 4,
        b"-ERR max number of clients reached\r\n",
    ],
)
async def test_a_server_that_is_no_redis_of_today(greeting: bytes) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with open_scripted(hang_up, greeting=greeting) as server:
        assert isinstance(await refuse(server.url), ConnectError)


async def test_cancelling_a_connect_leaves_nothing() -> None:
    async with open_scripted(say_nothing, greeting=b"") as server:
        with trio.move_on_after(0.05) as scope:
            async with connect(server.url):
                pass
    assert scope.cancelled_caught  # the leak check of every test looks for the socket


async def test_a_server_that_is_loading_is_waited_for() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        if server.connections > 2:
            server.greeting = b"%1\r\n+id\r\n:7\r\n+OK\r\n+OK\r\n+PONG\r\n"
        if server.connections > 3:
            await say_nothing(stream)

    loading = b"%1\r\n+id\r\n:7\r\n+OK\r\n+OK\r\n-LOADING Redis is loading the dataset\r\n"
    async with open_scripted(hang_up, greeting=loading) as server:
        async with connect(server.url) as redis:
            assert redis.state == "connected"
        assert server.connections == 4


async def test_wrong_and_missing_passwords(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with connect(server.url) as redis:
        await redis.execute("ACL", "SETUSER", "shop", "on", f">{SECRET}", "~*", "+@all")
        await redis.execute("CONFIG", "SET", "requirepass", SECRET)
    for user, password in ((None, None), (None, f"{SECRET}!"), ("shop", "x")):
        error = await refuse(server.url, username=user, password=password)
        assert isinstance(error, AuthError)
        assert isinstance(error, AuthenticationError)
        assert SECRET not in "".join(traceback.format_exception(error))
    for user in (None, "shop"):
        async with connect(server.url, client_name="till", username=user, password=SECRET) as redis:
            assert await redis.execute("ACL", "WHOAMI") == (user or "default").encode()
            assert await redis.execute("CLIENT", "GETNAME") == b"till"
            assert SECRET not in repr(redis) + redis.url + repr(redis.status)
    assert SECRET not in caplog.text


async def test_credentials_that_are_refused_later(server: EmbeddedServer) -> None:
    """Everybody who calls is told so, the server is left in peace, and a new password helps."""
    password = SECRET

    def credentials() -> Credentials:
        return None, password

    async with connect(server.url) as admin:
        await admin.execute("CONFIG", "SET", "requirepass", SECRET)
        async with (
            connect(server.url, credentials=credentials, max_backoff=0.01) as redis,
            redis.open_dedicated("reader") as dedicated,
            redis.subscribe("c") as subscription,
        ):
            await dedicated.execute("PING")
            await admin.execute("CONFIG", "SET", "requirepass", OTHER_SECRET)
            await admin.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await admin.execute("CLIENT", "KILL", "TYPE", "pubsub")
            with trio.fail_after(PATIENCE):
                for call in (redis.execute, dedicated.execute, redis.execute, dedicated.execute):
                    with pytest.raises(AuthError, match="check user name and password"):
                        await call("PING")
                with pytest.raises(AuthError):
                    await redis.execute_many([("PING",)])
                with pytest.raises(AuthError):
                    async with redis.subscribe("d"):
                        pass
                refused = await attempts(admin)
                await trio.sleep(0.5)  # fifty times max_backoff
                assert await attempts(admin) <= refused + 3  # for what was still to be told
                assert redis.state == "reconnecting"
                password = OTHER_SECRET
                assert await dedicated.execute("PING") == b"PONG"
                assert await redis.execute("PING") == b"PONG"
                async with redis.subscribe("d"):
                    assert await anext(subscription) == Gap()


async def attempts(admin: Redis) -> int:
    """Return how often the server has refused credentials, as it says itself."""
    stats: bytes = await admin.execute("INFO", "stats")
    fields = dict(line.split(b":") for line in stats.splitlines() if b":" in line)
    return int(fields[b"acl_access_denied_auth"])


async def test_a_user_with_few_rights(server: EmbeddedServer) -> None:
    async with connect(server.url) as redis:
        await redis.execute(
            "ACL", "SETUSER", "few", "on", "nopass", "~*", "+get", "+subscribe", "&a"
        )
    async with connect(server.url, username="few") as redis:
        assert await redis.execute("GET", "k") is None
        with pytest.raises(NoPermissionError):
            await redis.execute("SET", "k", "v")
        with pytest.raises(NoPermissionError):
            async with redis.subscribe("a", "b"):
                pass
        async with redis.subscribe("a"):
            pass


async def test_credentials_are_asked_for_at_each_connection(server: EmbeddedServer) -> None:
    asked = 0

    async def credentials() -> Credentials:
        nonlocal asked
        asked += 1
        await trio.lowlevel.checkpoint()
        if asked == 2:
            raise RuntimeError("the vault is closed")
        return None, SECRET

    async with connect(server.url, credentials=credentials) as redis:
        await server.kill()
        await wait_state(redis, "reconnecting")
        await server.start()
        async with connect(server.url) as other:
            await other.execute("CONFIG", "SET", "requirepass", SECRET)
        with trio.fail_after(PATIENCE):
            assert await redis.execute("PING") == b"PONG"
    assert asked >= 3


async def test_databases(server: EmbeddedServer) -> None:
    async with connect(server.url, db=3) as three, connect(f"{server.url}?db=4") as four:
        await three.execute("SET", "k", 3)
        assert await four.execute("GET", "k") is None
        assert (three.db, four.db) == (3, 4)
    error = await refuse(server.url, db=10_000)
    assert isinstance(error, ConnectError)
    assert "refuses database 10000 (DB index is out of range): choose" in str(error)


@pytest.mark.parametrize(
    "options",
    [
        {"db": "1"},
        {"db": 1.5},
        {"db": True},
        {"username": 5},
        {"password": b"hush-hush"},
        {"credentials": "hush-hush"},
        {"client_name": 5},
        {"client_name": "a b"},
        {"client_name": "t\u00fcr"},
        {"connect_timeout": math.nan},
        {"connect_timeout": "5"},
        {"server_timeout": math.nan},
        {"health_check_interval": -math.inf},
        {"max_backoff": math.nan},
        {"max_in_flight": 1.5},
        {"max_reply_bytes": math.nan},
    ],
)
@pytest.mark.parametrize(
    "url", ["unix:///nowhere", "redis-sentinel://nowhere/shop", "redis-cluster://nowhere"]
)
async def test_options_that_cannot_be_are_refused_before_a_socket_is_opened(
    url: str, options: dict[str, object]
) -> None:
    error = await refuse(url, **options)
    assert isinstance(error, UrlError)
    (name,) = options
    assert str(error).startswith(f"{name} is ")
    assert SECRET not in str(error)


async def test_urls_and_roles_that_are_none() -> None:
    assert "the URL is a int" in str(await refuse(5))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - an untyped caller's
    for url in (
        "redis-sentinel://nowhere/shop",
        "redis-cluster://nowhere",
        "redis://nowhere",
        "unix:///nowhere",
    ):
        for role in ("slave", "", 5):
            error = await refuse(url, role=role)
            assert isinstance(error, UrlError)
            assert str(error).startswith(f"role is {role!r}: ")


@pytest.mark.parametrize("url", ["redis-cluster://nowhere", "redis://nowhere", "unix:///nowhere"])
async def test_a_replica_is_asked_for_where_nobody_knows_one(url: str) -> None:
    error = await refuse(url, role="replica")
    assert isinstance(error, UrlError)
    assert "sentinels" in str(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_server_that_cannot_be_reached_is_named_with_the_systems_reason(host: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        error = await refuse(f"redis://{host}:{port}")
    assert isinstance(error, ConnectError)
    assert f"{host}:{port} cannot be reached (" in str(error)
    assert os.strerror(errno.ECONNREFUSED) in str(error)
    assert str(error).count(os.strerror(errno.ECONNREFUSED)) <= 2  # one for each address


async def test_tls_is_doubted_where_a_server_does_not_greet(server: EmbeddedServer) -> None:
    url = f"127.0.0.1:{server.port}"
    error = await refuse(f"rediss://{url}", connect_timeout=0.3)
    assert isinstance(error, ConnectError)
    assert "does it not speak TLS?" in str(error)
    async with open_scripted(say_nothing, greeting=b"") as silent:
        error = await refuse(silent.url, connect_timeout=0.3)
    assert "TLS" not in str(error)


@pytest.mark.parametrize("answer", [None, SECRET, (SECRET,), ("shop", SECRET.encode())])
async def test_a_provider_of_credentials_that_returns_none(
    server: EmbeddedServer, answer: object
) -> None:
    error = await refuse(server.url, credentials=lambda: answer)
    assert isinstance(error, ConnectError)
    assert f"returned a {type(answer).__name__}: it has to return user name" in str(error)
    assert SECRET not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"-ERR unknown command 'HELLO'\r\n", "takes Redis 7.0"),
        (b"-NOPROTO unsupported protocol version\r\n", "takes Redis 7.0"),
        (b"-ERR Too busy today\r\n", "refuses the greeting (Too busy today)"),
    ],
)
async def test_the_version_is_blamed_only_where_it_is_to_blame(reply: bytes, text: str) -> None:
    async with open_scripted(say_nothing, greeting=reply + b"+OK\r\n+OK\r\n+PONG\r\n") as server:
        error = await refuse(server.url)
    assert isinstance(error, ConnectError)
    assert text in str(error)


async def test_over_tcp(server: EmbeddedServer) -> None:
    async with connect(f"redis://127.0.0.1:{server.port}/0") as redis:
        assert await redis.execute("ECHO", b"\0" * 3_000_000) == b"\0" * 3_000_000
        assert redis.url == f"redis://127.0.0.1:{server.port}/0"


async def test_an_embedded_server_lives_with_the_client(tmp_path: Path) -> None:
    async with connect("embedded://") as redis:
        await redis.execute("SET", "k", "v")
    url = f"embedded://{tmp_path}/shop"
    async with connect(url) as redis:
        await redis.execute("SET", "k", "v")
    with trio.fail_after(PATIENCE):
        async with connect(url) as redis:
            assert await redis.execute("GET", "k") == b"v"
    assert isinstance(await refuse("embedded://host/dir"), UrlError)
