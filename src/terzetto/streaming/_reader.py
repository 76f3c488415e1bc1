"""Readers: every event of some streams, for each reader anew.

A reader is one actor that runs the feed's poll loops; the `Reader` that callers
hold is its face, and survives restarts of the actor. See `_feed.py` for how it
works. `Stream.open_reader` and `Stream.reader_child` make readers.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import attrs

from terzetto._shared._logging import Logger
from terzetto.actor import Actor, Child, Context, Stop
from terzetto.errors import ClosedError, InvalidOptionError
from terzetto.redis import Redis
from terzetto.streaming._checkpoint import Checkpoint
from terzetto.streaming._edges import open_cursor
from terzetto.streaming._event import Event
from terzetto.streaming._feed import Feed
from terzetto.streaming._gap import Cursor, Gap
from terzetto.streaming._options import ReadOptions, check_count
from terzetto.streaming._positions import Start
from terzetto.streaming._subscription import Subscription

if TYPE_CHECKING:
    from terzetto.streaming._stream import Stream

# The lives that end for good; after the others the actor is started again.
FINAL = frozenset({Stop.NORMAL, Stop.CLOSED, Stop.SHUTDOWN})


_LEAVING: Final = 1.0  # seconds; a reader leaves nothing behind on the server


class Reader:
    """Reads streams from its own place in each; made by `Stream.open_reader`.

    Iterate it for single events, or call `read` for batches. Tasks that do so
    at the same time share the events; `subscribe` gives a further taker all of
    them. Nothing is read before somebody takes, and reading stops while a
    taker's buffer is full. Events of one stream come in the stream's order;
    there is no order between streams.
    """

    def __init__(self, feed: Feed, checkpoint: Checkpoint | None) -> None:
        self._feed = feed
        self._checkpoint = checkpoint
        self._own: Subscription | None = None

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<Reader of {', '.join(self.streams)} {state}>"

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the streams that it reads."""
        return tuple(self._feed.cursors)

    @property
    def is_closed(self) -> bool:
        """Whether it has ended for good."""
        return self._feed.is_closed

    @property
    def positions(self) -> dict[str, str]:
        """For each stream the id of the last event that was read, taken or not."""
        return {name: cursor.last_id for name, cursor in self._feed.cursors.items()}

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The last 100 gaps: events that were trimmed before this reader came to them."""
        return tuple(self._feed.gaps)

    @property
    def missed(self) -> int:
        """How many events were in gaps, as far as it can be told."""
        return self._feed.missed

    @property
    def skipped(self) -> int:
        """How many entries were no events, or made the matcher raise."""
        return self._feed.skipped

    async def read(self) -> list[Event]:
        """Wait for events; return those that are there, `max_polled` at most.

        Raises:
            ClosedError: the reader is closed, and nothing is left to take.

        Cancelling takes nothing.
        """
        return await self._subscription().read()

    def __aiter__(self) -> AsyncIterator[Event]:
        return aiter(self._subscription())

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """Wait for one event; cancelling takes nothing."""
        return self._subscription().__anext__()

    @contextmanager
    def subscribe(self, *, buffer_size: int | None = None) -> Generator[Subscription]:
        """Take all events from now on, beside the other takers, for the time of a block.

        Args:
            buffer_size: how many events may wait; as the reader's by default.
                While they do, the reader reads nothing, for the others either.

        Raises:
            InvalidOptionError: `buffer_size` is below 1.
        """
        size = self._feed.options.buffer_size
        if buffer_size is not None:
            size = check_count("buffer_size", buffer_size)
        buffer = self._feed.open_buffer(size)
        try:
            yield Subscription(buffer, self._feed.options.max_polled)
        finally:
            self._feed.close_buffer(buffer)

    async def deliver(self, take: Callable[[Event], None]) -> NoReturn:
        """Hand every event from now on to `take` at once; until cancelled.

        `take` is a plain function, called where possible in the task that read the event's
        bytes, a turn or two of the scheduler before an iteration would have it. It should
        not take long: nothing else is read meanwhile. As with `subscribe`, other takers get
        all events too, and what comes between two deliveries is nobody's.

        Raises:
            BaseException: what `take` raised; it gets nothing more. Ctrl-C is none of it: that
                comes where a task waits.
            ClosedError: the reader is closed.
        """
        delivery = self._feed.open_delivery(take)
        try:
            await delivery.run()
        finally:
            self._feed.close_buffer(delivery)

    async def add_stream(self, stream: "Stream", *, start: Start | None = None) -> None:
        """Read one more stream, from `start` if that is given.

        By default it begins at the checkpoint's place for the stream, as `open_reader` does,
        and where there is none, from where this reader starts.
        A stream that it reads already is left as it is. Cancelling adds nothing,
        or has added it.

        Raises:
            InvalidOptionError: `start` is none, or the stream is on another link.
            ClosedError: the reader is closed.
        """
        feed = self._feed
        if stream.name not in feed.cursors:
            check_open(self)
            check_same_link(feed.redis, stream)
        # Even if it reads the stream: another task may be about to remove it.
        find_place = partial(_find_place, feed, stream, start, self._checkpoint)
        await feed.add(stream.name, find_place)

    async def remove_stream(self, stream: "Stream") -> None:
        """Read a stream no more; what was read of it can still be taken.

        A stream that it does not read is none of its business, and no error.
        """
        await self._feed.remove(stream.name)

    async def save(self, event: Event) -> None:
        """Save the place after `event`: a reader opened with the same checkpoint goes on there.

        Call it when the event has been dealt with. A crash before it means that
        the event comes again.

        Raises:
            InvalidOptionError: the reader was opened without a checkpoint.
        """
        if self._checkpoint is None:
            raise InvalidOptionError("this reader has no checkpoint: open it with checkpoint=")
        await self._checkpoint.save(event.stream, event.id)

    def _subscription(self) -> Subscription:
        if self._own is None:
            options = self._feed.options
            buffer = self._feed.open_buffer(options.buffer_size)
            self._own = Subscription(buffer, options.max_polled)
        return self._own


@attrs.define
class _ReaderActor(Actor):
    """Runs a feed; the feed keeps the cursors from one life to the next."""

    feed: Feed
    stream: "Stream"
    checkpoint: Checkpoint | None

    async def started(self, ctx: Context[Any]) -> None:
        stream, feed = self.stream, self.feed
        feed.reopen()
        if not feed.cursors and not feed.has_started:
            feed.enter(await _find_place(feed, stream, None, self.checkpoint))
            feed.has_started = True
        feed.lanes.start(ctx.start_soon)

    async def stopping(self, reason: Stop) -> None:
        self.feed.lanes.stop()
        if reason in FINAL:
            self.feed.close()


async def _find_place(
    feed: Feed, stream: "Stream", start: Start | None, checkpoint: Checkpoint | None
) -> Cursor:
    """Return where to read a stream from: `start`, the place that was saved, or the reader's."""
    saved = None
    if start is None and checkpoint is not None:
        saved = checkpoint.load(stream.name)
    place = feed.options.start if start is None else start
    cursor = await open_cursor(
        feed.redis, stream.name, stream.key, place if saved is None else saved
    )
    cursor.existed |= saved is not None
    return cursor


class _Closing(Protocol):
    @property
    def is_closed(self) -> bool: ...


def check_open(taker: _Closing) -> None:
    """Raise `ClosedError` if a reader or sink is closed."""
    if taker.is_closed:
        raise ClosedError(f"{taker!r} takes no more streams: open another to go on")


def check_same_link(redis: Redis, stream: "Stream") -> None:
    """Raise `InvalidOptionError` unless `stream` is on this link."""
    if stream.redis is not redis:
        raise InvalidOptionError(
            f"the stream {stream.name!r} is on another link: "
            "streams that are read together need the same one"
        )


def make_reader_child(
    stream: "Stream",
    options: ReadOptions,
    *,
    name: str | None,
    checkpoint: Checkpoint | None,
    on_gap: Callable[[Gap], None] | None,
    logger: Logger,
) -> Child[Reader]:
    """Return the spec of a reader that starts with one stream."""
    feed = Feed(stream.redis, options, logger, on_gap)
    reader = Reader(feed, checkpoint)
    return Child(
        partial(_ReaderActor, feed, stream, checkpoint),
        name=name or f"reader-{stream.name}".replace("/", "-"),
        grace=_LEAVING,
        face=lambda _: reader,
    )
