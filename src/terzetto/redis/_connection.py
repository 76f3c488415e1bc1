"""Opening one connection: the socket, the greeting, and the errors in between.

`open_connection` is the only place that sees a password. What it returns is
ready for commands: authenticated, named, on its database, and past LOADING.
Called by `connect` for the first connection, and by every link afterwards.
"""

import inspect
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import cast

import attrs
import trio
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from terzetto.redis._backoff import Backoff
from terzetto.redis._errors import AuthError, ConnectError
from terzetto.redis._io import Transport, open_transport
from terzetto.redis._reader import ReplyReader
from terzetto.redis._url import Credentials, Endpoint, Options
from terzetto.redis._wire import NEED_MORE, Arg, Push, Reply, pack, pack_many

_PAUSE = 0.05  # seconds between looks at a server that is not ready
_NO_RESP3 = ("unknown command", "NOPROTO", "unsupported protocol")  # what servers say to HELLO 3


def _library_version() -> str:
    try:
        return version("terzetto")
    except PackageNotFoundError:
        return "unknown"


@attrs.define(kw_only=True, eq=False)
class Connection:
    """A socket on which the server has been greeted."""

    transport: Transport
    reader: ReplyReader
    endpoint: Endpoint
    client_id: int
    """The server's number for this connection, for CLIENT UNBLOCK."""


async def open_connection(options: Options) -> Connection:
    """Open a connection and greet the server.

    With a locator, the endpoint is looked up first, again and again until it leads to
    a server of the right role. Waits at most `options.connect_timeout` seconds, also
    for a server that is still loading its data. Cancelling leaves nothing open.

    Raises:
        AuthError: the credentials are wrong or missing.
        ConnectError: anything else; its cause is chained.
    """
    last: ConnectError | None = None
    with trio.move_on_after(options.connect_timeout):
        while True:
            try:
                return await _attempt(options)
            except ConnectError as error:
                if options.locator is None or isinstance(error, AuthError):
                    raise
                last = error  # who leads here may not know yet: ask again
            except BusyLoadingError:
                pass
            await trio.sleep(_PAUSE)
    doubt = ", or does it not speak TLS" if options.endpoint.tls else ""
    raise last or ConnectError(
        f"{options.url} did not answer within {options.connect_timeout:g} s:"
        f" is it overloaded{doubt}?"
    )


async def reconnect(
    options: Options, note_failure: Callable[[int, ConnectError], Awaitable[None]]
) -> Connection:
    """Open a connection, however often that fails, with ever longer waits in between.

    `note_failure` is told after each failure how many there were, and the error; the
    next attempt waits until it has returned.
    """
    backoff = Backoff(ceiling=options.max_backoff)
    while True:
        try:
            return await open_connection(options)
        except ConnectError as error:
            delay = backoff.next_delay()
            await note_failure(backoff.attempts, error)
        await trio.sleep(delay)


async def ask(connection: Connection, *args: Arg) -> Reply:
    """Run one command on a connection that belongs to no link; errors are returned.

    Raises:
        ConnectError: the connection was lost.
    """
    try:
        await connection.transport.send_all(pack(args))
        (reply,) = await _replies(connection.transport, connection.reader, 1)
    except (OSError, trio.BrokenResourceError, RedisError) as error:
        raise ConnectError(f"a connection was lost at once ({error})") from error
    return reply


async def _attempt(options: Options) -> Connection:
    if options.locator is not None:
        endpoint = await options.locator.locate()
        options = attrs.evolve(options, endpoint=endpoint)
    where = options.endpoint
    try:
        connection = await _open_once(options)
    except ConnectError:
        raise
    except AuthenticationError as error:
        raise AuthError(
            f"{where} refuses the credentials ({error}): check user name and password"
        ) from error
    except OSError as error:
        raise ConnectError(
            f"{where} cannot be reached ({_reason_of(error)}): is the server running there?"
        ) from error
    except BusyLoadingError:
        raise
    except (trio.BrokenResourceError, RedisError) as error:
        raise ConnectError(f"{where} does not greet as Redis does ({error})") from error
    if options.locator is not None and options.locator.role == "master":
        await _check_master(connection, where)
    return connection


def _reason_of(error: OSError) -> str:
    """Return what the system says; trio tries all addresses of a host, and keeps it to itself."""
    if isinstance(group := error.__cause__, ExceptionGroup):
        causes = cast("ExceptionGroup[Exception]", group).exceptions
        return ", ".join(dict.fromkeys(map(str, causes)))
    return str(error)


async def _check_master(connection: Connection, where: Endpoint) -> None:
    is_master = False
    try:
        role = await ask(connection, "ROLE")
        # Who may not ask takes the word of whoever led here.
        forbidden = isinstance(role, NoPermissionError)
        is_master = forbidden or (isinstance(role, list) and role[:1] == [b"master"])
    finally:
        if not is_master:
            connection.transport.close()
    if not is_master:
        raise ConnectError(f"{where} is no master (any more): it is looked up again")


async def _open_once(options: Options) -> Connection:
    credentials = await _credentials(options)
    transport = await open_transport(options)
    greeted = False
    try:
        connection = await _greet(transport, options, credentials)
        greeted = True
        return connection
    finally:
        if not greeted:
            transport.close()


async def _credentials(options: Options) -> Credentials:
    if options.credentials is None:
        return options.username, options.password
    try:
        answer = options.credentials()
        if inspect.isawaitable(answer):
            answer = await answer
    except Exception as error:
        # Here the user's code runs. A vault that is away is an outage like any other.
        raise ConnectError(
            f"the credentials' provider failed ({type(error).__name__}): see the cause"
        ) from error
    return _checked_credentials(answer)


def _checked_credentials(answer: object) -> Credentials:
    match answer:
        case (str() | None as username, str() | None as password):
            return username, password
        case _:
            # Not its value: a secret may be in it.
            raise ConnectError(
                f"the credentials' provider returned a {type(answer).__name__}: it has to return"
                " user name and password, each a str or None"
            )


async def _greet(transport: Transport, options: Options, credentials: Credentials) -> Connection:
    username, password = credentials
    hello: list[Arg] = ["HELLO", "3"]
    if password is not None or username is not None:
        hello += ["AUTH", username or "default", password or ""]
    if options.client_name is not None:
        hello += ["SETNAME", options.client_name]
    commands: list[list[Arg]] = [
        hello,
        ["CLIENT", "SETINFO", "LIB-NAME", "terzetto"],
        ["CLIENT", "SETINFO", "LIB-VER", _library_version()],
        ["PING"],
    ]
    if options.db:
        commands.append(["SELECT", options.db])
    if options.readonly:
        commands.append(["READONLY"])
    await transport.send_all(pack_many(commands))
    reader = ReplyReader(options.max_reply_bytes)
    hello_reply, _, _, ping_reply, *rest = await _replies(transport, reader, len(commands))
    if isinstance(hello_reply, ResponseError) and not isinstance(hello_reply, NoPermissionError):
        if any(sign in str(hello_reply) for sign in _NO_RESP3):
            text = f"does not speak RESP3 ({hello_reply}): it takes Redis 7.0 or later"
        else:
            text = f"refuses the greeting ({hello_reply})"
        raise ConnectError(f"{options.endpoint} {text}") from hello_reply
    if (
        options.db
        and isinstance(rest[0], ResponseError)
        and not isinstance(rest[0], NoPermissionError)
    ):
        raise ConnectError(
            f"{options.endpoint} refuses database {options.db} ({rest[0]}): choose one that it has"
        ) from rest[0]
    # CLIENT SETINFO is unknown before Redis 7.2 and may be forbidden: it may fail.
    for reply in (hello_reply, ping_reply, *rest):
        if isinstance(reply, RedisError) and not isinstance(reply, NoPermissionError):
            raise reply
    facts = cast("dict[bytes, object]", hello_reply if isinstance(hello_reply, dict) else {})
    number = facts.get(b"id", 0)
    return Connection(
        transport=transport,
        reader=reader,
        endpoint=options.endpoint,
        client_id=number if isinstance(number, int) else 0,
    )


async def _replies(transport: Transport, reader: ReplyReader, count: int) -> list[Reply]:
    replies: list[Reply] = []
    while True:
        while (reply := reader.take()) is not NEED_MORE:
            if not isinstance(reply, Push):
                replies.append(reply)
        if len(replies) >= count:
            return replies
        if not await transport.receive_into(reader):
            raise trio.BrokenResourceError("the server closed the connection")
