"""How a server is opened: as a block of its own, or as a child in somebody's tree."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from terzetto._shared._logging import Logger, default_logger
from terzetto.actor import Child, Ref, Restart, open_child
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis
from terzetto.tasks._broker import LEASE_SECONDS, Broker
from terzetto.tasks._limits import ConcurrencyLimit, RateLimit
from terzetto.tasks._options import ErrorHandler, Grouping, HealthCheck, ServerOptions
from terzetto.tasks._queues import DEFAULT_QUEUE
from terzetto.tasks._redis_broker import broker_of
from terzetto.tasks._retry import (
    IsFailure,
    RetryDelay,
    RetryPolicy,
    always_failure,
    default_retry_delay,
)
from terzetto.tasks._router import Router, check_router
from terzetto.tasks._server import Server, ServerActor

_DEFAULT_QUEUES: Mapping[str, int] = {DEFAULT_QUEUE: 1}


def server_child(
    redis: Redis | Broker,
    router: Router,
    *,
    queues: Mapping[str, int] = _DEFAULT_QUEUES,
    strict: bool = False,
    concurrency: int = 10,
    retry_delay: RetryDelay = default_retry_delay,
    is_failure: IsFailure = always_failure,
    shutdown_timeout: float = 8.0,
    error_handler: ErrorHandler | None = None,
    health_check: HealthCheck | None = None,
    grouping: Grouping | None = None,
    limits: Sequence[RateLimit | ConcurrencyLimit] = (),
    poll_interval: float = 1.0,
    forward_interval: float = 1.0,
    recover_interval: float = 1.0,
    janitor_interval: float = 8.0,
    heartbeat_interval: float = 5.0,
    health_interval: float = 15.0,
    lease: float = LEASE_SECONDS,
    logger: Logger | None = None,
    name: str = "task server",
    restart: Restart = "transient",
    significant: bool = False,
) -> Child[Server]:
    """Return a server as a child for a tree of one's own; it serves as soon as it is spawned.

    See `open_server` for what is not named here.

    Args:
        redis: likewise.
        router: the functions that handle tasks.
        queues: likewise.
        strict: likewise.
        concurrency: likewise.
        retry_delay: likewise.
        is_failure: likewise.
        shutdown_timeout: likewise.
        error_handler: likewise.
        health_check: likewise.
        grouping: likewise.
        limits: likewise.
        poll_interval: likewise.
        forward_interval: likewise.
        recover_interval: likewise.
        janitor_interval: likewise.
        heartbeat_interval: likewise.
        health_interval: likewise.
        lease: likewise.
        logger: likewise.
        name: the child's name among its siblings.
        restart: ``"transient"`` (after crashes) or ``"temporary"`` (never).
        significant: as for `Child`.

    Raises:
        InvalidNameError, InvalidOptionError: as `open_server`; or the router is none or empty.
        SpecError, ChildNameError: as `Child` does.
    """
    options = ServerOptions(
        queues=queues,
        strict=strict,
        concurrency=concurrency,
        retry=RetryPolicy(delay=retry_delay, is_failure=is_failure),
        shutdown_timeout=shutdown_timeout,
        error_handler=error_handler,
        health_check=health_check,
        grouping=grouping,
        limits=limits,
        poll_interval=poll_interval,
        forward_interval=forward_interval,
        recover_interval=recover_interval,
        janitor_interval=janitor_interval,
        heartbeat_interval=heartbeat_interval,
        health_interval=health_interval,
        lease=lease,
    )
    check_router(router)
    if restart not in {"transient", "temporary"}:
        raise InvalidOptionError(
            f"restart is {restart!r}: give 'transient' or 'temporary', a closed server stays closed"
        )
    server = _server(redis, options, logger)
    server.router = router
    return _child(server, name, restart, significant=significant)


def open_server(
    redis: Redis | Broker,
    *,
    queues: Mapping[str, int] = _DEFAULT_QUEUES,
    strict: bool = False,
    concurrency: int = 10,
    retry_delay: RetryDelay = default_retry_delay,
    is_failure: IsFailure = always_failure,
    shutdown_timeout: float = 8.0,
    error_handler: ErrorHandler | None = None,
    health_check: HealthCheck | None = None,
    grouping: Grouping | None = None,
    limits: Sequence[RateLimit | ConcurrencyLimit] = (),
    poll_interval: float = 1.0,
    forward_interval: float = 1.0,
    recover_interval: float = 1.0,
    janitor_interval: float = 8.0,
    heartbeat_interval: float = 5.0,
    health_interval: float = 15.0,
    lease: float = LEASE_SECONDS,
    logger: Logger | None = None,
) -> AbstractAsyncContextManager[Server]:
    """Open a server for the time of a block; `Server.run` serves, leaving is `Server.close`.

    Times are in seconds. All servers of a queue, in Go too, need the same `lease`.

    Args:
        redis: a client, whose block must outlive this one, or a broker, such as one in
            memory for tests.
        queues: the queues to serve, each with a priority from 1 on.
        strict: serve a queue only while all with a higher priority are empty; else the
            priorities are the proportions in which queues are asked first.
        concurrency: how many functions run at once.
        retry_delay: from the retries so far, the error and the task, the seconds until
            the next attempt; by default asynq's, 15 s at least and growing.
        is_failure: whether an error uses up a retry and counts as failed; by default
            every one does.
        shutdown_timeout: how long those that run may go on when the server is closed,
            before they are cancelled and their tasks go back.
        error_handler: awaited with the context and the error of each attempt that
            fails, before the outcome is written; it has 10 s.
        health_check: awaited every `health_interval` with None, or with the error that
            asking Redis gave.
        grouping: how tasks of groups are made one; without it they stay in their groups.
        limits: how often, or how many at once, tasks of a kind may run on all servers.
        poll_interval: about how often an idle server asks for tasks. Those of our own
            producers are heard of at once; those of producers in Go are not.
        forward_interval: how often scheduled tasks and retries are looked for, at the
            latest; a server knows when the next is due.
        recover_interval: how often tasks of servers that died are looked for.
        janitor_interval: how often what was kept for long enough is deleted.
        heartbeat_interval: how often leases are renewed, at most a third of `lease`.
        health_interval: how often `health_check` is called.
        lease: how long a server may be silent before its tasks are run elsewhere.
        logger: anything with structlog's methods; by default the standard library's
            logger ``terzetto.tasks``.

    Raises:
        InvalidNameError: a queue cannot be called so.
        InvalidOptionError: an option is out of its range or of another type.
        LinkClosedError: out of the block: the client's block has been left.
    """
    options = ServerOptions(
        queues=queues,
        strict=strict,
        concurrency=concurrency,
        retry=RetryPolicy(delay=retry_delay, is_failure=is_failure),
        shutdown_timeout=shutdown_timeout,
        error_handler=error_handler,
        health_check=health_check,
        grouping=grouping,
        limits=limits,
        poll_interval=poll_interval,
        forward_interval=forward_interval,
        recover_interval=recover_interval,
        janitor_interval=janitor_interval,
        heartbeat_interval=heartbeat_interval,
        health_interval=health_interval,
        lease=lease,
    )
    return _open(_server(redis, options, logger), logger)


@asynccontextmanager
async def _open(server: Server, logger: Logger | None) -> AsyncGenerator[Server]:
    try:
        async with open_child(
            _child(server, "task server", "transient", significant=False), logger=logger
        ) as face:
            yield face
    finally:
        server.end_life(final=True)  # a life that crashed for good does not say so


def _server(redis: Redis | Broker, options: ServerOptions, logger: Logger | None) -> Server:
    log = default_logger("tasks") if logger is None else logger
    return Server(broker_of(redis, log), options, log)


def _child(server: Server, name: str, restart: Restart, *, significant: bool) -> Child[Server]:
    def bind(ref: Ref[ServerActor]) -> Server:
        server.ref = ref
        return server

    factory: Callable[[], ServerActor] = partial(ServerActor, server)
    return Child(factory, name=name, restart=restart, grace=5.0, significant=significant, face=bind)
