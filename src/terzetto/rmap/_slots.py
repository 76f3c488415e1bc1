"""Slots: how a map wakes those who wait for its changes, without ever waiting for them.

Each subscriber and each watcher has a slot of its own that holds one pending notice.
Notices that come before it is taken are merged into it, the strongest kind winning, so
a reset is never lost and a slow subscriber costs nobody anything. A slot ends with the
map; iterating it then stops once the pending notice is taken.

`_core` posts to slots; `_map` hands them to users.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import attrs
import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from terzetto.rmap._replica import Change

T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")


class Slot(AsyncIterator[T_co], Generic[T_co]):
    """One waiter's slot. Cancelling a wait loses no notice."""

    def __init__(self) -> None:
        self._waiter: Task | None = None
        self._is_ended = False

    @abstractmethod
    def post(self, change: Change, key: str | None) -> None:
        """Note a change of `key`, or of any keys if it is None."""

    @abstractmethod
    def _is_pending(self) -> bool:
        """Return whether there is a notice to take."""

    @abstractmethod
    def _take(self) -> T_co:
        """Take the pending notice."""

    def end(self) -> None:
        """Let iterating stop when the pending notice has been taken."""
        self._is_ended = True
        self.wake()

    def wake(self) -> None:
        """Wake the task that iterates."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            reschedule(waiter)

    async def __anext__(self) -> T_co:
        """Wait for the next notice.

        Raises:
            trio.BusyResourceError: another task waits for it.
        """
        if self._is_ended or self._is_pending():
            await trio.lowlevel.checkpoint()
        while not self._is_pending():
            if self._is_ended:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise trio.BusyResourceError("another task is iterating: open a block for each")
            self._waiter = current_task()
            await wait_task_rescheduled(self._leave)
        return self._take()

    def _leave(self, _: RaiseCancelT) -> Abort:
        self._waiter = None
        return Abort.SUCCEEDED


class ChangeSlot(Slot[Change]):
    """The slot of a subscriber: the strongest kind of change since it looked last."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: Change | None = None

    def post(self, change: Change, key: str | None) -> None:
        """Merge a change into the pending one."""
        del key
        if self._pending is None:
            self._pending = change
            self.wake()
        elif change > self._pending:
            self._pending = change

    def _is_pending(self) -> bool:
        return self._pending is not None

    def _take(self) -> Change:
        change = self._pending
        assert change is not None  # noqa: S101 - `_is_pending` was true, with no await since
        self._pending = None
        return change


@attrs.frozen
class _Nothing:
    """What a watcher has seen before it has seen anything."""


_NOTHING = _Nothing()


class ValueSlot(Slot[V | None], Generic[V]):
    """The slot of a watcher: the latest value of one key, at first the one it has now."""

    def __init__(
        self, key: str, read: Callable[[str], V | None], encode: Callable[[V], bytes]
    ) -> None:
        super().__init__()
        self._key = key
        self._read = read
        self._encode = encode
        self._seen: V | _Nothing | None = _NOTHING
        self._was_written = True
        self._may_differ = False

    def post(self, change: Change, key: str | None) -> None:
        """Note that the key was written, or may have changed with all others."""
        del change
        if key == self._key:
            self._was_written = True
            self.wake()
        elif key is None:
            self._may_differ = True
            self.wake()

    def _is_pending(self) -> bool:
        if self._may_differ:
            self._may_differ = False
            if not self._is_seen(self._read(self._key)):
                self._was_written = True
        return self._was_written

    def _is_seen(self, value: V | None) -> bool:
        seen = self._seen
        if value is None or seen is None or isinstance(seen, _Nothing):
            return value is seen
        # What is equal need not be stored alike: 1, 1.0 and True.
        return value == seen and self._encode(value) == self._encode(seen)

    def _take(self) -> V | None:
        self._was_written = False
        value = self._read(self._key)
        self._seen = value
        return value
