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
Either way the delivery limit ends it, and the loop goes on.

Called by `Sink.handle`, in the caller's task.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

import attrs
import trio

from terzetto.streaming._claims import HANDED_BACK_MS, retry_delay
from terzetto.streaming._event import Event
from terzetto.streaming._intake import Intake
from terzetto.streaming._typed import Handler, UnreadablePayloadError

if TYPE_CHECKING:
    from terzetto.streaming._sink import Sink

_HELD: Final = 4


async def run_unordered(sink: "Sink", handler: Handler, concurrency: int) -> None:
    """Run `handler` for each event until the sink closes."""

    async def work() -> None:
        async for event in sink:
            try:
                async with sink.process(event):
                    await handler(event)
            except Exception as error:  # noqa: BLE001 - the handler is the user's: whatever it raises, the loop lives on
                sink.log_failure(event, error)

    async with trio.open_nursery() as nursery:
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

    async def run(self) -> None:
        """Run the handler for each event until the sink closes."""
        running = trio.Semaphore(self.concurrency)
        held = trio.Semaphore(self.concurrency * _HELD)
        try:
            async with trio.open_nursery() as nursery:
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
                await self.handler(event)
            except Exception as error:  # noqa: BLE001 - the handler is the user's: whatever it raises, the loop lives on
                self.sink.log_failure(event, error)
                hopeless = isinstance(error, UnreadablePayloadError)
                if hopeless or (limit is not None and attempt >= limit):
                    given_up = attrs.evolve(event, deliveries=attempt)
                    await self.sink.reject(given_up, f"the handler raised {error!r}")
                    return
                if await self._is_closing_within(retry_delay(attempt, grace, self.retry_base)):
                    return
                attempt += 1
            else:
                await self.sink.ack(event)
                return

    async def _is_closing_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.intake.closing.wait()
        return self.intake.is_closing
