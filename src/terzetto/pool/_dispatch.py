"""Dispatches that wait for their outcome, and outcomes that wait for their dispatch.

A dispatch learns the id of its event only with the reply to the script that
sent it, and the return may come first; so returns that nobody waits for yet are
kept while any dispatch is being sent. No Redis in here; the waiting itself is
trio's.

Theory of operation of a dispatch: claimed (guard set, event sent) -> waiting ->
returned, or given up by time-out or cancellation; the guard is released in each
case, by the node, so that a cancelled caller leaves at once.
"""

from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

_EARLY: Final = 10_000


@attrs.define(eq=False)
class Waiting:
    """A dispatch that waits."""

    event: trio.Event = attrs.field(factory=trio.Event)
    error: str = ""
    is_cut: bool = False
    """Whether the node was closed before anybody answered."""


@attrs.define(eq=False)
class Returns:
    """The table of both."""

    _waiting: dict[str, Waiting] = attrs.field(factory=dict[str, Waiting])
    _early: OrderedDict[str, str] = attrs.field(factory=OrderedDict[str, str])
    _sending: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def sending(self) -> Generator[None]:
        """Keep returns that nobody waits for, for the time of a block."""
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1
            if not self._sending:
                self._early.clear()

    @contextmanager
    def expect(self, event_id: str) -> Generator[Waiting]:
        """Wait for the return of an event, for the time of a block within `sending`."""
        waiting = self._waiting[event_id] = Waiting()
        early = self._early.pop(event_id, None)
        if early is not None:
            waiting.error = early
            waiting.event.set()
        try:
            yield waiting
        finally:
            del self._waiting[event_id]

    def cut(self) -> None:
        """Wake everybody who waits: no return will be heard any more."""
        for waiting in self._waiting.values():
            if not waiting.event.is_set():
                waiting.is_cut = True
                waiting.event.set()

    def returned(self, event_id: str, error: str) -> None:
        """Take in the return of an event; ``""`` is success."""
        waiting = self._waiting.get(event_id)
        if waiting is not None and not waiting.event.is_set():
            waiting.error = error
            waiting.event.set()
        elif waiting is None and self._sending:
            self._early[event_id] = error
            while len(self._early) > _EARLY:
                self._early.popitem(last=False)
