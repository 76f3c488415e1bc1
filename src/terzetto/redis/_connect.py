"""`connect`: from a URL to a client that works."""

import os
import ssl
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, cast, get_args
from urllib.parse import unquote

import attrs
import trio

from terzetto._shared._logging import Logger
from terzetto.redis._actors import Keeper, open_keeper
from terzetto.redis._client import Redis
from terzetto.redis._cluster import ClusterRedis
from terzetto.redis._connection import open_connection
from terzetto.redis._errors import UrlError
from terzetto.redis._link import Link
from terzetto.redis._replicas import ClusterReplicaReads, SentinelReplicaReads
from terzetto.redis._sentinel import SENTINEL_PORT, Listener, SentinelLocator
from terzetto.redis._topology import Topology
from terzetto.redis._url import (
    DEFAULT_PORT,
    CredentialProvider,
    Options,
    Role,
    parse_group,
    parse_url,
    split_url,
)

URL_VARIABLE: Final = "REDIS_URL"
_SENTINEL_SHARE: Final = 5  # one sentinel may take so small a part of the time for connecting


@asynccontextmanager
@trio.lowlevel.enable_ki_protection  # so that no block is left half, here and below
async def connect(
    url: str | None = None,
    *,
    db: int | None = None,
    username: str | None = None,
    password: str | None = None,
    credentials: CredentialProvider | None = None,
    client_name: str | None = None,
    connect_timeout: float | None = None,
    server_timeout: float | None = None,
    health_check_interval: float | None = None,
    max_in_flight: int | None = None,
    max_reply_bytes: int | None = None,
    max_backoff: float | None = None,
    decode_replies: bool = False,
    tls: ssl.SSLContext | None = None,
    ssl_ca_certs: str | None = None,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
    role: Role | None = None,
    read_from: Role = "master",
    sentinel_username: str | None = None,
    sentinel_password: str | None = None,
    logger: Logger | None = None,
) -> AsyncGenerator[Redis, None]:
    """Connect to Redis for the time of a block.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://…`` for TLS
            (the server's certificate and host name are checked), ``unix:///path[?db=n]``,
            ``embedded://`` (a private server for this block) or ``embedded:///dir``
            (a server shared by all who name that directory), or
            ``redis-sentinel://host:port,host:port/service`` (credentials are for the
            servers, not the sentinels), or ``redis-cluster://host:port,host:port``
            (some members are enough); ``rediss-sentinel://`` and ``rediss-cluster://``
            with TLS everywhere. None: the environment variable REDIS_URL.
        db: number of the database; it wins over the URL's, as all options do.
        username: for servers with access control lists.
        password: its password, or the server's.
        credentials: a function, async or not, that returns user name and password;
            it is asked each time a connection is opened.
        client_name: what CLIENT LIST shows.
        connect_timeout: seconds for opening a connection (default 5).
        server_timeout: seconds that the server may be silent while it owes a reply,
            before the connection counts as lost (default 15).
        health_check_interval: seconds of silence after which an idle link is tried
            with a PING (default 15).
        max_in_flight: requests that may wait for replies on one link; more wait for
            room (default 20,000).
        max_reply_bytes: the longest reply; a longer one ends the connection, and who asked
            is told (`ReplyTooLongError`; default 600 MiB, a little over what one Redis string
            may be).
        max_backoff: the longest wait between attempts to reconnect, in seconds (default 2).
        decode_replies: let redis-py's commands return str (UTF-8 with surrogateescape)
            instead of bytes; `execute` and what Terzetto builds on it stay bytes.
        tls: the context for TLS, instead of the three files.
        ssl_ca_certs: file of the authorities to trust (default: the system's).
        ssl_certfile: file of the client's own certificate, for servers that want one.
        ssl_keyfile: file of its key, if it is not in the same file.
        role: with Sentinel, "replica" for a client that reads from a replica (from the
            master if none is up); default "master".
        read_from: with Sentinel and in a cluster, "replica" to send single commands and
            units that do nothing but read keys to replicas, while one is connected;
            they may be a little behind. Default "master".
        sentinel_username: for sentinels that want one.
        sentinel_password: likewise.
        logger: where outages are reported, as structlog does; default: the standard
            library's ``terzetto.redis``.

    Leaving the block closes all links. An exception of the block comes out as it is.

    Raises:
        UrlError: no URL and no REDIS_URL, or one that cannot be understood.
        AuthError: the server refuses the credentials.
        ConnectError: the server cannot be reached.
        terzetto.server.ServerNotFoundError: ``embedded://`` without a server program.
    """
    if url is None:
        url = os.environ.get(URL_VARIABLE) or None
    if url is None:
        raise UrlError(f"no URL: give one to connect(), or set {URL_VARIABLE}")
    overrides: dict[str, object] = {
        "db": db,
        "username": username,
        "password": password,
        "credentials": credentials,
        "client_name": client_name,
        "connect_timeout": connect_timeout,
        "server_timeout": server_timeout,
        "health_check_interval": health_check_interval,
        "max_in_flight": max_in_flight,
        "max_reply_bytes": max_reply_bytes,
        "max_backoff": max_backoff,
        "decode_replies": decode_replies,
        "tls": tls,
        "ssl_ca_certs": ssl_ca_certs,
        "ssl_certfile": ssl_certfile,
        "ssl_keyfile": ssl_keyfile,
        "logger": logger,
    }
    for name, value in (("role", "master" if role is None else role), ("read_from", read_from)):
        if value not in get_args(Role):
            raise UrlError(f"{name} is {value!r}: it has to be 'master' or 'replica'")
    async with AsyncExitStack() as stack:
        parts = split_url(url)
        if parts.scheme == "embedded":
            url = await stack.enter_async_context(_embedded(parts.netloc, parts.path))
            url += f"?{parts.query}" if parts.query else ""
        if parts.scheme.endswith("-sentinel"):
            overrides |= {
                "role": role,
                "sentinel_username": sentinel_username,
                "sentinel_password": sentinel_password,
            }
            opening = _open_sentinel(_sentinel_options(url, overrides), read_from)
        elif role == "replica":
            raise UrlError("role is for sentinels, which know the replicas")
        elif parts.scheme.endswith("-cluster"):
            opening = _open_cluster(url, overrides, read_from)
        elif read_from != "master":
            raise UrlError("read_from is for clusters and sentinels, which know the replicas")
        else:
            opening = _open(parse_url(url, **overrides))
        yield await stack.enter_async_context(opening)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _embedded(netloc: str, path: str) -> AsyncGenerator[str, None]:
    if netloc:
        raise UrlError("embedded:// takes no host: write embedded:// or embedded:///directory")
    from terzetto.server import open_embedded  # noqa: PLC0415 - only who embeds a server needs it

    directory = Path(unquote(path, errors="surrogateescape")) if path else None
    async with open_embedded(directory) as server:
        yield server.url


def _sentinel_options(url: str, overrides: dict[str, object]) -> Options:
    group = parse_group(url, SENTINEL_PORT)
    if not group.service:
        raise UrlError(
            f"a {group.scheme}:// URL ends with the service: {group.scheme}://host/mymaster"
        )
    values = {**group.options, **{k: v for k, v in overrides.items() if v is not None}}
    role = values.pop("role", "master")
    asking = {
        "username": values.pop("sentinel_username", None),
        "password": values.pop("sentinel_password", None),
    }
    options = Options(endpoint=group.hosts[0], source=group.source, **values)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - parsed to their fields' types
    asking["connect_timeout"] = options.connect_timeout / _SENTINEL_SHARE
    asking["logger"] = options.logger
    for name in ("tls", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        asking[name] = values.get(name)
    locator = SentinelLocator(
        service=group.service,
        sentinels=[Options(endpoint=host, **asking) for host in group.hosts],  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - each of its field's type
        role="replica" if role == "replica" else "master",
    )
    return attrs.evolve(options, locator=locator)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _open_cluster(
    url: str, overrides: dict[str, object], read_from: Role
) -> AsyncGenerator[Redis, None]:
    group = parse_group(url, DEFAULT_PORT)
    values = {**group.options, **{k: v for k, v in overrides.items() if v is not None}}
    options = Options(endpoint=group.hosts[0], source=group.source, **values)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - parsed to their fields' types
    if options.db or group.service:
        raise UrlError("a cluster has database 0 only: leave the database away")
    async with open_keeper(options) as keeper:
        topology = Topology(options, group.hosts, keeper.start, read_from)
        try:
            await topology.load()
            async with keeper.run_for_block(topology.run):
                kind = ClusterReplicaReads if read_from == "replica" else ClusterRedis
                redis = kind(options, topology, keeper)
                with trio.move_on_after(options.connect_timeout):
                    await redis.wait_connected()
                yield redis
        finally:
            topology.close()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _open_sentinel(options: Options, read_from: Role) -> AsyncGenerator[Redis, None]:
    locator = cast("SentinelLocator", options.locator)
    async with _open_link(options) as (link, keeper):
        if locator.role == "replica":
            if read_from == "replica":
                raise UrlError("role and read_from are both 'replica': give one of them")
            yield Redis(options, link, keeper)
            return
        listener = Listener(locator, lambda: keeper.links)
        await keeper.keep_hub(listener.hub)
        async with keeper.run_for_block(listener.run):
            if read_from == "master":
                yield Redis(options, link, keeper)
                return
            replicas = attrs.evolve(locator, role="replica")
            reader = Link(attrs.evolve(options, locator=replicas), "replica")
            async with keeper.keep(reader):
                with trio.move_on_after(options.connect_timeout):
                    await reader.wait_connected()
                yield SentinelReplicaReads(options, link, reader, keeper)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _open(options: Options) -> AsyncGenerator[Redis, None]:
    async with _open_link(options) as (link, keeper):
        yield Redis(options, link, keeper)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _open_link(options: Options) -> AsyncGenerator[tuple[Link, Keeper], None]:
    first = await open_connection(options)
    link = Link(options, "shared", first=first)
    try:
        async with open_keeper(options) as keeper, keeper.keep(link):
            await link.wait_connected()
            yield link, keeper
    finally:
        link.close()
