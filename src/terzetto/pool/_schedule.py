"""Schedules: a plan that says, again and again, which jobs should run.

A schedule is a ticker and a map of the keys that it has started. Its plan is
called at once by every node that schedules it, and then by one node a tick. A
reset of the map ends it for all. Run as an actor of its own by `open_schedule`.

What a plan does wrong ends nothing: it is logged, and the plan is called again.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._texts import describe_error
from terzetto.actor import Actor, Context
from terzetto.errors import ClosedError, TerzettoError
from terzetto.pool._errors import JobExistsError, ScheduleStoppedError
from terzetto.pool._ticker import Ticker
from terzetto.rmap import Change, Map
from terzetto.rmap import child as map_child

if TYPE_CHECKING:
    from terzetto.pool._node import Node

_TRIES: Final = 3


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


def _check_plan(plan: object) -> JobPlan:
    """Return what a plan gave if it can be carried out.

    Its keys and payloads are looked at one by one, later: a bad one holds up no other.

    Raises:
        TypeError: it is no `JobPlan`, or has no mapping and sequence in it.
    """
    if not isinstance(plan, JobPlan):
        raise TypeError(f"a plan returns a JobPlan, not {type(plan).__name__}")
    if not isinstance(plan.start, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"start maps keys to payloads: it cannot be a {type(plan.start).__name__}")
    if isinstance(plan.stop, str | bytes) or not isinstance(plan.stop, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"stop is a sequence of keys: it cannot be a {type(plan.stop).__name__}")
    return plan


@attrs.define(eq=False)
class Schedule:
    """A schedule that this node takes part in; made by `Node.open_schedule`."""

    name: str
    node: "Node"
    interval: float
    plan: Plan
    is_stopped: bool = False
    _kept: Map | None = None

    @property
    def keys(self) -> list[str]:
        """The keys of the jobs that the schedule has started, in whatever node, sorted."""
        return [] if self._kept is None else sorted(self._kept)

    async def stop(self) -> None:
        """End the schedule, everywhere; its jobs go on."""
        if self._kept is not None:
            await self._kept.reset()

    def begin_life(self, kept: Map) -> None:
        """Note the map of this life."""
        self._kept = kept

    async def carry_out(self, plan: JobPlan, kept: Map) -> None:
        """Start and stop what a plan wants; one that fails holds up no other."""
        async with trio.open_nursery() as nursery:
            for key, payload in plan.start.items():
                nursery.start_soon(self._start, key, payload, kept)
        stops = sorted(set(kept) - set(plan.start)) if plan.stop_others else plan.stop
        for key in stops:
            try:
                await self.node.stop_job(key)
                await kept.delete(key)
            except (TerzettoError, RedisError, TypeError) as error:
                self._warn("a planned job was not stopped", key, error)

    async def _start(self, key: str, payload: bytes, kept: Map) -> None:
        try:
            await self.node.dispatch(key, payload)
            await kept.set(key, datetime.now(UTC).isoformat())
        except JobExistsError:
            return
        except (TerzettoError, RedisError, TypeError) as error:
            # A TypeError says that the key is no str, or the payload no bytes.
            self._warn("a planned job did not start", key, error)

    def _warn(self, what: str, key: str, error: Exception) -> None:
        text = describe_error(error)
        self.node.log.warning(what, schedule=self.name, key=key, error=text)


@attrs.define(eq=False)
class ScheduleActor(Actor):
    """One life of a schedule in a node."""

    schedule: Schedule
    map_name: str
    make_ticker: Callable[[str, float], Awaitable[Ticker]]
    _ctx: Context["ScheduleActor"] = attrs.field(init=False)

    async def started(self, ctx: Context["ScheduleActor"]) -> None:
        """Call the plan a first time; join the ticker."""
        self._ctx = ctx
        schedule = self.schedule
        kept = await ctx.spawn(map_child(self.map_name, schedule.node.redis))
        schedule.begin_life(kept)
        plan = await self._ask_plan()
        if plan is not None and plan.stop_schedule:
            raise ScheduleStoppedError(
                f"the plan of schedule {schedule.name!r} stops it before it has begun"
            )
        ticker = await self.make_ticker(schedule.name, schedule.interval)
        ctx.start_soon(self._follow_resets, kept, ticker)
        if plan is not None:
            await schedule.carry_out(plan, kept)
        ctx.start_soon(self._run, kept, ticker)

    async def _run(self, kept: Map, ticker: Ticker) -> None:
        async for _ in ticker:
            plan = await self._ask_plan()
            if plan is None:
                continue
            await self.schedule.carry_out(plan, kept)
            if plan.stop_schedule:
                await kept.reset()
        self.schedule.is_stopped = ticker.is_stopped
        self._ctx.stop()

    async def _ask_plan(self) -> JobPlan | None:
        """Call the plan, again if it fails; None if it does to the last: the next tick is next."""
        schedule = self.schedule
        for attempt in range(_TRIES):
            if attempt:
                await trio.sleep(min(schedule.interval / _TRIES, 1.0))
            try:
                return _check_plan(await schedule.plan())
            except Exception as error:  # user code; it is called again
                schedule.node.log.warning(
                    "a plan failed",
                    schedule=schedule.name,
                    error=describe_error(error),
                    exc_info=error,
                )
        return None

    async def _follow_resets(self, kept: Map, ticker: Ticker) -> None:
        async with kept.subscribe() as changes:
            async for change in changes:
                if change is Change.RESET:
                    try:
                        await ticker.stop()
                    except ClosedError:
                        return
