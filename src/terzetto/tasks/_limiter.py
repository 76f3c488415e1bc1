"""Asks the limits of a server whether an attempt may begin now.

Theory of operation. Rates are asked first, then places, in the order in which the
limits were given; a place that was taken before another limit said no is given
back. A task that may not run goes back for a while. For a rate, those that this
server sends back are spaced out, each one turn after the other, so that a long
queue behind a slow rate does not come back as a whole every second.

What Redis refuses to count (out of memory, a key that is not permitted) goes back
likewise. Places that it refuses to free are free when they expire.
"""

from typing import Final

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._logging import Logger
from terzetto._shared._texts import describe_error
from terzetto.redis import LinkClosedError
from terzetto.tasks._attempt import Attempt
from terzetto.tasks._core import Core
from terzetto.tasks._limits import ConcurrencyLimit, RateLimit, later
from terzetto.tasks._message import TaskMessage
from terzetto.tasks._user_code import raise_foreign

_REFUSED: Final = 2.0  # seconds until Redis is asked again about a task that it refused to count


@attrs.define(eq=False, kw_only=True)
class Limiter:
    """The limits of one life of a server."""

    core: Core
    _turns: dict[str, float] = attrs.field(factory=dict[str, float])
    """For each scope of a rate, when the last task that was sent back comes again."""

    async def admit(self, attempt: Attempt) -> float:
        """Return 0.0 if the attempt may begin, else in how many seconds to try again."""
        try:
            return await self._ask(attempt)
        except LinkClosedError:
            raise
        except RedisError as error:
            self._log(attempt).warning(
                "Redis refuses to count a task for its limits: it waits",
                error=describe_error(error),
            )
            return later(_REFUSED)

    async def _ask(self, attempt: Attempt) -> float:
        task = attempt.lease.message
        for limit in self.core.options.limits:
            if isinstance(limit, RateLimit):
                scope = self._scope(limit, task)
                if scope is not None and (wait := await self._turn(limit, scope)) > 0:
                    return wait
        for limit in self.core.options.limits:
            if isinstance(limit, ConcurrencyLimit):
                scope = self._scope(limit, task)
                if scope is not None and not await self._place(limit, scope, attempt):
                    await self.leave(attempt)
                    return later(0.0)
        return 0.0

    async def leave(self, attempt: Attempt) -> None:
        """Give up the places of an attempt that is over; those of a lost one too."""
        places, attempt.places = attempt.places, ()
        for scope in places:
            try:
                await self.core.broker.release(scope, attempt.lease.token)
            except LinkClosedError:
                raise
            except RedisError as error:
                self._log(attempt).warning(
                    "Redis refuses to free the place of a task: it expires",
                    scope=scope,
                    error=describe_error(error),
                )

    async def renew(self) -> None:
        """Keep the places of everything that runs for another while."""
        core = self.core
        for attempt in list(core.running.values()):
            for limit in core.options.limits:
                if isinstance(limit, ConcurrencyLimit) and attempt.places:
                    scope = self._scope(limit, attempt.lease.message)
                    if scope in attempt.places:
                        await self._take(limit, scope, attempt)

    def _log(self, attempt: Attempt) -> Logger:
        return self.core.log.bind(task_id=attempt.lease.message.id)

    def _scope(self, limit: RateLimit | ConcurrencyLimit, task: TaskMessage) -> str | None:
        try:
            return limit.scope(task)
        except BaseException as error:  # noqa: BLE001 - a boundary of user code: the key function
            raise_foreign(error)
            self.core.log.warning(
                "the key of a limit failed: the task is not limited by it",
                limit=limit.name,
                task_id=task.id,
                error=describe_error(error),
            )
            return None

    async def _turn(self, limit: RateLimit, scope: str) -> float:
        wait = await self.core.broker.take_rate(
            scope, per_second=limit.per_second, burst=limit.at_once
        )
        if wait <= 0:
            return 0.0
        now = trio.current_time()
        turn = max(now + wait, self._turns.get(scope, 0.0) + 1 / limit.per_second)
        self._turns = {other: at for other, at in self._turns.items() if at > now}
        self._turns[scope] = turn
        return later(turn - now)

    async def _place(self, limit: ConcurrencyLimit, scope: str, attempt: Attempt) -> bool:
        if not await self._take(limit, scope, attempt):
            return False
        attempt.places = (*attempt.places, scope)
        return True

    async def _take(self, limit: ConcurrencyLimit, scope: str, attempt: Attempt) -> bool:
        broker = self.core.broker
        until = broker.now() + self.core.options.lease
        return await broker.acquire(scope, attempt.lease.token, limit=limit.count, until=until)
