"""What happens in a tree, told to any number of observers that cannot slow it.

Theory of operation: `Hub.emit` puts an event into the bounded buffer of each
feed and returns. A feed that is full drops its oldest event and counts it; the
reader learns of the gap by a `Missed` in the gap's place. An observer is a
callback with a feed and a task of its own; one that raises is logged and
dropped.

Invariants: emitting never waits and never raises; dead letters are counted
even when nobody watches.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeAlias

import attrs
import trio

from terzetto.actor._message import Message
from terzetto.actor._types import Exit, Stop

MAX_PLACES = 10_000


@attrs.frozen(kw_only=True)
class Started:
    """An actor or a tree is up, for the first time."""

    path: str


@attrs.frozen(kw_only=True)
class Crashed:
    """A life ended with an error; what becomes of the child is told by the next event."""

    path: str
    error: BaseException


@attrs.frozen(kw_only=True)
class Restarted:
    """A child is up again."""

    path: str
    restarts: int
    """How often it has been started again since it was spawned."""


@attrs.frozen(kw_only=True)
class Stopped:
    """A child has ended for good."""

    path: str
    exit: Exit


@attrs.frozen(kw_only=True)
class Escalated:
    """A supervisor gives up because of a child, and fails with the child's error."""

    path: str
    child: str
    error: BaseException
    why: str


@attrs.frozen(kw_only=True)
class DeadLetter:
    """A message that was accepted will not be handled, or was not handled to its end."""

    path: str
    message: Message
    reason: str
    """``"crashed"`` (it crashed the actor), ``"misfit"`` (its arguments do not fit),
    ``"restarted"`` (cut off by a restart), ``"unhandled"`` (its actor stopped), or
    ``"hand back failed"`` (`Actor.handed_back` raised or took too long)."""

    error: BaseException | None = None
    """The crash, or what does not fit; None for the other reasons."""


@attrs.frozen(kw_only=True)
class CutOff:
    """A hook of the closing was cancelled because the grace period was over."""

    path: str
    hook: str


@attrs.frozen(kw_only=True)
class Missed:
    """The reader was too slow: this many events were dropped here."""

    count: int


Event: TypeAlias = (
    Started | Crashed | Restarted | Stopped | Escalated | DeadLetter | CutOff | Missed
)
"""What happens in a tree."""

Observer: TypeAlias = Callable[[Event], Awaitable[object] | None]
"""A function, async or not, that is called with one event after the other."""


@attrs.define(eq=False)
class Feed:
    """A bounded buffer of events with one reader; iterating ends when the tree has ended."""

    size: int
    path: str = ""
    """Only events of this place and those below it come through; empty for all."""

    missed: int = 0
    """How many events were dropped in all."""

    _gap: int = 0
    _buffer: deque[Event] = attrs.field(factory=deque[Event])
    _ended: bool = False
    _news: trio.Event = attrs.field(factory=trio.Event)

    def put(self, event: Event) -> None:
        """Add an event; drop the oldest when there is no room."""
        if self.path and not self._concerns(event):
            return
        if len(self._buffer) >= self.size:
            self._buffer.popleft()
            self._gap += 1
            self.missed += 1
        self._buffer.append(event)
        self._news.set()

    def _concerns(self, event: Event) -> bool:
        path = "" if isinstance(event, Missed) else event.path
        return path == self.path or path.startswith(self.path + "/")

    def end(self) -> None:
        """Say that no more events will come."""
        self._ended = True
        self._news.set()

    def __aiter__(self) -> "Feed":
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._buffer:
            if self._ended:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()
        if self._gap:
            gap, self._gap = self._gap, 0
            return Missed(count=gap)
        return self._buffer.popleft()


@attrs.define(eq=False)
class Hub:
    """Where the events of one root come together."""

    feeds: list[Feed] = attrs.field(factory=list[Feed])
    has_ended: bool = False
    dead_letters: Counter[tuple[str, str]] = attrs.field(factory=Counter[tuple[str, str]])
    """How many dead letters there were, by path and reason.

    After `MAX_PLACES` different places further ones are counted under an empty
    path, so that actors that come and go cannot fill the memory.
    """

    def emit(self, event: Event) -> None:
        """Tell every feed."""
        for feed in self.feeds:
            feed.put(event)

    def dead(
        self, path: str, message: Message, reason: str, error: BaseException | None = None
    ) -> None:
        """Count and tell a dead letter."""
        key = (path, reason)
        if key not in self.dead_letters and len(self.dead_letters) >= MAX_PLACES:
            key = ("", reason)
        self.dead_letters[key] += 1
        self.emit(DeadLetter(path=path, message=message, reason=reason, error=error))

    def end(self) -> None:
        """End every feed, and those that are added later."""
        self.has_ended = True
        for feed in self.feeds:
            feed.end()

    def add(self, feed: Feed) -> Feed:
        """Add a reader."""
        self.feeds.append(feed)
        if self.has_ended:
            feed.end()
        return feed

    def remove(self, feed: Feed) -> None:
        """Remove a reader; it may be gone."""
        if feed in self.feeds:
            self.feeds.remove(feed)


async def run_observer(feed: Feed, observer: Observer) -> None:
    """Call `observer` with every event of `feed`; what it raises comes out."""
    async for event in feed:
        result = observer(event)
        if isawaitable(result):
            await result


def describe_stop(reason: Stop) -> str:
    """Say in words, after an "it", why an actor takes no messages."""
    return {
        Stop.NORMAL: "has stopped by itself",
        Stop.CLOSED: "was closed",
        Stop.SHUTDOWN: "was shut down",
        Stop.RESTARTED: "was stopped with its group and not started again",
        Stop.CRASHED: "crashed and was not restarted",
    }[reason]
