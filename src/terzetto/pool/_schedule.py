"""Schedules: a plan that says, again and again, which jobs should run.

A schedule is a ticker and a map of the keys that it has started. Its plan is
called at once by every node that schedules it, and then by one node a tick. A
reset of the map ends it for all. Run as an actor of its own by `open_schedule`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from terzetto.actor import Actor, Context
from terzetto.errors import ClosedError, TerzettoError
from terzetto.pool._errors import JobExistsError, ScheduleStoppedError
from terzetto.pool._ticker import Ticker
from terzetto.redis import LinkLostError
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
            except (TerzettoError, LinkLostError) as error:
                self.node.log.warning("a planned job was not stopped", key=key, error=str(error))

    async def _start(self, key: str, payload: bytes, kept: Map) -> None:
        try:
            await self.node.dispatch(key, payload)
            await kept.set(key, datetime.now(UTC).isoformat())
        except JobExistsError:
            return
        except (TerzettoError, LinkLostError) as error:
            self.node.log.warning("a planned job did not start", key=key, error=str(error))


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
        plan = await schedule.plan()
        if plan.stop_schedule:
            raise ScheduleStoppedError(
                f"the plan of schedule {schedule.name!r} stops it before it has begun"
            )
        ticker = await self.make_ticker(schedule.name, schedule.interval)
        ctx.start_soon(self._follow_resets, kept, ticker)
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
        """Call the plan, again if it raises; None if it does until the next tick."""
        log = self.schedule.node.log
        for _ in range(_TRIES):
            try:
                return await self.schedule.plan()
            except Exception as error:  # noqa: BLE001 - user code; it is called again
                log.warning("a plan raised", schedule=self.schedule.name, error=repr(error))
            await trio.sleep(min(self.schedule.interval / _TRIES, 1.0))
        return None

    async def _follow_resets(self, kept: Map, ticker: Ticker) -> None:
        async with kept.subscribe() as changes:
            async for change in changes:
                if change is Change.RESET:
                    try:
                        await ticker.stop()
                    except ClosedError:
                        return
