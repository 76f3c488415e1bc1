"""The handler loop of a sink: events to a handler, several at a time, in order on request.

Theory of operation
-------------------
Without order, `concurrency` tasks take events and deal with one at a time. With
order, one task takes events and puts each into the lane of its topic; a lane is
a queue with one task while it has events, and `concurrency` lanes run at a time.
A lane that is slow must not fill the memory, so at most `_HELD` events for each
running lane are taken and not done.

An event that fails without order is handed back and rests on the server; with
order it is tried again in its lane, so that nothing of its topic overtakes it.
Either way the delivery limit ends it, and the loop goes on. So it does where the server
refuses what becomes of an event: an acknowledgement is sent again later, and a dead letter
of an ordered lane is tried again in its place.

What is no `Exception`, such as `SystemExit`, ends the loop: the other handlers
are cancelled, what was in hand is handed back, and the error comes out as it is.
Ctrl-C is kept out of everything but the handlers, so that no event is lost
between being taken and being noted; it comes out in the same way.

Called by `Sink.handle`, in the caller's task.
"""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._texts import describe_error
from terzetto.redis import LinkClosedError, LinkLostError
from terzetto.streaming._claims import HANDED_BACK_MS, retry_delay
from terzetto.streaming._event import Event
from terzetto.streaming._intake import Intake
from terzetto.streaming._pace import Pace
from terzetto.streaming._typed import Handler, UnreadablePayloadError

if TYPE_CHECKING:
    from terzetto.streaming._sink import Sink

_HELD: Final = 4


@asynccontextmanager
async def _open_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery for handlers; the first error of theirs comes out as it is, in no group."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        _, errors = group.split(trio.Cancelled)
        if errors is None:
            raise
        first, *others = errors.exceptions
        for other in others:
            first.add_note(f"another handler raised too: {describe_error(other)}")
        context = first.__context__
        try:
            raise first
        finally:
            first.__context__ = context  # the group that it came in explains nothing
            del first, others, errors  # or they and this frame keep each other


@trio.lowlevel.disable_ki_protection
async def _call(handler: Handler, event: Event) -> None:
    await handler(event)


@trio.lowlevel.enable_ki_protection
async def run_unordered(sink: "Sink", handler: Handler, concurrency: int) -> None:
    """Run `handler` for each event until the sink closes."""

    @trio.lowlevel.enable_ki_protection
    async def work() -> None:
        async for event in sink:
            try:
                async with sink.process(event):
                    await _call(handler, event)
            except Exception as error:  # noqa: BLE001 - the handler is the user's: whatever it raises, the loop lives on
                sink.log_failure(event, error)

    async with _open_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(work)


@attrs.define(eq=False)
class OrderedLoop:
    """The handler loop with a lane for each topic; see the module's theory of operation."""

    sink: "Sink"
    intake: Intake
    handler: Handler
    concurrency: int
    retry_base: float
    _lanes: dict[str, deque[Event]] = attrs.field(factory=dict[str, deque[Event]], init=False)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Run the handler for each event until the sink closes."""
        running = trio.Semaphore(self.concurrency)
        held = trio.Semaphore(self.concurrency * _HELD)
        try:
            async with _open_nursery() as nursery:
                while True:
                    await held.acquire()
                    event = await self.intake.buffer.take()
                    if event is None:
                        break
                    self.intake.start_processing(event)
                    lane = self._lanes.get(event.topic)
                    if lane is None:
                        self._lanes[event.topic] = lane = deque[Event]()
                        nursery.start_soon(self._run_lane, event.topic, lane, running, held)
                    lane.append(event)
        finally:
            for lane in self._lanes.values():
                for event in lane:
                    self.intake.hand_back_later(event, HANDED_BACK_MS)
                    self.intake.end_processing(event)
            self._lanes.clear()

    @trio.lowlevel.enable_ki_protection
    async def _run_lane(
        self, topic: str, lane: deque[Event], running: trio.Semaphore, held: trio.Semaphore
    ) -> None:
        async with running:
            while lane:
                event = lane[0]
                if not self.intake.is_closing:
                    await self._deal_with(event)
                # An event that was not dealt with is pending, and closing hands it back.
                lane.popleft()
                self.intake.end_processing(event)
                held.release()
        del self._lanes[topic]

    async def _deal_with(self, event: Event) -> None:
        limit, grace = self.intake.max_deliveries, self.intake.grace
        attempt = event.deliveries
        while True:
            try:
                await _call(self.handler, event)
            except Exception as error:  # noqa: BLE001 - the handler is the user's: whatever it raises, the loop lives on
                self.sink.log_failure(event, error)
                hopeless = isinstance(error, UnreadablePayloadError)
                if hopeless or (limit is not None and attempt >= limit):
                    given_up = event._replace(deliveries=attempt)
                    await self._bury(given_up, f"the handler raised {describe_error(error)}")
                    return
                if await self._is_closing_within(retry_delay(attempt, grace, self.retry_base)):
                    return
                attempt += 1
            else:
                await self._acknowledge(event)
                return

    async def _acknowledge(self, event: Event) -> None:
        try:
            await self.sink.ack(event)
        except RedisError as error:
            self._log("acknowledgement failed", event, error)
            self.sink.ack_nowait(event)

    async def _bury(self, event: Event, why: str) -> None:
        """Bury an event; where the server refuses that, nothing of its topic overtakes it."""
        pace = Pace()
        while True:
            try:
                await self.sink.reject(event, why)
            except RedisError as error:
                self._log("dead letter not written", event, error)
                # A reply is lost only without acknowledgements, and then the letter may be there.
                is_over = isinstance(error, LinkLostError | LinkClosedError)
                if is_over or await self._is_closing_within(pace.failed()):
                    return
            else:
                return

    def _log(self, what: str, event: Event, error: RedisError) -> None:
        self.intake.log.warning(
            what, stream=event.stream, event=event.id, error=describe_error(error)
        )

    async def _is_closing_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.intake.closing.wait()
        return self.intake.is_closing
