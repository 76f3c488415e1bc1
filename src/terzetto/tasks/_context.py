"""What a task function is given beside its payload: who it is, and what it may do.

A context belongs to one attempt. It may be kept, but after the attempt its
methods refuse to write.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

import attrs

from terzetto._shared._logging import Logger
from terzetto.tasks._message import TaskMessage


class ResultWriter(Protocol):
    """Writes the result of the attempt that a context belongs to."""

    async def write_result(self, data: bytes) -> None:
        """Write it at once."""
        ...


@attrs.define(eq=False, repr=False, slots=True)
class TaskContext:
    """One attempt at one task."""

    message: TaskMessage
    """The task as it was when the attempt began."""

    deadline_at: float
    """Unix seconds at which the attempt is cancelled."""

    _writer: ResultWriter
    _log: Logger

    @property
    def id(self) -> str:
        """The task's id, the same over all attempts."""
        return self.message.id

    @property
    def type(self) -> str:
        """The task's type."""
        return self.message.type

    @property
    def payload(self) -> bytes:
        """The payload as it came."""
        return self.message.payload

    @property
    def queue(self) -> str:
        """The queue that the task came from."""
        return self.message.queue

    @property
    def headers(self) -> Mapping[str, str]:
        """The texts that travel with the task."""
        return self.message.headers

    @property
    def retried(self) -> int:
        """How many retries there were: 0 in the first attempt."""
        return self.message.retried

    @property
    def max_retry(self) -> int:
        """How many retries there may be."""
        return self.message.max_retry

    @property
    def deadline(self) -> datetime:
        """When the attempt is cancelled, in UTC."""
        return datetime.fromtimestamp(self.deadline_at, UTC)

    @property
    def log(self) -> Logger:
        """A logger that adds the task's id, type and queue."""
        return self._log.bind(task_id=self.id, task_type=self.type, queue=self.queue)

    async def write_result(self, data: bytes) -> None:
        """Write a result, in place of any before it; it can be read while the task is kept.

        After the task is done that is for its retention. Waits for Redis. Cancelling
        leaves it open whether it was written.

        Raises:
            LeaseLostError: the attempt is over, or the task belongs to somebody else by now.
            InvalidPayloadError: `data` is no bytes.
        """
        await self._writer.write_result(data)

    def __repr__(self) -> str:
        return f"<TaskContext {self.queue} {self.type} {self.id} retried={self.retried}>"
