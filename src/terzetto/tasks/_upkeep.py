"""What a server does by the clock: leases, signs of life, forwarding, recovery, cleaning up.

Each part is an actor with one loop, so one that fails is restarted alone. All are
safe in any number of servers at once: each step is atomic in Redis, and of several
that see the same work only one does it.

Theory of operation of recovery. A task whose lease has run out belongs to a server
that died, or that cannot reach Redis. When it was Redis that was away, everybody's
leases have run out; so a server takes over nothing until it has been in touch with
Redis, without a break, for half as long as a lease lasts: the others need that time
to reconnect and to renew theirs.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._pause import Pause
from terzetto._shared._texts import describe_error, printable
from terzetto.actor import Actor, ActorStoppedError, Context, Stop
from terzetto.redis import LinkClosedError
from terzetto.tasks._broker import BATCH
from terzetto.tasks._broker_values import CancelRequest, Lease
from terzetto.tasks._core import Core
from terzetto.tasks._limiter import Limiter
from terzetto.tasks._retry import Fate, LeaseLostError, TaskCancelledError
from terzetto.tasks._user_code import raise_foreign

_DEAF: Final = 0.1  # seconds until cancels are listened for again
_FAREWELL: Final = 2.0  # seconds to delete what a server has said of itself
_GRACE: Final = 1.0  # seconds after a lease's end before it is taken: an `extend` may be on its way
_STUBBORN: Final = 5.0  # seconds after which a function that ignores its cancellation is named
_SOONEST: Final = 0.01
_GATHERED: Final = 0.05  # seconds between two rounds that move tasks


async def repeat(
    core: Core,
    work: Callable[[], Awaitable[float]],
    wait: Callable[[float], Awaitable[None]] = trio.sleep,
) -> NoReturn:
    """Do some work again and again; it says in how many seconds. Refusals are logged.

    Work that goes on until it is refused has worked if that took longer than any pause.
    """
    pause = Pause()
    while True:
        began = trio.current_time()
        try:
            seconds = await work()
            pause.worked()
        except LinkClosedError:
            raise
        except RedisError as error:
            core.log.warning(
                "Redis refuses the upkeep of queues",
                part=getattr(work, "__name__", ""),
                error=describe_error(error),
            )
            if trio.current_time() - began > pause.longest:
                pause.worked()
            seconds = pause.failed()
        await wait(seconds)


@attrs.define(eq=False, kw_only=True)
class LoopActor(Actor):
    """Repeats one work."""

    core: Core
    work: Callable[[], Awaitable[float]]
    wait: Callable[[float], Awaitable[None]] = trio.sleep

    async def started(self, ctx: Context["LoopActor"]) -> None:
        """Begin."""
        ctx.start_soon(repeat, self.core, self.work, self.wait)


@attrs.define(eq=False, kw_only=True)
class PresenceActor(Actor):
    """Tells other processes that the server is there, and what it is running."""

    core: Core

    async def started(self, ctx: Context["PresenceActor"]) -> None:
        """Begin."""
        ctx.start_soon(repeat, self.core, self.show, self.core.changed.wait)

    async def stopping(self, reason: Stop) -> None:
        """Delete it, if the server does not come back."""
        if reason in {Stop.NORMAL, Stop.CLOSED, Stop.SHUTDOWN}:
            with trio.move_on_after(_FAREWELL):  # it expires by itself
                await self.core.broker.clear_server(self.core.server_info())

    async def show(self) -> float:
        """Write it for twice as long as it takes until the next time."""
        core, interval = self.core, self.core.options.heartbeat_interval
        await core.broker.write_server(
            core.server_info(), core.workers(), ttl=max(1, math.ceil(2 * interval))
        )
        return interval


@attrs.define(eq=False, kw_only=True)
class Upkeep:
    """The work of the loops of one life of a server."""

    core: Core
    limiter: Limiter
    _in_touch_since: float = -math.inf
    _last_touch: float = -math.inf
    _named: set[str] = attrs.field(factory=set[str])

    async def renew_leases(self) -> float:
        """Put off the end of all leases; end what is somebody else's by now."""
        core, options = self.core, self.core.options
        leases = [*core.held.leases, *(attempt.lease for attempt in core.running.values())]
        if leases:
            _, lost = await core.broker.extend(leases, lease_for=options.lease)
            for lease in leases:
                if lease.token in lost:
                    core.held.drop(lease)
                    if lease.token in core.running:
                        core.running[lease.token].lose()
            if options.limits:
                await self.limiter.renew()
        self._name_stubborn()
        return options.heartbeat_interval

    def _name_stubborn(self) -> None:
        now, core = trio.current_time(), self.core
        stubborn = {
            token
            for token, attempt in core.running.items()
            if attempt.is_running and now - attempt.ended_at > _STUBBORN
        }
        for token in stubborn - self._named:
            message = core.running[token].lease.message
            core.log.warning(
                "a task function ignores that it was cancelled: it keeps its slot",
                task_id=message.id,
                task_type=message.type,
            )
        self._named = stubborn

    async def forward(self) -> float:
        """Move what is due; return the time until the next is, at most the interval."""
        core = self.core
        core.forward_at = math.inf
        longest, soonest = core.options.forward_interval, _SOONEST
        for queue in core.options.queues:
            while True:
                forwarded = await core.broker.forward(queue)
                if forwarded.moved:
                    soonest = _GATHERED
                if forwarded.moved < BATCH:
                    break
            if forwarded.next_at is not None:
                longest = min(longest, forwarded.next_at - core.broker.now())
        seconds = max(longest, soonest)
        core.forward_at = core.broker.now() + seconds
        return seconds

    async def recover(self) -> float:
        """Take over the tasks of servers that died."""
        core, options = self.core, self.core.options
        interval = options.recover_interval
        now, longest = trio.current_time(), interval + 2 * _GRACE
        may_take = now - self._last_touch <= longest and now - self._in_touch_since >= (
            options.lease / 2
        )
        for queue in options.queues if may_take else ():
            for lease in await self._take_expired(queue):
                await self._recover_one(lease)
            await core.broker.reclaim_batches(queue)
        if not may_take:
            await core.broker.sync_clock()
        now = trio.current_time()
        if now - self._last_touch > longest:
            self._in_touch_since = now  # there was an outage, or we were paused
        self._last_touch = now
        return interval

    async def _take_expired(self, queue: str) -> list[Lease]:
        # A request that Redis does not answer is withdrawn: it must not be carried out
        # before the renewals of others when Redis is back.
        with trio.move_on_after(_GRACE):
            return await self.core.broker.take_expired(
                queue, grace=_GRACE, lease_for=self.core.options.lease
            )
        return []

    async def _recover_one(self, lease: Lease) -> None:
        core = self.core
        core.counts.recovered += 1
        verdict = core.options.retry.judge(lease.message, LeaseLostError())
        core.log.warning(
            "a task's worker died",
            task_id=lease.message.id,
            task_type=lease.message.type,
            queue=lease.queue,
            fate=verdict.fate.value,
        )
        if verdict.fate is Fate.ARCHIVE:
            await core.broker.archive(lease, error=verdict.text)
            return
        # Its lease was delay enough.
        await core.broker.retry(
            lease, at=core.broker.now(), error=verdict.text, is_failure=verdict.is_failure
        )
        core.due.ring()

    async def clean_up(self) -> float:
        """Delete what was kept for long enough."""
        core = self.core
        for queue in core.options.queues:
            while await core.broker.delete_expired(queue) >= BATCH:
                pass
        return core.options.janitor_interval

    async def check_health(self) -> float:
        """Tell the user's hook whether Redis answers."""
        core, options = self.core, self.core.options
        error: BaseException | None = None
        try:
            with trio.fail_after(options.health_interval):
                await core.broker.sync_clock()
        except (RedisError, trio.TooSlowError) as failure:
            error = failure
        assert options.health_check is not None  # noqa: S101 - the loop is started only then
        try:
            with trio.move_on_after(options.health_interval):
                await options.health_check(error)
        except BaseException as own:  # a boundary of user code
            raise_foreign(own)
            core.log.warning(
                "the health check failed", error=describe_error(own), exc_info=printable(own)
            )
        return options.health_interval

    async def hear_cancels(self) -> float:
        """End attempts that somebody wants to be cancelled; returns never, but by an error."""
        core = self.core
        try:
            async with core.broker.open_cancels() as requests:
                core.listens.set()
                async for request in requests:
                    self._cancel(request)
        finally:
            core.listens.set()  # one that is refused goes without
        return _DEAF

    def _cancel(self, request: CancelRequest) -> None:
        core = self.core
        for attempt in list(core.running.values()):
            if request.is_for(attempt.lease.message):
                attempt.end(TaskCancelledError(), drop=request.drop)
        for lease in list(core.held.leases):
            if request.is_for(lease.message) and core.crew is not None:
                with suppress(ActorStoppedError):  # then it goes back
                    core.crew.cancel(lease, drop=request.drop)
                    core.held.drop(lease)
