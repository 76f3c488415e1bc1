"""A job as its handler sees it, and the two forms that a handler may have.

Handlers are user code: what they raise is caught where they are called, by the
worker, and becomes an answer or a restart; it never ends a worker.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias, runtime_checkable

import attrs
import trio

from terzetto.pool._codec import JobBody

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen(eq=False)
class Job:
    """A job to run.

    Attributes:
        key: what it is called in the pool; one job of a key runs at a time.
        payload: what the dispatcher gave along.
        created_at: when it was dispatched, or sent again, by the clock of whoever did.
        node_id: the node that dispatched it, or sent it again.
        requeued: whether it ran, or was to run, elsewhere before: it was moved, or
            recovered from a worker that is gone.
        notifications: what `Node.notify` sends to it, oldest first, for a
            handler that is a function. It ends when the job is to end.
    """

    key: str
    payload: bytes
    created_at: datetime
    node_id: str
    requeued: bool
    notifications: trio.MemoryReceiveChannel[bytes] = attrs.field(repr=False)


class JobHandler(Protocol):
    """A handler that is an object: told to start and to stop jobs.

    With a method ``async def notify(self, key: str, payload: bytes) -> None``
    it is told of notifications too. Calls for different keys come at the same
    time, calls for one key one after the other.
    """

    async def start(self, job: Job, /) -> None:
        """Start the job and return; raising refuses it, at the dispatcher."""
        ...

    async def stop(self, key: str, /) -> None:
        """Stop the job; raising says that it still runs."""
        ...


@runtime_checkable
class NotifiedHandler(Protocol):
    """A handler that wants notifications."""

    async def notify(self, key: str, payload: bytes, /) -> None:
        """Take a notification for a job that runs here."""
        ...


class JobFunction(Protocol):
    """A handler that is one function, run as a task for each job.

    ``task_status.started()`` says that the job has started; what is raised
    before that refuses it. The job ends when the function returns, and is
    cancelled when it is stopped. A function that returns without a word has
    started and ended.
    """

    def __call__(self, job: Job, /, *, task_status: trio.TaskStatus[None]) -> Awaitable[None]:
        """Run the job."""
        ...


Handler: TypeAlias = JobHandler | JobFunction
"""What runs the jobs of a worker: an object that keeps them itself, or a function for each."""


def created_at(created_ns: int) -> datetime:
    """Return a time of the wire; one that no calendar has is the beginning of 1970."""
    try:
        return _EPOCH + timedelta(microseconds=created_ns // 1000)
    except OverflowError:
        return _EPOCH


def read_job(body: JobBody, notifications: trio.MemoryReceiveChannel[bytes]) -> Job:
    """Return the job that a handler is given for a body of the wire."""
    at = created_at(body.created_ns)
    return Job(body.key, body.payload, at, body.node_id, body.requeued, notifications)


Restarting: TypeAlias = Callable[[str, BaseException], None]
"""Called when a job crashed and is to be run again: its key, and the crash."""

Ended: TypeAlias = Callable[[str, BaseException | None], None]
"""Called when a job ends by itself: its key, and the crash that is not restarted."""
