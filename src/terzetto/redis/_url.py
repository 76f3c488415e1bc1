"""URLs and options of a client, checked before a socket is opened. Pure.

A secret is held only in fields that no repr shows; `Options.url` has none.
"""

import math
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Literal, Protocol, TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import attrs

from terzetto._shared._logging import Logger, default_logger
from terzetto.redis._errors import UrlError

DEFAULT_PORT: Final = 6379
SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "embedded",
    "redis-sentinel",
    "rediss-sentinel",
    "redis-cluster",
    "rediss-cluster",
)

Role: TypeAlias = Literal["master", "replica"]
"""A part that a server plays; for reads, whose answers will do."""

Credentials: TypeAlias = tuple[str | None, str | None]
"""User name and password; None for what the server does not ask for."""

CredentialProvider: TypeAlias = Callable[[], Credentials | Awaitable[Credentials]]
"""Asked for the credentials each time a link is opened."""


@attrs.frozen(kw_only=True)
class Endpoint:
    """Where a server listens: a unix socket, or a host and a port."""

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str | None = None
    tls: bool = False

    def __str__(self) -> str:
        """Return the endpoint as a URL without credentials."""
        if self.path is not None:
            return f"unix://{quote(self.path, errors='surrogateescape')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}"


class Locator(Protocol):
    """Finds the endpoint to connect to, anew for each connection."""

    role: Role

    async def locate(self) -> Endpoint:
        """Return the endpoint; raises `ConnectError` if there is none."""
        ...


# Callers may be untyped, so each checks the type first: what slips through here
# would crash a link much later, far from who gave it.


def _seconds(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise UrlError(f"{attribute.name} is {value!r}: it has to be a number of seconds")
    if value <= 0:
        raise UrlError(f"{attribute.name} is {value}: it has to be greater than 0")


def _whole(attribute: "attrs.Attribute[Any]", value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UrlError(f"{attribute.name} is {value!r}: it has to be a whole number, an int")
    return value


def _not_negative(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if _whole(attribute, value) < 0:
        raise UrlError(f"{attribute.name} is {value}: it may not be negative")


def _at_least_one(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if _whole(attribute, value) < 1:
        raise UrlError(f"{attribute.name} is {value}: it has to be 1 or more")


def _text(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if value is not None and not isinstance(value, str):
        # Without the value: it may be a password.
        raise UrlError(f"{attribute.name} is a {type(value).__name__}: it has to be a str")


def _callable(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if value is not None and not callable(value):
        raise UrlError(
            f"{attribute.name} is a {type(value).__name__}: it has to be a function that returns"
            " user name and password"
        )


def _client_name(_: object, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    _text(_, attribute, value)
    if value and not all("!" <= character <= "~" for character in value):
        raise UrlError(
            f"client_name is {value!r}: Redis takes ASCII characters without spaces in it"
        )


@attrs.frozen(kw_only=True)
class Options:
    """Everything a link has to know to connect and to guard itself; times are in seconds."""

    endpoint: Endpoint = Endpoint()
    username: str | None = attrs.field(default=None, validator=_text)
    password: str | None = attrs.field(default=None, repr=False, validator=_text)
    credentials: CredentialProvider | None = attrs.field(
        default=None, repr=False, validator=_callable
    )
    db: int = attrs.field(default=0, validator=_not_negative)
    client_name: str | None = attrs.field(default=None, validator=_client_name)
    connect_timeout: float = attrs.field(default=5.0, validator=_seconds)
    server_timeout: float = attrs.field(default=15.0, validator=_seconds)
    health_check_interval: float = attrs.field(default=15.0, validator=_seconds)
    max_in_flight: int = attrs.field(default=20_000, validator=_at_least_one)
    max_reply_bytes: int = attrs.field(default=600 * 1024 * 1024, validator=_at_least_one)
    max_backoff: float = attrs.field(default=2.0, validator=_seconds)
    decode_replies: bool = False
    readonly: bool = False
    """Tell a member of a cluster that its replica's answers will do."""
    locator: Locator | None = attrs.field(default=None, repr=False)
    source: str | None = None
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = attrs.field(default=None, repr=False)
    ssl_keyfile: str | None = attrs.field(default=None, repr=False)
    logger: Logger = attrs.field(factory=partial(default_logger, "redis"), repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        """Refuse options of TLS where there is none."""
        files = (self.ssl_ca_certs, self.ssl_certfile, self.ssl_keyfile)
        if not self.endpoint.tls and (self.tls is not None or any(files)):
            raise UrlError(
                "options of TLS, but the URL's scheme is not rediss, rediss-sentinel or"
                " rediss-cluster: nothing would be encrypted"
            )
        if self.tls is not None and any(files):
            raise UrlError("`tls` and files for TLS: load the files into the SSLContext")

    def tls_context(self) -> ssl.SSLContext:
        """Return the context for TLS; by default it checks certificate and host name.

        Raises:
            OSError: a file cannot be read, or is no certificate.
        """
        if self.tls is not None:
            return self.tls
        context = ssl.create_default_context(cafile=self.ssl_ca_certs)
        if self.ssl_certfile is not None:
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
        return context

    @property
    def url(self) -> str:
        """The source, or endpoint and database, as a URL without credentials."""
        if self.source is not None:
            return self.source
        if self.endpoint.path is not None:
            return f"{self.endpoint}?db={self.db}" if self.db else str(self.endpoint)
        return f"{self.endpoint}/{self.db}"


_QUERY: Final[Mapping[str, Callable[[str], object]]] = {
    "db": int,
    "client_name": str,
    "connect_timeout": float,
    "server_timeout": float,
    "health_check_interval": float,
    "max_in_flight": int,
    "max_reply_bytes": int,
    "max_backoff": float,
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
}

_WEAKER: Final = frozenset({"ssl_cert_reqs", "ssl_check_hostname"})
"""Options of other clients that would switch off what TLS is for."""


def parse_url(url: str, **overrides: object) -> Options:
    """Return the options that a `redis://` or `unix://` URL stands for.

    ``redis://[[user]:password@]host[:port][/db][?option=value...]`` and
    ``unix://[[user]:password@]/path[?db=n&...]``, percent-encoded. An override
    that is not None wins over the URL.

    Raises:
        UrlError: a part cannot be understood.
    """
    parts = split_url(url)
    values: dict[str, object] = {}
    if parts.scheme == "unix":
        if not parts.path:
            raise UrlError("a unix:// URL needs a path: unix:///run/redis/redis.sock")
        values["endpoint"] = Endpoint(path=unquote(parts.path, errors="surrogateescape"))
    elif parts.scheme in {"redis", "rediss"}:
        values["endpoint"] = _tcp_endpoint(parts)
        database = unquote(parts.path).strip("/")
        if database:
            values["db"] = _number("database", database, int)
    else:
        raise UrlError(f"a {parts.scheme}:// URL does not name one server")
    if parts.username:
        values["username"] = unquote(parts.username)
    if parts.password:
        values["password"] = unquote(parts.password)
    values.update(_query(parts.query))
    values.update({name: value for name, value in overrides.items() if value is not None})
    return Options(**values)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - each was parsed to its field's type


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL whose scheme Terzetto knows.

    Raises:
        UrlError: there is no scheme, or an unknown one.
    """
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise UrlError(f"the URL is a {type(url).__name__}: it has to be a str")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        # from None: the text of urlsplit's error may quote the password.
        raise UrlError(f"the URL cannot be parsed ({type(error).__name__}): check it") from None
    if parts.scheme not in SCHEMES:
        raise UrlError(
            f"the URL's scheme is {parts.scheme!r}: use one of "
            + ", ".join(f"{scheme}://" for scheme in SCHEMES)
        )
    return parts


@attrs.frozen(kw_only=True)
class Group:
    """What a URL with several hosts says: who to ask, and how to talk to whom they name."""

    scheme: str
    hosts: tuple[Endpoint, ...]
    service: str
    options: dict[str, object] = attrs.field(repr=False)

    @property
    def source(self) -> str:
        """The URL again, without credentials."""
        hosts = ",".join(str(host).partition("://")[2] for host in self.hosts)
        return f"{self.scheme}://{hosts}" + (f"/{self.service}" if self.service else "")


def parse_group(url: str, default_port: int) -> Group:
    """Return what a URL such as ``redis-cluster://[user:password@]host:port,host:port`` says.

    Raises:
        UrlError: a part cannot be understood.
    """
    parts = split_url(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    values: dict[str, object] = _query(parts.query)
    if user:
        values["username"] = unquote(user)
    if password:
        values["password"] = unquote(password)
    scheme = "rediss" if parts.scheme.startswith("rediss-") else "redis"
    endpoints = tuple(
        _tcp_endpoint(split_url(f"{scheme}://{host}"), default_port) for host in hosts.split(",")
    )
    if not hosts:
        raise UrlError(
            f"a {parts.scheme}:// URL needs a host: {parts.scheme}://host:port,host:port"
        )
    service = unquote(parts.path).strip("/")
    return Group(scheme=parts.scheme, hosts=endpoints, service=service, options=values)


def _tcp_endpoint(parts: SplitResult, default_port: int = DEFAULT_PORT) -> Endpoint:
    try:
        port = parts.port
    except ValueError:
        raise UrlError("the URL's port is no number from 1 to 65535: correct it") from None
    return Endpoint(
        host=unquote(parts.hostname) if parts.hostname else "localhost",
        port=default_port if port is None else port,
        tls=parts.scheme == "rediss",
    )


def _query(query: str) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        convert = _QUERY.get(name)
        if name in _WEAKER:
            raise UrlError(
                f"{name} is no option of a URL: the server's certificate and name are checked; "
                "who must do without gives connect() an SSLContext as `tls`"
            )
        if convert is None:
            raise UrlError(
                f"the URL has an unknown option {name!r}: the known ones are {', '.join(_QUERY)}"
            )
        values[name] = _number(name, text, convert)
    return values


def _number(name: str, text: str, convert: Callable[[str], object]) -> object:
    try:
        return convert(text)
    except ValueError:
        raise UrlError(f"the URL's {name} is {text!r}: it has to be a number") from None
