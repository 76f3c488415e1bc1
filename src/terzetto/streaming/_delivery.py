"""What takes events in place of a buffer: a function that is called with each as it comes.

No Redis here. The feed puts batches in from the task that read the bytes, where it can,
so that no turn of the scheduler lies between; what the function raises ends its own
delivery, and comes out where that was asked for. Used by `Reader.deliver`.
"""

from collections.abc import Callable
from typing import Final, NoReturn

import trio

from terzetto.errors import ClosedError
from terzetto.streaming._buffer import Batch, Signal
from terzetto.streaming._event import Event


class Delivery:
    """Events on their way to a function."""

    def __init__(self, size: int, wanted: Signal, take: Callable[[Event], None]) -> None:
        """Hand events to `take`; a read may bring `size` of them."""
        self.size: Final = size
        self.is_closed = False
        self._wanted = wanted
        self._take = take
        self._error: BaseException | None = None
        self._over = trio.Event()
        self._has_given = False

    def __len__(self) -> int:
        return 0

    @property
    def room(self) -> int:
        """How many events a poll may bring."""
        return 0 if self._over.is_set() else self.size

    def put(self, batch: Batch) -> None:
        """Hand a batch's events over; none after one that was not taken."""
        self._has_given = True
        while batch.events and self._error is None and not self.is_closed:
            try:
                self._take(batch.events.popleft())
            # Of whatever kind: this may be the task of a link, which it would end.
            except BaseException as error:  # noqa: BLE001 - the user's: `run` raises it
                self._error = error
                self._over.set()

    def close(self) -> None:
        """Take no more, for good."""
        self.is_closed = True
        self._over.set()

    def reopen(self) -> None:
        """Stay closed: whoever asked for the delivery has been told of its end."""

    async def give_way(self) -> None:
        """Let those go first whom an event has woken."""
        if self._has_given:
            self._has_given = False
            await trio.lowlevel.checkpoint()

    async def run(self) -> NoReturn:
        """Have events handed over until cancelled.

        Raises:
            BaseException: what the function raised.
            ClosedError: no more events come.
        """
        self._wanted.raise_()
        await self._over.wait()
        if self._error is not None:
            raise self._error
        raise ClosedError("no more events come: it has been closed; open another to go on")
