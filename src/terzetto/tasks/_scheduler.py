"""A scheduler: enqueues tasks by cron specs and intervals, once a tick, however many there are.

Theory of operation. Each entry has a loop: it sleeps until its next tick, by the
clock of the Redis server, and enqueues the task together with the tick; the script
that does so refuses a tick that this schedule has had, or an earlier one. So any
number of schedulers may have the same entries: the first to come enqueues, and a
scheduler that slept or was cut off does no harm when it is back. No leader is
elected and none can be missing.

A tick that falls into an outage of Redis is enqueued when Redis is back; those that
are due meanwhile are left out. Ticks at which no scheduler ran are not made up for.

The face survives restarts, and with it each entry's last tick. With a provider, a
further loop asks the application what the entries are, and takes up the difference.
"""

import os
import socket
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, tzinfo
from functools import partial
from typing import Final, TypeAlias, Unpack

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._logging import Logger, default_logger
from terzetto._shared._texts import describe_error
from terzetto.actor import Actor, Child, Context, Ref, Restart, Stop, open_child
from terzetto.errors import ClosedError, InvalidOptionError, TerzettoError
from terzetto.redis import LinkClosedError, Redis
from terzetto.tasks._broker import Broker, Enqueue, Placed, Placement, Ticked
from terzetto.tasks._message import EnqueueEvent, SchedulerEntry
from terzetto.tasks._periodic import Periodic, Plan, plan
from terzetto.tasks._redis_broker import RedisBroker
from terzetto.tasks._task import Task, TaskOptions

Provider: TypeAlias = Callable[[], Awaitable[Iterable[Periodic]]]
"""Says what the entries of a scheduler are at this moment."""

_LONGEST_NAP: Final = 30.0  # seconds after which the clock is looked at again
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_FAREWELL: Final = 2.0
_MAX_SECONDS: Final = 10**9


@attrs.define(eq=False, kw_only=True)
class Entry:
    """An entry of one scheduler, over all its lives.

    Attributes:
        plan: what is enqueued, and when.
        since: ticks up to this moment (Unix seconds) are done with; None: it has not begun.
        next_at: the next tick, or None.
        previous_at: when it was enqueued last, by whatever scheduler, as far as is known here.
        is_provided: whether the provider named it.
        scope: ends its loop.
    """

    plan: Plan
    since: float | None = None
    next_at: float | None = None
    previous_at: float | None = None
    is_provided: bool = False
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def shown(self) -> SchedulerEntry:
        """Return what other processes see of it."""
        return SchedulerEntry(
            id=self.plan.id,
            spec=self.plan.spec,
            task_type=self.plan.task.type,
            payload=self.plan.task.payload or b"",
            options=self.plan.option_texts,
            next_at=self.next_at,
            previous_at=self.previous_at,
        )


class Scheduler:
    """Enqueues tasks again and again; made by `open_scheduler` and `scheduler_child`."""

    def __init__(
        self,
        broker: Broker,
        *,
        zone: tzinfo,
        provider: Provider | None,
        sync_interval: float,
        heartbeat_interval: float,
        log: Logger,
    ) -> None:
        self.broker = broker
        self.zone = zone
        self.provider = provider
        self.sync_interval = sync_interval
        self.heartbeat_interval = heartbeat_interval
        self.id = f"{_host()}:{os.getpid()}:{uuid.uuid4()}"
        self.log = log.bind(scheduler=self.id)
        self.entries: dict[str, Entry] = {}
        self.actor: SchedulerActor | None = None
        self.ref: Ref[SchedulerActor] | None = None
        self._ended = trio.Event()

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "running"
        return f"<Scheduler {self.id} {state} entries={len(self.entries)}>"

    @property
    def is_closed(self) -> bool:
        """Whether it has ended for good."""
        return self._ended.is_set()

    def register(self, spec: str, task: Task, **options: Unpack[TaskOptions]) -> str:
        """Enqueue a task whenever `spec` says; return the entry's id.

        The id is the same in every scheduler that is told the same.

        Args:
            spec: five cron fields, ``@daily`` and its kin, or ``@every 1h30m``, which goes
                by a grid from the Unix epoch on; ``TZ=Europe/Paris`` may stand in front.
            task: what is enqueued.
            options: how, as for a client's `enqueue`.

        Raises:
            InvalidCronError: `spec` cannot be read.
            InvalidOptionError: an option is wrong, or this very entry is registered.
            InvalidNameError, InvalidPayloadError: as a client's `enqueue`.
            ClosedError: the scheduler is closed.
        """
        made = plan(Periodic(spec, task, **options), self.zone)
        self.check_open()
        if made.id in self.entries:
            raise InvalidOptionError(
                f"{spec!r} for {task.type!r} is registered already: differ in type, payload or"
                " options"
            )
        self.add(made)
        return made.id

    def unregister(self, entry_id: str) -> bool:
        """Enqueue an entry no more; return False if there is none with this id.

        Its history is kept, and other schedulers that have it go on.
        """
        entry = self.entries.pop(entry_id, None)
        if entry is None:
            return False
        entry.scope.cancel()
        self._show()
        return True

    async def run(self) -> None:
        """Wait until the scheduler is closed; it works without this too."""
        await self._ended.wait()

    async def close(self) -> None:
        """End; what other processes see of it goes, the history stays."""
        if self.ref is None:
            await trio.lowlevel.checkpoint()
            return
        await self.ref.close()

    # For the actor ------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise `ClosedError` if it has ended."""
        if self.is_closed:
            raise ClosedError(f"scheduler {self.id} is closed: open another")

    def add(self, made: Plan, *, is_provided: bool = False) -> None:
        """Take up an entry."""
        entry = Entry(plan=made, is_provided=is_provided)
        self.entries[made.id] = entry
        if self.actor is not None:
            self.actor.begin(entry)
        self._show()

    def end_life(self, *, final: bool) -> None:
        """Note that a life is over."""
        self.actor = None
        if final:
            self._ended.set()

    def _show(self) -> None:
        if self.actor is not None:
            self.actor.changed.set()


@attrs.define(eq=False)
class SchedulerActor(Actor):
    """One life of a scheduler; `face` is what outlives it."""

    face: Scheduler
    changed: trio.Event = attrs.field(factory=trio.Event)
    _ctx: Context["SchedulerActor"] = attrs.field(init=False)

    async def started(self, ctx: Context["SchedulerActor"]) -> None:
        """Learn what the entries are, and begin."""
        self._ctx = ctx
        face = self.face
        await face.broker.sync_clock()
        if face.provider is not None:
            await self._sync(face.provider, is_first=True)
            ctx.start_soon(self._follow, face.provider)
        face.actor = self
        for entry in face.entries.values():
            self.begin(entry)
        ctx.start_soon(self._show)

    async def stopping(self, reason: Stop) -> None:
        """Let other processes see it no more."""
        final = reason in {Stop.NORMAL, Stop.CLOSED, Stop.SHUTDOWN}
        self.face.end_life(final=final)
        if final:
            with trio.move_on_after(_FAREWELL):  # it expires by itself
                await self.face.broker.clear_entries(self.face.id)

    def begin(self, entry: Entry) -> None:
        """Start the loop of an entry."""
        entry.scope = trio.CancelScope()
        self._ctx.start_soon(self._repeat, entry, name=f"entry {entry.plan.spec}")

    async def _repeat(self, entry: Entry) -> None:
        face = self.face
        with entry.scope:
            since = face.broker.now() if entry.since is None else entry.since
            while True:
                entry.since = since
                entry.next_at = at = entry.plan.next_after(since)
                self.changed.set()
                if at is None:
                    face.log.warning("a schedule has no further tick", spec=entry.plan.spec)
                    await trio.sleep_forever()
                await self._sleep_until(at)
                await self._enqueue(entry, at)
                # What fell due while Redis was away is left out.
                since = max(at, face.broker.now())

    async def _sleep_until(self, at: float) -> None:
        """Wait for a moment by the server's clock, which is looked at again now and then."""
        while True:
            wait = at - self.face.broker.now()
            if wait <= 0:
                return
            await trio.sleep(min(wait, _LONGEST_NAP))

    async def _enqueue(self, entry: Entry, at: float) -> None:
        face = self.face
        log = face.log.bind(spec=entry.plan.spec, task_type=entry.plan.task.type)
        made = entry.plan.entry(at)
        placement = await self._place(made, log)
        if isinstance(placement, Placed):
            now = face.broker.now()
            entry.previous_at = now
            event = EnqueueEvent(task_id=made.message.id, enqueued_at=now)
            try:
                await face.broker.record_event(entry.plan.id, event)
            except LinkClosedError:
                raise
            except RedisError as error:
                log.warning("cannot write the history", error=describe_error(error))
        elif isinstance(placement, Ticked):
            entry.previous_at = at
        else:
            log.info("a scheduled task was not enqueued", placement=repr(placement))

    async def _place(self, made: Enqueue, log: Logger) -> Placement:
        """Enqueue, again and again until Redis takes it; the tick keeps it from being twice."""
        pause = _FIRST_PAUSE
        while True:
            try:
                (placement,) = await self.face.broker.enqueue([made])
            except LinkClosedError:
                raise
            except RedisError as error:
                log.warning("cannot enqueue a scheduled task", error=describe_error(error))
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return placement

    async def _show(self) -> None:
        """Tell other processes what the entries are, now and whenever they change."""
        face = self.face
        ttl = max(1, round(2 * face.heartbeat_interval))
        while True:
            self.changed = trio.Event()
            try:
                await face.broker.sync_clock()
                shown = [entry.shown() for entry in face.entries.values()]
                await face.broker.write_entries(face.id, shown, ttl=ttl)
            except LinkClosedError:
                raise
            except RedisError as error:
                face.log.warning("cannot show the entries", error=describe_error(error))
            with trio.move_on_after(face.heartbeat_interval):
                await self.changed.wait()

    async def _follow(self, provider: Provider) -> None:
        """Ask the application for its entries, for ever."""
        while True:
            await trio.sleep(self.face.sync_interval)
            try:
                await self._sync(provider, is_first=False)
            except Exception as error:  # a boundary of user code
                self.face.log.warning(
                    "the entries could not be asked for: they stay as they are",
                    error=describe_error(error),
                    exc_info=error,
                )

    async def _sync(self, provider: Provider, *, is_first: bool) -> None:
        face = self.face
        wanted: dict[str, Plan] = {}
        for periodic in await provider():
            try:
                made = plan(periodic, face.zone)
            except TerzettoError as error:
                if is_first:
                    raise
                face.log.warning(
                    "an entry is wrong and left out",
                    spec=repr(periodic),
                    error=describe_error(error),
                )
                continue
            wanted[made.id] = made
        for entry in list(face.entries.values()):
            if entry.is_provided and entry.plan.id not in wanted:
                face.unregister(entry.plan.id)
        for made in wanted.values():
            if made.id not in face.entries:
                face.add(made, is_provided=True)


def open_scheduler(
    redis: Redis | Broker,
    *,
    entries: Iterable[Periodic] = (),
    provider: Provider | None = None,
    zone: tzinfo = UTC,
    sync_interval: float = 180.0,
    heartbeat_interval: float = 10.0,
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
    logger: Logger | None,
) -> Scheduler:
    for option, value in (("sync", sync_interval), ("heartbeat", heartbeat_interval)):
        if not 0 < value <= _MAX_SECONDS:
            raise InvalidOptionError(f"{option}_interval is {value!r}: give seconds, more than 0")
    log = default_logger("tasks") if logger is None else logger
    broker = RedisBroker(redis, logger=log) if isinstance(redis, Redis) else redis
    scheduler = Scheduler(
        broker,
        zone=zone,
        provider=provider,
        sync_interval=sync_interval,
        heartbeat_interval=heartbeat_interval,
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


def _host() -> str:
    try:
        return socket.gethostname() or "unknown-host"
    except OSError:
        return "unknown-host"
