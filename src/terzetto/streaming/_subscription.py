"""The taking end of a buffer: `read` for batches, `async for` for single events."""

from collections.abc import AsyncIterator, Coroutine
from typing import Any

from terzetto.errors import ClosedError
from terzetto.streaming._buffer import Buffer
from terzetto.streaming._event import Event


class Subscription:
    """Events of one reader, for one taker or for several that share them.

    Every event goes to one of the tasks that take from the same subscription.
    """

    def __init__(self, buffer: Buffer, batch_size: int) -> None:
        self._buffer = buffer
        self._batch_size = batch_size

    @property
    def is_closed(self) -> bool:
        """Whether no more events come; those in the buffer can still be taken."""
        return self._buffer.is_closed

    @property
    def buffered(self) -> int:
        """How many events wait to be taken."""
        return len(self._buffer)

    async def read(self) -> list[Event]:
        """Wait for events; return those that are there, at least one.

        Raises:
            ClosedError: it is closed, and nothing is left to take.

        Cancelling takes nothing.
        """
        events = await self._buffer.take_many(self._batch_size)
        if events is None:
            raise ClosedError("no more events come: it has been closed; open another to go on")
        return events

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._buffer

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """Wait for one event; the iteration ends when it is closed and nothing is left.

        Cancelling takes nothing.
        """
        return self._buffer.__anext__()
