"""How a map is joined: as a block of its own, or as a child in somebody's tree."""

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar, overload

from terzetto._shared._encoding import decode_text
from terzetto._shared._logging import Logger, default_logger
from terzetto.actor import Child, Ref, Restart, open_child
from terzetto.codec import Codec
from terzetto.errors import InvalidOptionError, InvalidPayloadError
from terzetto.redis import Redis
from terzetto.rmap._actor import MapActor
from terzetto.rmap._core import Core, Expiry, check_number
from terzetto.rmap._keys import content_key, updates_channel
from terzetto.rmap._map import TEXT, BytesCodec, BytesMap, Map
from terzetto.rmap._replica import Change, Replica
from terzetto.rmap._typed import TypedMap

V = TypeVar("V")


@overload
def child(
    name: str,
    redis: Redis,
    *,
    codec: None = None,
    ttl: float = 0.0,
    sliding: bool = False,
    poll_interval: float = 10.0,
    logger: Logger | None = None,
    child_name: str | None = None,
    restart: Restart = "transient",
    significant: bool = False,
) -> Child[Map]: ...
@overload
def child(
    name: str,
    redis: Redis,
    *,
    codec: BytesCodec,
    ttl: float = 0.0,
    sliding: bool = False,
    poll_interval: float = 10.0,
    logger: Logger | None = None,
    child_name: str | None = None,
    restart: Restart = "transient",
    significant: bool = False,
) -> Child[BytesMap]: ...
@overload
def child(
    name: str,
    redis: Redis,
    *,
    codec: Codec[V],
    ttl: float = 0.0,
    sliding: bool = False,
    poll_interval: float = 10.0,
    logger: Logger | None = None,
    child_name: str | None = None,
    restart: Restart = "transient",
    significant: bool = False,
) -> Child[TypedMap[V]]: ...
def child(
    name: str,
    redis: Redis,
    *,
    codec: Codec[Any] | None = None,
    ttl: float = 0.0,
    sliding: bool = False,
    poll_interval: float = 10.0,
    logger: Logger | None = None,
    child_name: str | None = None,
    restart: Restart = "transient",
    significant: bool = False,
) -> Child[Any]:
    """Return a map as a child for a tree of one's own; spawning it joins and returns the map.

    The map survives restarts of its actor. The child may be started again after its end,
    and is then the same map; it cannot be in two places at once. Takes and raises what
    `join` does, but talks to Redis only when it is spawned.

    Args:
        name: the map's name.
        redis: the client.
        codec: see `join`, as for those that are not named here.
        ttl: likewise.
        sliding: likewise.
        poll_interval: likewise.
        logger: likewise.
        child_name: the child's name among its siblings, which `Supervisor.get` takes; by
            default ``"map <name>"``, with ``|`` for each slash. Two children of one map, or
            of ``a/b`` and ``a|b``, need names of their own.
        restart: as for `Child`.
        significant: as for `Child`.

    Raises:
        SpecError, ChildNameError: as `Child` does.
    """
    return _prepare(
        name,
        redis,
        codec=codec,
        expiry=Expiry.of(ttl, sliding=sliding),
        poll_interval=poll_interval,
        logger=logger,
        child_name=child_name,
        restart=restart,
        significant=significant,
    )


@overload
def join(
    name: str,
    redis: Redis,
    *,
    codec: None = None,
    ttl: float = 0.0,
    sliding: bool = False,
    poll_interval: float = 10.0,
    logger: Logger | None = None,
) -> AbstractAsyncContextManager[Map]: ...
@overload
def join(
    name: str,
    redis: Redis,
    *,
    codec: BytesCodec,
    ttl: float = 0.0,
    sliding: bool = False,
    poll_interval: float = 10.0,
    logger: Logger | None = None,
) -> AbstractAsyncContextManager[BytesMap]: ...
@overload
def join(
    name: str,
    redis: Redis,
    *,
    codec: Codec[V],
    ttl: float = 0.0,
    sliding: bool = False,
    poll_interval: float = 10.0,
    logger: Logger | None = None,
) -> AbstractAsyncContextManager[TypedMap[V]]: ...
def join(
    name: str,
    redis: Redis,
    *,
    codec: Codec[Any] | None = None,
    ttl: float = 0.0,
    sliding: bool = False,
    poll_interval: float = 10.0,
    logger: Logger | None = None,
) -> AbstractAsyncContextManager[TypedMap[Any]]:
    """Join a replicated map for the time of a block; entering waits until it is here whole.

    After the block the map stays as it was last, readable. A map whose restarts are used
    up cancels the block, and its error comes out of it, unwrapped.

    Args:
        name: the map's name, 1 to 512 characters without spaces, NUL and ``* ? [ ]``.
        redis: the client; its block must outlive this one.
        codec: how values are stored: text by default (`Map`), `BYTES` for bytes
            (`BytesMap`), or a codec such as `terzetto.codec.json_codec` makes (`TypedMap`).
        ttl: seconds after which the server drops the content, cut to whole seconds but at
            least 1; 0 for never. All who write to a map should give the same.
        sliding: whether each operation starts the time anew; else the first one counts.
            It needs a `ttl`.
        poll_interval: seconds between two looks at the server's revision, for changes that
            no message tells of, such as an expiry.
        logger: anything with the methods of structlog's bound loggers.

    Raises:
        InvalidNameError: `name` cannot name a map.
        InvalidOptionError: `ttl` or `poll_interval` is out of its range, or `sliding` is
            given without `ttl`.
        TypeError: `redis` is no client, or seconds are no number.
        redis.exceptions.ResponseError: something else than a map is at its place, or the
            server does not allow to read it.
        LinkClosedError: the client's block has been left.
    """
    spec = _prepare(
        name,
        redis,
        codec=codec,
        expiry=Expiry.of(ttl, sliding=sliding),
        poll_interval=poll_interval,
        logger=logger,
    )
    return open_child(spec, logger=logger)


def _prepare(
    name: str,
    redis: Redis,
    *,
    codec: Codec[Any] | None,
    expiry: Expiry,
    poll_interval: float,
    logger: Logger | None,
    child_name: str | None = None,
    restart: Restart = "transient",
    significant: bool = False,
) -> Child[TypedMap[Any]]:
    if not isinstance(redis, Redis):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"a map is joined over a client that connect() opens, not {redis!r}")
    check_number("poll_interval", poll_interval)
    if not poll_interval > 0:
        raise InvalidOptionError(f"poll_interval is {poll_interval}: give more than 0 seconds")
    values: Codec[Any] = TEXT if codec is None else codec
    core = _core(name, redis, values, expiry, logger)
    face: TypedMap[Any]
    if codec is None:
        face = Map(core, values)
    elif isinstance(codec, BytesCodec):
        face = BytesMap(core, values)
    else:
        face = TypedMap(core, values)

    def bind(ref: Ref[MapActor]) -> TypedMap[Any]:
        core.ref = ref
        ref.when_stopped(lambda _: core.freeze())
        return face

    return Child(
        partial(MapActor, core, poll_interval),
        name=child_name or f"map {name}".replace("/", "|"),  # a child's name has no slash
        restart=restart,
        significant=significant,
        face=bind,
    )


def _core(
    name: str, redis: Redis, codec: Codec[Any], expiry: Expiry, logger: Logger | None
) -> Core[Any]:
    decode = decode_text if codec is TEXT else codec.decode  # one call less for each value
    log = (default_logger("rmap") if logger is None else logger).bind(map=name)

    def report_malformed(data: bytes, error: InvalidPayloadError) -> None:
        log.warning("passed over a malformed message", error=str(error), start=data[:40])

    core: Core[Any]

    def post(change: Change, key: str | None) -> None:
        core.post(change, key)

    core = Core(
        name=name,
        redis=redis,
        content_key=content_key(name),
        channel=updates_channel(name),
        expiry=expiry,
        log=log,
        replica=Replica(decode=decode, on_change=post, on_malformed=report_malformed),
    )
    return core
