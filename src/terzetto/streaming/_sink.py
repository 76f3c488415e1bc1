"""Sinks: each event of some streams goes to one of the instances that share a name.

An instance is one actor that runs the engine's loops; the `Sink` that
callers hold is its face, and survives restarts of the actor. See `_intake.py`
for how it works. `Stream.open_sink` and `Stream.sink_child` make sinks.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
from redis.exceptions import RedisError

from terzetto._shared._texts import describe_error
from terzetto.actor import Actor, Child, Context, Stop
from terzetto.errors import InvalidOptionError
from terzetto.streaming._claims import HANDED_BACK_MS, idle_for_retry_ms
from terzetto.streaming._event import Event
from terzetto.streaming._handling import OrderedLoop, run_unordered
from terzetto.streaming._intake import Intake
from terzetto.streaming._names import stream_key
from terzetto.streaming._options import check_count, check_seconds
from terzetto.streaming._positions import Start
from terzetto.streaming._reader import FINAL, check_open, check_same_link
from terzetto.streaming._retry import insist
from terzetto.streaming._subscription import Subscription
from terzetto.streaming._typed import Handler, UnreadablePayloadError, check_handler

if TYPE_CHECKING:
    from terzetto.streaming._stream import Stream

_LEAVING: Final = 2.0  # seconds that an instance has to hand back and leave, after its handlers


class Sink:
    """One instance of a sink; made by `Stream.open_sink`.

    Iterate it for single events, or call `read` for batches. Tasks that do so at
    the same time share the events. An event that was taken has to be
    acknowledged; one that is not comes again after the grace period, here or at
    another instance. Nothing is read before somebody takes.
    """

    def __init__(self, intake: Intake, retry_base: float) -> None:
        self._intake = intake
        self._retry_base = retry_base
        self._events = Subscription(intake.buffer, intake.options.max_polled)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<Sink {self.name!r} of {', '.join(self.streams)} {state}>"

    @property
    def name(self) -> str:
        """The sink's name, which its instances share."""
        return self._intake.sink

    @property
    def consumer(self) -> str:
        """The name of this instance; it changes when the instance was cut off for long."""
        return self._intake.consumer

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the streams that it reads."""
        return tuple(self._intake.groups)

    @property
    def is_closed(self) -> bool:
        """Whether it has ended for good, or is about to."""
        return self._intake.is_closing or self._intake.buffer.is_closed

    @property
    def buried(self) -> int:
        """How many dead letters this instance has written."""
        return self._intake.buried

    async def read(self) -> list[Event]:
        """Wait for events; return those that are there, `max_polled` at most.

        Raises:
            ClosedError: the sink is closed.

        Cancelling takes nothing.
        """
        return await self._events.read()

    def __aiter__(self) -> AsyncIterator[Event]:
        return aiter(self._events)

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """Wait for one event; cancelling takes nothing."""
        return self._events.__anext__()

    async def ack(self, *events: Event) -> int:
        """Acknowledge events; return how many of them were pending until now.

        An event that is not pending any more (acknowledged before, or a dead
        letter) does not count, and is no error. Any instance may acknowledge.
        A lost reply is asked for again. Cancelling leaves it open whether they
        were acknowledged.

        Raises:
            TypeError: one is no `Event`; nothing was acknowledged.
            LinkClosedError: the link's block has been left.
        """
        for event in events:
            if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
                raise TypeError(f"give an Event that was taken, not {type(event).__name__}")
        if len(events) == 1:
            return await self._acknowledge(events[0].stream, [events[0].id])
        by_stream: dict[str, list[str]] = {}
        for event in events:
            by_stream.setdefault(event.stream, []).append(event.id)
        count = 0
        for stream, event_ids in by_stream.items():
            count += await self._acknowledge(stream, event_ids)
        return count

    async def _acknowledge(self, stream: str, event_ids: list[str]) -> int:
        command = ("XACK", stream_key(stream), self.name, *event_ids)
        count: int = await insist(partial(self._intake.redis.execute, *command))
        return count

    def ack_nowait(self, event: Event) -> None:
        """Acknowledge an event with the next read's write, or half a second later at most.

        Acknowledging many events costs next to nothing this way; a crash
        meanwhile makes them come again. What the server refuses, as for want of memory,
        is sent again until it is taken; not where the user has no permission. Once the
        sink reads no stream at all, it may take half a grace period. After the sink has
        closed this does nothing: the event was handed back.
        """
        self._intake.acknowledge_later(event)

    async def extend(self, event: Event) -> bool:
        """Start the grace period of an event that was taken again.

        Returns whether it is this instance's still; if not, another one has it.
        Cancelling leaves it open whether the period was started again.
        """
        group = self._intake.groups.get(event.stream)
        if group is None:
            return False
        return event.id in await insist(partial(group.extend, self._intake.consumer, [event.id]))

    def hand_back_nowait(self, event: Event, *, delay: float = 0.0) -> None:
        """Give up an event that was taken, so that it comes again, here or elsewhere.

        Args:
            event: the event; this delivery counts.
            delay: how long it rests before, in seconds; the grace period at most.

        Raises:
            InvalidOptionError: `delay` is negative or not finite; the event is kept.
        """
        check_seconds("delay", delay, zero=True)
        grace = self._intake.grace
        idle_ms = round((grace - min(delay, grace)) * 1000) if delay > 0 else HANDED_BACK_MS
        self._intake.hand_back_later(event, idle_ms)

    async def reject(self, event: Event, why: str) -> None:
        """Move an event that was taken to the dead letters, at once.

        In `why`, surrogates that stand for no byte become question marks.

        Nothing happens if another instance has it by now. A lost reply is asked for
        again. Cancelling leaves it open whether it was moved; one that was not comes
        again after the grace period.

        Raises:
            redis.exceptions.RedisError: the server refuses it; the event comes again
                after the grace period. With `no_ack`, also `LinkLostError`.
        """
        group = self._intake.groups.get(event.stream)
        if group is not None:
            await self._intake.bury(group, self._intake.consumer, event, why)

    @asynccontextmanager
    async def process(self, event: Event) -> AsyncGenerator[Event]:
        """Hold an event while a block deals with it.

        The claim is renewed for as long as the block runs, so the event comes
        nowhere else meanwhile. When the block ends, the event is acknowledged.
        When it raises, the event is handed back and rests for a while that
        doubles with each delivery; after the last delivery allowed it goes to
        the dead letters instead; the error goes on to the caller. When it is
        cancelled, the event is handed back at once.
        """
        intake = self._intake
        intake.start_processing(event)
        try:
            yield event
        except Exception as error:
            # The boundary to the user's code: whatever it raised decides over
            # the event, and goes on.
            await self._failed(event, error)
            raise
        except BaseException:
            intake.hand_back_later(event, HANDED_BACK_MS)
            raise
        else:
            await self._succeeded(event)
        finally:
            intake.end_processing(event)

    async def _succeeded(self, event: Event) -> None:
        acknowledged = False
        try:
            await self.ack(event)
            acknowledged = True
        finally:
            if not acknowledged:
                self.ack_nowait(event)

    async def _failed(self, event: Event, error: Exception) -> None:
        limit, grace = self._intake.max_deliveries, self._intake.grace
        hopeless = isinstance(error, UnreadablePayloadError)
        if hopeless or (limit is not None and event.deliveries >= limit):
            await self.reject(event, f"the handler raised {describe_error(error)}")
        else:
            idle_ms = idle_for_retry_ms(event.deliveries, grace, self._retry_base)
            self._intake.hand_back_later(event, idle_ms)

    async def handle(
        self, handler: Handler, *, concurrency: int = 10, ordered: bool = False
    ) -> None:
        """Run `handler` for each event, as `process` does, until the sink closes.

        A handler that raises is logged, and the loop goes on: the event comes
        again, or goes to the dead letters after the last delivery allowed.

        Args:
            handler: an async function of the event.
            concurrency: how many handlers run at a time.
            ordered: deal with the events of one topic one after the other, in
                the stream's order as far as this instance gets them; one that
                fails is tried again before the next. Other topics go on.

        Cancelling cancels the handlers and hands their events back. So does what
        is no `Exception`: `SystemExit` in a handler, or Ctrl-C. It comes out as it is.

        Raises:
            InvalidOptionError: `concurrency` is below 1.
            TypeError: `handler` is no async function.
        """
        check_count("concurrency", concurrency)
        check_handler(handler)
        if ordered:
            loop = OrderedLoop(self, self._intake, handler, concurrency, self._retry_base)
            await loop.run()
        else:
            await run_unordered(self, handler, concurrency)

    def log_failure(self, event: Event, error: Exception) -> None:
        """Log that the handler of `event` raised, with the traceback."""
        self._intake.log.warning(
            "handler failed",
            stream=event.stream,
            event=event.id,
            deliveries=event.deliveries,
            error=describe_error(error),
            exc_info=error,
        )

    async def add_stream(self, stream: "Stream", *, start: Start | None = None) -> None:
        """Join the sink on one more stream.

        A new group begins at `start`, by default where this sink starts; a group
        that is there keeps its place. A stream that it reads already is left as
        it is. Cancelling leaves it open whether the stream was added.

        Raises:
            InvalidOptionError: `start` is none, or the stream is on another link or,
                in a cluster, has a name without a ``{tag}``.
            ClosedError: the sink is closed.
        """
        if stream.name not in self._intake.groups:
            check_open(self)
            check_same_link(self._intake.redis, stream)
            check_tag(stream)
        # Even if it reads the stream: another task may be about to remove it.
        place = self._intake.options.start if start is None else start
        await self._intake.add(stream, place)

    async def remove_stream(self, stream: "Stream") -> None:
        """Leave a stream; what is pending there is handed back.

        The last instance to leave takes the group with it, unless an event is
        pending. A stream that it does not read is no error.

        Cancelling may leave it half done: nothing more is read of the stream. Calling this
        again goes on with it, and so does closing the sink.
        """
        await self._intake.remove(stream.name)


@attrs.define
class _SinkActor(Actor):
    """Runs an engine; the engine keeps its state from one life to the next."""

    intake: Intake
    stream: "Stream"
    close_grace: float

    async def started(self, ctx: Context[Any]) -> None:
        await self.intake.open([(self.stream, self.intake.options.start)])
        ctx.start_soon(self.intake.run_keepalive, name="keep-alive")
        self.intake.lanes.start(ctx.start_soon)

    async def stopping(self, reason: Stop) -> None:
        self.intake.lanes.stop()
        if reason in FINAL:
            try:
                await self.intake.close(self.close_grace)
            except RedisError as error:
                # Without a server there is nothing to leave; claims bring it all back.
                self.intake.log.warning("left without a word", error=describe_error(error))


def check_tag(stream: "Stream") -> None:
    """Raise `InvalidOptionError` unless a script can use a stream and its dead letters together."""
    if not stream.redis.share_slot(stream.key, stream.dead_letters.key):
        raise InvalidOptionError(
            f"on a cluster, the stream {stream.name!r} and its dead letters are in two slots: "
            f"give a sink's stream a name with a {{tag}}, such as {{{stream.name}}}"
        )


def make_sink_child(
    stream: "Stream", intake: Intake, *, name: str | None, retry_base: float, close_grace: float
) -> Child[Sink]:
    """Return the spec of a sink instance that starts with one stream."""
    check_tag(stream)
    sink = Sink(intake, retry_base)
    return Child(
        partial(_SinkActor, intake, stream, close_grace),
        name=name or f"sink-{intake.sink}".replace("/", "-"),
        grace=close_grace + _LEAVING,
        face=lambda _: sink,
    )
