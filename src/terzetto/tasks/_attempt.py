"""One attempt at a task: what the parts of a server know of it while it lasts.

Theory of operation. An attempt is a task function in a cancel scope, and after
that the writing of its outcome. Whoever wants it to end early calls `end` with
the reason; the first reason counts, and only while the function runs. The lease
is renewed until the outcome is written, so that waiting for Redis loses nothing.

    running --function ends--> settling --outcome written--> over
    running --end(reason)----> the scope is cancelled; the function ends, and the
                               reason decides on the outcome, unless the function
                               finished well before it noticed
    any     --lease lost-----> nothing is written
"""

import math
from typing import Final

import attrs
import trio

from terzetto.errors import InvalidPayloadError
from terzetto.tasks._broker import Broker
from terzetto.tasks._broker_values import Lease
from terzetto.tasks._message import TaskMessage
from terzetto.tasks._retry import AttemptError, LeaseLostError
from terzetto.tasks._task import DEFAULT_TIMEOUT

_LAST_MOMENT: Final = 253_402_300_799.0  # the end of year 9999, beyond which no datetime is


class HandedBackError(AttemptError):
    """The server is closing, and the task goes back to its queue."""

    def __str__(self) -> str:
        return "the server is closing"


def attempt_deadline(task: TaskMessage, now: float) -> float:
    """Return until when (Unix seconds) an attempt may run that begins now."""
    end = _LAST_MOMENT
    if task.timeout > 0:
        end = min(end, now + task.timeout)
    elif task.deadline <= 0:
        end = now + DEFAULT_TIMEOUT
    return min(end, task.deadline) if task.deadline > 0 else end


@attrs.define(eq=False, slots=True)
class Attempt:
    """An attempt that runs, or whose outcome is being written."""

    lease: Lease
    broker: Broker
    started_at: float
    deadline_at: float
    scope: trio.CancelScope
    reason: AttemptError | None = None
    drop: bool = False
    is_running: bool = True
    is_lost: bool = False
    ended_at: float = math.inf
    """When it was told to end, on trio's clock."""
    places: tuple[str, ...] = ()
    """The scopes of concurrency limits in which it holds a place."""

    def end(self, reason: AttemptError, *, drop: bool = False) -> None:
        """Cancel the function, for this reason; a later one changes nothing."""
        if self.is_running and self.reason is None:
            self.reason = reason
            self.drop = drop
            self.ended_at = trio.current_time()
            self.scope.cancel()

    def lose(self) -> None:
        """Note that the task is another's: whatever comes of it here is not written."""
        self.is_lost = True
        if self.is_running:
            self.reason = LeaseLostError()
            self.ended_at = min(self.ended_at, trio.current_time())
            self.scope.cancel()

    async def write_result(self, data: bytes) -> None:
        """Write the task's result while the function runs; see `TaskContext`."""
        if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidPayloadError(f"a result is bytes, not {type(data).__name__}")
        if not self.is_running or self.is_lost:
            await trio.lowlevel.checkpoint()
            raise LeaseLostError
        if not await self.broker.write_result(self.lease, data):
            self.lose()
            raise LeaseLostError
