"""A scheduler: enqueues tasks by cron specs and intervals, once a tick, however many there are.

Theory of operation. Each entry has a loop: it sleeps until its next tick, by the
clock of the Redis server, and enqueues the task together with the tick; the script
that does so refuses a tick that this schedule has had, or an earlier one. So any
number of schedulers may have the same entries: the first to come enqueues, and a
scheduler that slept or was cut off does no harm when it is back. No leader is
elected and none can be missing.

A tick that falls into an outage of Redis is enqueued when Redis is back; those that
are due meanwhile are left out. Ticks at which no scheduler ran are not made up for.

The user's hooks are awaited around it in the entry's loop, so that a hook that is slow
holds up its own entry only. They have their time, and their errors are logged.

The face survives restarts, and with it each entry's last tick. With a provider, a
further loop asks the application what the entries are, and takes up the difference.
"""

import os
import uuid
from collections.abc import Awaitable, Callable, Iterable
from datetime import tzinfo
from functools import partial
from typing import Final, TypeAlias, Unpack

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._logging import Logger
from terzetto._shared._pause import Pause
from terzetto._shared._texts import describe_error, printable
from terzetto.actor import Actor, Context, Ref, Stop
from terzetto.errors import ClosedError, InvalidOptionError, TerzettoError
from terzetto.redis import LinkClosedError
from terzetto.tasks._broker import Broker
from terzetto.tasks._broker_values import Duplicate, Enqueue, Placed, Placement, Ticked
from terzetto.tasks._errors import DuplicateTaskError, TaskIdConflictError
from terzetto.tasks._host import host_name
from terzetto.tasks._message import EnqueueEvent, SchedulerEntry, TaskInfo, TaskState
from terzetto.tasks._periodic import Periodic, Plan, plan
from terzetto.tasks._task import Task, TaskOptions
from terzetto.tasks._user_code import raise_foreign

Provider: TypeAlias = Callable[[], Awaitable[Iterable[Periodic]]]
"""Says what the entries of a scheduler are at this moment."""

BeforeEnqueue: TypeAlias = Callable[[Periodic], Awaitable[object]]
"""Awaited at each tick of an entry, before this scheduler tries to enqueue it."""

Enqueued: TypeAlias = TaskInfo | DuplicateTaskError | TaskIdConflictError
"""What became of a tick: the task as it was enqueued, or why there is none."""

AfterEnqueue: TypeAlias = Callable[[Periodic, Enqueued], Awaitable[object]]
"""Awaited after a tick by the scheduler that enqueued it, or that was refused."""

_HOOK_PATIENCE: Final = 10.0  # seconds that a hook of the user's may take
_LONGEST_NAP: Final = 30.0  # seconds after which the clock is looked at again
_FAREWELL: Final = 2.0


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
        before_enqueue: BeforeEnqueue | None,
        after_enqueue: AfterEnqueue | None,
        log: Logger,
    ) -> None:
        self.broker = broker
        self.zone = zone
        self.provider = provider
        self.sync_interval = sync_interval
        self.heartbeat_interval = heartbeat_interval
        self.before_enqueue = before_enqueue
        self.after_enqueue = after_enqueue
        self.id = f"{host_name()}:{os.getpid()}:{uuid.uuid4()}"
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
        """Wait until the scheduler is closed; it works without this too.

        Cancelling stops the waiting, not the scheduler.
        """
        await self._ended.wait()

    async def close(self) -> None:
        """End; what other processes see of it goes, the history stays.

        Cancelling stops the waiting, not the closing.
        """
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
        periodic = entry.plan.periodic
        if face.before_enqueue is not None:
            await _call(partial(face.before_enqueue, periodic), log)
        made = entry.plan.entry(at)
        placement = await self._place(made, log)
        if isinstance(placement, Ticked):
            entry.previous_at = at
            return
        now = face.broker.now()
        if isinstance(placement, Placed):
            entry.previous_at = now
            await self._record(entry, EnqueueEvent(task_id=made.message.id, enqueued_at=now), log)
        else:
            log.info("a scheduled task was not enqueued", placement=repr(placement))
        if face.after_enqueue is not None:
            await _call(partial(face.after_enqueue, periodic, _outcome(made, placement, now)), log)

    async def _record(self, entry: Entry, event: EnqueueEvent, log: Logger) -> None:
        """Write to the entry's history."""
        try:
            await self.face.broker.record_event(entry.plan.id, event)
        except LinkClosedError:
            raise
        except RedisError as error:
            log.warning("cannot write the history", error=describe_error(error))

    async def _place(self, made: Enqueue, log: Logger) -> Placement:
        """Enqueue, again and again until Redis takes it; the tick keeps it from being twice."""
        pause = Pause()
        while True:
            try:
                (placement,) = await self.face.broker.enqueue([made])
            except LinkClosedError:
                raise
            except RedisError as error:
                log.warning("cannot enqueue a scheduled task", error=describe_error(error))
                await trio.sleep(pause.failed())
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
            except BaseException as error:  # a boundary of user code
                raise_foreign(error)
                self.face.log.warning(
                    "the entries could not be asked for: they stay as they are",
                    error=describe_error(error),
                    exc_info=printable(error),
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


def _outcome(made: Enqueue, placement: Placement, now: float) -> Enqueued:
    """Return what the user's hook is told of a tick that was this scheduler's."""
    message = made.message
    match placement:
        case Placed(state):
            is_certain = state is not TaskState.AGGREGATING
            return TaskInfo(
                message=message,
                state=state,
                next_process_at=made.due_at(now) if is_certain else None,
            )
        case Duplicate(holder):
            return DuplicateTaskError(message.id, holder)
        case _:
            return TaskIdConflictError(message.id, message.queue)


async def _call(hook: Callable[[], Awaitable[object]], log: Logger) -> None:
    """Await a hook of the user's, for a while; whatever comes of it, the scheduler goes on."""
    try:
        with trio.move_on_after(_HOOK_PATIENCE) as scope:
            await hook()
    except BaseException as error:  # a boundary of user code
        raise_foreign(error)
        log.warning(
            "a hook of the scheduler failed",
            error=describe_error(error),
            exc_info=printable(error),
        )
        return
    if scope.cancelled_caught:
        log.warning("a hook of the scheduler took too long", seconds=_HOOK_PATIENCE)
