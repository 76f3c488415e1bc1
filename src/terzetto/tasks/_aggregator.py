"""Makes one task of the tasks of a group, when it is time to.

Theory of operation. A batch is taken out of its group with a deadline; the user's
function makes one task of it; that is enqueued and the batch deleted in one step.
Whatever goes wrong before (an error, a crash, a closing server) leaves the batch
to go back to its group at the deadline, so each task is in exactly one aggregate.
"""

from typing import Final

import attrs
import trio

from terzetto._shared._texts import describe_error, printable
from terzetto.actor import Actor, Context, Stop
from terzetto.redis import LinkClosedError
from terzetto.tasks._broker_values import Batch, Enqueue, Placed
from terzetto.tasks._client import DEFAULT_MAX_PAYLOAD
from terzetto.tasks._core import Core
from terzetto.tasks._options import Grouping
from terzetto.tasks._task import TaskOptions, merge, settle
from terzetto.tasks._upkeep import repeat
from terzetto.tasks._user_code import raise_foreign

_LONGEST_TICK: Final = 7.0
_PASSES: Final = 3  # batches that are aggregated at once


@attrs.define(eq=False, kw_only=True)
class AggregatorActor(Actor):
    """One life of the aggregator."""

    core: Core
    grouping: Grouping
    _ctx: Context["AggregatorActor"] = attrs.field(init=False)
    _passes: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(_PASSES))
    _closing: bool = False
    _over: trio.Event = attrs.field(factory=trio.Event)

    async def started(self, ctx: Context["AggregatorActor"]) -> None:
        """Begin."""
        self._ctx = ctx
        ctx.start_soon(repeat, self.core, self.look)

    async def stopping(self, reason: Stop) -> None:  # noqa: ARG002 - all reasons are alike
        """Let what is being aggregated finish."""
        self._closing = True
        with trio.move_on_after(self.core.options.shutdown_timeout):
            while self._passes.borrowed_tokens:
                self._over = trio.Event()
                await self._over.wait()

    async def look(self) -> float:
        """Aggregate what is complete."""
        core, grouping = self.core, self.grouping
        for queue in core.options.queues:
            for group in await core.broker.list_groups(queue):
                while not self._closing:
                    token = object()
                    await self._passes.acquire_on_behalf_of(token)
                    batch = None
                    try:
                        batch = await core.broker.take_batch(
                            queue,
                            group,
                            max_size=grouping.max_size,
                            max_delay=grouping.max_delay,
                            grace=grouping.grace,
                        )
                    finally:
                        if batch is None:
                            self._release(token)
                    if batch is None:
                        break
                    self._ctx.start_soon(self._aggregate, batch, token)
        return min(_LONGEST_TICK, grouping.grace, grouping.max_delay or _LONGEST_TICK)

    def _release(self, token: object) -> None:
        self._passes.release_on_behalf_of(token)
        self._over.set()

    async def _aggregate(self, batch: Batch, token: object) -> None:
        core = self.core
        log = core.log.bind(queue=batch.queue, group=batch.group, tasks=len(batch.messages))
        try:
            with trio.move_on_after(batch.deadline - core.broker.now()) as scope:
                entry = await self._make(batch)
                placement = await core.broker.finish_batch(batch, entry)
                if not isinstance(placement, Placed):
                    log.warning("an aggregate was not enqueued", placement=repr(placement))
            if scope.cancelled_caught:
                log.warning("a group took too long to aggregate: its tasks go back to it")
        except LinkClosedError:
            raise
        except BaseException as error:  # a boundary of user code
            raise_foreign(error)
            log.warning(
                "a group could not be aggregated: its tasks go back to it",
                error=describe_error(error),
                exc_info=printable(error),
            )
        finally:
            self._release(token)

    async def _make(self, batch: Batch) -> Enqueue:
        task = await self.grouping.aggregate(batch.group, batch.messages)
        settled = settle(merge(task, TaskOptions()), max_payload=DEFAULT_MAX_PAYLOAD, task=task)
        return settled.entry(task, queue=batch.queue, headers=settled.headers)
