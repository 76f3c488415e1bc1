"""Schedules: a plan that says, again and again, which jobs should run.

A schedule is a ticker and a map of the keys that it has started. Its plan is
called at once by every node that schedules it, and then by one node a tick. A
reset of the map ends it for all. Run as an actor of its own by `open_schedule`.

What a plan does wrong ends nothing: it is logged, and the plan is called again:
later each time, until it gives a plan or the next tick is due, which may be
another node's.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._logging import Logger
from terzetto._shared._pause import Pause
from terzetto._shared._texts import describe_error
from terzetto.actor import Actor, Context
from terzetto.errors import ClosedError, TerzettoError
from terzetto.pool._errors import (
    DispatchUnknownError,
    JobExistsError,
    JobStartError,
    PoolFullError,
    ScheduleStoppedError,
)
from terzetto.pool._insist import insist
from terzetto.pool._ticker import Ticker
from terzetto.pool._ticks import Cadence
from terzetto.redis import Redis
from terzetto.rmap import Change, Map
from terzetto.rmap import child as map_child

if TYPE_CHECKING:
    from terzetto.pool._node import Node

_AT_A_TIME: Final = 100  # jobs of a plan that are started at the same time
_WHILE_FULL: Final = 10.0  # seconds that a plan waits for room in the pool, at most
_FIRST_TRIES: Final = 3
_FIRST_PAUSE: Final = 0.1  # seconds between the first two calls of a plan that fails
_LONGEST_PAUSE: Final = 60.0


@attrs.frozen(kw_only=True)
class JobPlan:
    """What a plan wants.

    Attributes:
        start: the jobs that should run, key to payload. Those that run already
            are left alone.
        stop: the keys of jobs to stop; not looked at with `stop_others`.
        stop_others: stop every job that this schedule started and `start` does
            not name.
        stop_schedule: end the schedule, everywhere; its jobs go on.
    """

    start: Mapping[str, bytes] = attrs.field(factory=dict[str, bytes])
    stop: Sequence[str] = ()
    stop_others: bool = False
    stop_schedule: bool = False


Plan: TypeAlias = Callable[[], Awaitable[JobPlan]]
"""Says which jobs of a schedule should run at this moment."""


def _check_plan(plan: object) -> JobPlan:
    """Return what a plan gave if it can be carried out, with a start and a stop of our own.

    Its keys and payloads are looked at one by one, later: a bad one holds up no other.

    Raises:
        TypeError: it is no `JobPlan`, or has no mapping and sequence in it.
        Exception: whatever its mapping or sequence raises when it is read.
    """
    if not isinstance(plan, JobPlan):
        raise TypeError(f"a plan returns a JobPlan, not {type(plan).__name__}")
    if not isinstance(plan.start, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"start maps keys to payloads: it cannot be a {type(plan.start).__name__}")
    if isinstance(plan.stop, str | bytes) or not isinstance(plan.stop, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"stop is a sequence of keys: it cannot be a {type(plan.stop).__name__}")
    return attrs.evolve(plan, start=dict(plan.start), stop=list(plan.stop))


@attrs.define(eq=False)
class ScheduleState:
    """What a schedule's actor, one life after the other, tells those who hold its face."""

    kept: Map | None = None
    is_stopped: bool = False


@attrs.define(eq=False, repr=False)
class Schedule:
    """A schedule that this node takes part in; made by `Node.open_schedule`.

    Attributes:
        name: what it is called in the pool.
    """

    name: str
    _state: ScheduleState

    def __repr__(self) -> str:
        state = "stopped" if self.is_stopped else f"{len(self.keys)} jobs"
        return f"<Schedule {self.name!r}, {state}>"

    @property
    def is_stopped(self) -> bool:
        """Whether the schedule was ended for the whole pool."""
        return self._state.is_stopped

    @property
    def keys(self) -> list[str]:
        """The keys of the jobs that the schedule has started, in whatever node, sorted."""
        return sorted(self._state.kept or ())

    async def stop(self) -> None:
        """End the schedule, everywhere; its jobs go on.

        Cancelling leaves it open whether it was ended; it can be done again.
        """
        if self._state.kept is not None:
            await self._state.kept.reset()


@attrs.define(eq=False, kw_only=True)
class ScheduleActor(Actor):
    """One life of a schedule in a node."""

    node: "Node"
    log: Logger
    name: str
    redis: Redis
    map_name: str
    plan: Plan
    cadence: Cadence
    open_ticker: Callable[[], Awaitable[Ticker]]
    read_epoch: Callable[[], Awaitable[str]]
    state: ScheduleState
    _ctx: Context["ScheduleActor"] = attrs.field(init=False)
    _kept: Map = attrs.field(init=False)
    _ticker: Ticker | None = None
    _unwritten: set[str] = attrs.field(factory=set[str])
    """The keys of jobs that this node has started and that do not stand in the map yet."""

    async def started(self, ctx: Context["ScheduleActor"]) -> None:
        """Call the plan a first time; join the ticker."""
        self._ctx = ctx
        self._kept = await ctx.spawn(map_child(self.map_name, self.redis))
        self.state.kept = self._kept
        plan = await self._ask_plan(most=_FIRST_TRIES)
        if plan is not None and plan.stop_schedule:
            raise ScheduleStoppedError(
                f"the plan of schedule {self.name!r} stops it before it has begun"
            )
        self._ticker = ticker = await self.open_ticker()
        ctx.start_soon(self._follow_resets, ticker)
        if plan is not None:
            await self._carry_out(plan)
        ctx.start_soon(partial(self._run, ticker, is_late=plan is None))

    async def _run(self, ticker: Ticker, *, is_late: bool) -> None:
        if is_late:
            await self._plan_once()
        async for _ in ticker:
            await self._plan_once()
        if ticker.is_stopped:
            self.state.is_stopped = True
        self._ctx.stop()

    async def _plan_once(self) -> None:
        plan = await self._ask_plan()
        if plan is None:
            return
        await self._carry_out(plan)
        if plan.stop_schedule:
            await insist(self._kept.reset)

    async def _ask_plan(self, *, most: int | None = None) -> JobPlan | None:
        """Call the plan, again if it fails, `most` times or until the next tick is due."""
        patience = self.cadence.seconds_from(time.time_ns())
        give_up_at = trio.current_time() + patience
        first = min(patience / _FIRST_TRIES, _FIRST_PAUSE)
        pause = Pause(first=first, longest=_LONGEST_PAUSE)
        for tries in count(1):
            try:
                return _check_plan(await self.plan())
            except Exception as error:  # user code; it is called again
                self.log.warning(
                    "a plan failed",
                    schedule=self.name,
                    error=describe_error(error),
                    exc_info=error,
                )
            if tries == most or (tries >= _FIRST_TRIES and trio.current_time() >= give_up_at):
                break
            await trio.sleep(pause.failed())
            if self._ticker is not None and self._ticker.is_stopped:
                break
        return None

    async def _carry_out(self, plan: JobPlan) -> None:
        """Start and stop what a plan wants; one that fails holds up no other."""
        # A plan may want more jobs than may wait in the pool.
        limit = trio.CapacityLimiter(_AT_A_TIME)
        patience = min(self.cadence.seconds_from(time.time_ns()), _WHILE_FULL)
        give_up_at = trio.current_time() + patience
        async with trio.open_nursery() as nursery:
            for key, payload in plan.start.items():
                nursery.start_soon(self._start, key, payload, limit, give_up_at)
        stops = sorted(set(self._kept) - set(plan.start)) if plan.stop_others else plan.stop
        for key in stops:
            try:
                await self.node.stop_job(key)
                await self._kept.delete(key)
            except (TerzettoError, RedisError, TypeError) as error:
                self._warn("a planned job was not stopped", key, error)

    async def _start(
        self, key: str, payload: bytes, limit: trio.CapacityLimiter, give_up_at: float
    ) -> None:
        try:
            async with limit:
                await self._start_or_know(key, payload, give_up_at)
            if key in self._unwritten:
                await self._kept.set(key, datetime.now(UTC).isoformat())
                self._unwritten.discard(key)
        except (TerzettoError, RedisError, TypeError) as error:
            # A TypeError says that the key is no str, or the payload no bytes.
            self._warn("a planned job did not start", key, error)

    async def _start_or_know(self, key: str, payload: bytes, give_up_at: float) -> None:
        """Dispatch a job; note the key if the job runs, or may yet run, because of that."""
        try:
            await self._dispatch(key, payload, give_up_at)
        except JobExistsError:
            return  # somebody else's, or noted before
        except JobStartError:
            if key in self._kept:
                await self._kept.delete(key)  # it was not known before whether it would start
            raise
        except DispatchUnknownError as error:
            self._warn("it is not known yet whether a planned job has started", key, error)
        self._unwritten.add(key)

    async def _dispatch(self, key: str, payload: bytes, give_up_at: float) -> None:
        """Dispatch a job, again while the pool is full, until it is time to give up."""
        while True:
            try:
                return await self.node.dispatch(key, payload)
            except PoolFullError:
                if trio.current_time() >= give_up_at:
                    raise
            await trio.sleep(_FIRST_PAUSE)

    def _warn(self, what: str, key: str, error: Exception) -> None:
        self.log.warning(what, schedule=self.name, key=key, error=describe_error(error))

    async def _follow_resets(self, ticker: Ticker) -> None:
        async with self._kept.subscribe() as changes:
            with suppress(ClosedError):
                epoch, before = await insist(self.read_epoch), self._kept.snapshot()
                async for change in changes:
                    if change is Change.RESET:
                        known, epoch = epoch, await insist(self.read_epoch)
                        if epoch == known or self.node.is_shut_down:
                            await insist(ticker.stop)
                        else:  # nobody reset the map: Redis has lost it
                            await self._keep_again(before)
                    before = self._kept.snapshot()

    async def _keep_again(self, before: Mapping[str, str]) -> None:
        """Write again which jobs the schedule had started: they go on when Redis loses its data."""
        for key, since in before.items():
            if key not in self._kept:
                await insist(self._kept.set_if_absent, key, since)
