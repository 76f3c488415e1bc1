"""How a scheduler is opened: as a block of its own, or as a child in somebody's tree."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, tzinfo
from functools import partial
from typing import Final

from terzetto._shared._functions import is_async
from terzetto._shared._logging import Logger, default_logger
from terzetto.actor import Child, Ref, Restart, open_child
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis
from terzetto.tasks._broker import Broker
from terzetto.tasks._periodic import Periodic
from terzetto.tasks._redis_broker import broker_of
from terzetto.tasks._scheduler import (
    AfterEnqueue,
    BeforeEnqueue,
    Provider,
    Scheduler,
    SchedulerActor,
)

_MAX_SECONDS: Final = 10**9


def open_scheduler(
    redis: Redis | Broker,
    *,
    entries: Iterable[Periodic] = (),
    provider: Provider | None = None,
    zone: tzinfo = UTC,
    sync_interval: float = 180.0,
    heartbeat_interval: float = 10.0,
    before_enqueue: BeforeEnqueue | None = None,
    after_enqueue: AfterEnqueue | None = None,
    logger: Logger | None = None,
) -> AbstractAsyncContextManager[Scheduler]:
    """Open a scheduler for the time of a block; it works at once.

    Any number of schedulers may have the same entries: each tick is enqueued once.
    Times are in seconds.

    Args:
        redis: a client, whose block must outlive this one, or a broker.
        entries: what to enqueue from the beginning on; `Scheduler.register` adds more.
        provider: asked for entries at the start and every `sync_interval`; new ones are
            registered, those that are gone unregistered. Its errors fail the start; later
            they are logged, and the entries stay as they are.
        zone: whose clock the specs go by that name no zone.
        sync_interval: see `provider`.
        heartbeat_interval: how often other processes are told of the scheduler.
        before_enqueue: awaited with the entry at each of its ticks, in every scheduler that
            has it, before it tries to enqueue. Like the other it has 10 s, and its errors
            are logged and change nothing.
        after_enqueue: awaited with the entry, and the task as it was enqueued or the error
            that says why it was not, in the one scheduler whose turn the tick was.
        logger: anything with structlog's methods; by default the standard library's
            logger ``terzetto.tasks``.

    Raises:
        InvalidCronError, InvalidOptionError, InvalidNameError, InvalidPayloadError: an entry
            or option is wrong.
        LinkClosedError: out of the block: the client's block has been left.
    """
    scheduler = _scheduler(
        redis,
        entries=entries,
        provider=provider,
        zone=zone,
        sync_interval=sync_interval,
        heartbeat_interval=heartbeat_interval,
        before_enqueue=before_enqueue,
        after_enqueue=after_enqueue,
        logger=logger,
    )
    return _open(scheduler, logger)


def scheduler_child(
    redis: Redis | Broker,
    *,
    entries: Iterable[Periodic] = (),
    provider: Provider | None = None,
    zone: tzinfo = UTC,
    sync_interval: float = 180.0,
    heartbeat_interval: float = 10.0,
    before_enqueue: BeforeEnqueue | None = None,
    after_enqueue: AfterEnqueue | None = None,
    logger: Logger | None = None,
    name: str = "task scheduler",
    restart: Restart = "transient",
    significant: bool = False,
) -> Child[Scheduler]:
    """Return a scheduler as a child for a tree of one's own; see `open_scheduler`.

    Args:
        redis: likewise.
        entries: likewise.
        provider: likewise.
        zone: likewise.
        sync_interval: likewise.
        heartbeat_interval: likewise.
        before_enqueue: likewise.
        after_enqueue: likewise.
        logger: likewise.
        name: the child's name among its siblings.
        restart: ``"transient"`` (after crashes) or ``"temporary"`` (never).
        significant: as for `Child`.

    Raises:
        InvalidCronError, InvalidOptionError, InvalidNameError, InvalidPayloadError: likewise.
        SpecError, ChildNameError: as `Child` does.
    """
    if restart not in {"transient", "temporary"}:
        raise InvalidOptionError(f"restart is {restart!r}: give 'transient' or 'temporary'")
    scheduler = _scheduler(
        redis,
        entries=entries,
        provider=provider,
        zone=zone,
        sync_interval=sync_interval,
        heartbeat_interval=heartbeat_interval,
        before_enqueue=before_enqueue,
        after_enqueue=after_enqueue,
        logger=logger,
    )
    return _child(scheduler, name, restart, significant=significant)


def _scheduler(
    redis: Redis | Broker,
    *,
    entries: Iterable[Periodic],
    provider: Provider | None,
    zone: tzinfo,
    sync_interval: float,
    heartbeat_interval: float,
    before_enqueue: BeforeEnqueue | None,
    after_enqueue: AfterEnqueue | None,
    logger: Logger | None,
) -> Scheduler:
    for option, value in (("sync", sync_interval), ("heartbeat", heartbeat_interval)):
        if not 0 < value <= _MAX_SECONDS:
            raise InvalidOptionError(f"{option}_interval is {value!r}: give seconds, more than 0")
    for option, function in (
        ("provider", provider),
        ("before_enqueue", before_enqueue),
        ("after_enqueue", after_enqueue),
    ):
        if function is not None and not is_async(function):
            raise InvalidOptionError(f"{option} is {function!r:.200}: give an async function")
    log = default_logger("tasks") if logger is None else logger
    scheduler = Scheduler(
        broker_of(redis, log),
        zone=zone,
        provider=provider,
        sync_interval=sync_interval,
        heartbeat_interval=heartbeat_interval,
        before_enqueue=before_enqueue,
        after_enqueue=after_enqueue,
        log=log,
    )
    for periodic in entries:
        scheduler.register(periodic.spec, periodic.task, **periodic.options)
    return scheduler


@asynccontextmanager
async def _open(scheduler: Scheduler, logger: Logger | None) -> AsyncGenerator[Scheduler]:
    try:
        async with open_child(
            _child(scheduler, "task scheduler", "transient", significant=False), logger=logger
        ) as face:
            yield face
    finally:
        scheduler.end_life(final=True)


def _child(
    scheduler: Scheduler, name: str, restart: Restart, *, significant: bool
) -> Child[Scheduler]:
    def bind(ref: Ref[SchedulerActor]) -> Scheduler:
        scheduler.ref = ref
        return scheduler

    factory = partial(SchedulerActor, scheduler)
    return Child(factory, name=name, restart=restart, significant=significant, face=bind)
