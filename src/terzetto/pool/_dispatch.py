"""Dispatches that wait for their outcome, and outcomes that wait for their dispatch.

A dispatch learns the id of its event only with the reply to the script that
sent it, and the return may come first; so returns that nobody waits for yet are
kept while any dispatch is open. No Redis in here; the waiting itself is trio's.

Theory of operation of a dispatch: open -> sent (guard set, event added) -> returned;
or open -> refused, or failed; or given up by time-out, cancellation or the end of its
node. Its guard is released by the node, so that a cancelled caller leaves at once.
"""

from collections import OrderedDict
from typing import Final

import attrs
import trio

_EARLY: Final = 10_000


@attrs.define(eq=False)
class Waiting:
    """A dispatch that waits; `event` is set once one of the rest says what came of it."""

    event: trio.Event = attrs.field(factory=trio.Event)
    error: str = ""
    """Why the job did not start, in the words of its worker."""
    refusal: str = ""
    """Why the key was not given."""
    failure: Exception | None = None
    """The error of Redis that the dispatch met."""
    is_cut: bool = False
    """Whether the node was closed before anybody answered."""
    event_id: str = ""
    """What the event is called, once it is known to be sent."""
    deadline: float = float("inf")
    """Until when it waits, once the event was sent, by `trio.current_time()`."""
    is_late: bool = False
    """Whether nobody answered by then."""
    is_over: bool = False
    """Whether nobody waits any more."""

    def refuse(self, why: str) -> None:
        """Note that nothing was sent."""
        self.refusal = why
        self.event.set()

    def fail(self, error: Exception) -> None:
        """Note that nobody knows, because Redis refused to say."""
        self.failure = error
        self.event.set()

    def expire(self) -> None:
        """Note that the time of waiting is over."""
        self.is_late = True
        self.event.set()

    def cut(self) -> None:
        """Note that no outcome will be heard any more, unless one was."""
        if not self.event.is_set():
            self.is_cut = True
            self.event.set()


@attrs.define(eq=False)
class Returns:
    """The table of both."""

    _open: set[Waiting] = attrs.field(factory=set[Waiting])
    _sent: dict[str, Waiting] = attrs.field(factory=dict[str, Waiting])
    """In the order in which they were sent, and so in that of their deadlines."""
    _early: OrderedDict[str, str] = attrs.field(factory=OrderedDict[str, str])
    _news: trio.Event = attrs.field(factory=trio.Event)

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> Waiting:
        """Wait for the outcome of a dispatch, until `close`."""
        waiting = Waiting()
        self._open.add(waiting)
        return waiting

    def close(self, waiting: Waiting) -> None:
        """Wait no more."""
        waiting.is_over = True
        self._open.discard(waiting)
        self._sent.pop(waiting.event_id, None)
        if not self._open:
            self._early.clear()

    async def expire(self) -> None:
        """Wake those who have waited for too long, for ever; run by each life of the node."""
        while True:
            oldest = next(iter(self._sent.values()), None)
            if oldest is None:
                self._news = trio.Event()
                await self._news.wait()
            elif oldest.deadline > trio.current_time():
                await trio.sleep_until(oldest.deadline)  # it may be over by then
            else:
                del self._sent[oldest.event_id]
                if not oldest.event.is_set():
                    oldest.expire()

    def sent(self, waiting: Waiting, event_id: str, *, until: float) -> None:
        """Note the event of a dispatch, which waits until then, by `trio.current_time()`.

        Its return may be here already.
        """
        if waiting.is_over:
            return
        waiting.event_id = event_id
        waiting.deadline = until
        self._sent[event_id] = waiting
        self._news.set()
        early = self._early.pop(event_id, None)
        if early is not None:
            self.returned(event_id, early)

    def cut(self) -> None:
        """Wake everybody who waits: no return will be heard any more."""
        for waiting in self._open:
            waiting.cut()

    def returned(self, event_id: str, error: str) -> None:
        """Take in the return of an event; ``""`` is success."""
        waiting = self._sent.get(event_id)
        if waiting is not None and not waiting.event.is_set():
            waiting.error = error
            waiting.event.set()
        elif waiting is None and self._open:
            self._early[event_id] = error
            while len(self._early) > _EARLY:
                self._early.popitem(last=False)
