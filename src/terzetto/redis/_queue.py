"""The requests of a link: how they wait, how they are written, and who does so.

Theory of operation
-------------------
A request lives in one of two queues. In `_queue` it has not been written; in
`_written` it has, and its reply will come in exactly that order. Two tasks
work on them while a connection is there:

* the caller's own: it appends its request to `_queue` and sleeps. If that completes a
  batch (`_batch` others wait) it moves all to `_written` and sends them with one
  system call, which saves a turn, and the server works while the turn goes on. A batch
  is as many as the last read woke, who are likely to ask again in one turn, so one on
  an idle link; after each it is `MOST_IN_BATCH`, and never more;
* the writer sends what is queued at the end of a turn of the scheduler: it is woken by
  the first in the queue, for of those who were woken some may not ask again.

A caller that is cancelled empties its request (`task` becomes None). Not yet
written, it is never sent; written, it keeps its place and its reply is dropped,
so replies never slip to another caller. Ctrl-C is kept out of all this, for a caller
that it struck would be left in a queue: it comes where something waits. A plain
command's request is a `Seat`: once its reply has been taken, the next caller has it. A unit
whose look at its replies says what follows is written again, and its caller sleeps on.
A `Notice`, for whose reply nobody waits, stands in the same queues, so that what its
sender asks for later does not overtake it.

`Link` is the queue with a connection: it reads the replies, and says by
`_transport`, `_loss`, `_retiring` and `_closed` what may be written.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from sys import maxsize
from typing import Final, cast

import trio
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    current_task,
    reschedule,
    wait_task_rescheduled,
)

from terzetto._shared._logging import Logger
from terzetto.redis._errors import AuthError
from terzetto.redis._io import Transport
from terzetto.redis._request import (
    Blocking,
    LinkStatistics,
    Look,
    Notice,
    Request,
    Seat,
    Unit,
    closed,
    lost,
    sleep,
)
from terzetto.redis._wire import Reply

BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
"""What a transport raises when the connection is lost, beside OSError."""

MOST_IN_BATCH: Final = 50  # at 300 bytes each, it is what a server reads at once
_MOST_SPARE: Final = 1000  # seats that are kept for later callers


class RequestQueue(ABC):
    """What callers ask of a link, in order; see the module's theory of operation."""

    def __init__(self, max_in_flight: int, log: Logger) -> None:
        """Let as many requests wait, written or not; whoever comes later stands in a crowd."""
        self.log = log
        self.connections: int = 0
        self.epoch: int = 0  # 0 while there is no connection
        self._queue: deque[Request] = deque()
        self._written: deque[Request] = deque()
        self._spare: deque[Seat] = deque(maxlen=_MOST_SPARE)
        self._room = trio.lowlevel.ParkingLot()
        self._max = max_in_flight
        self._limit = self._max  # 0 while there is a crowd, or the link is closed
        self._closed = False
        self._rest = memoryview(b"")  # what the system would not take yet
        self._transport: Transport | None = None
        # Who finds as many in `_queue` sends them; `maxsize`: the writer does.
        self._batch = maxsize
        self._writer: Task | None = None  # the writer, while it sleeps
        self._loss = self._retiring = cast("Exception | None", None)

    @abstractmethod
    def drop(self, error: Exception) -> None:
        """Give the connection up, as if it had been lost by `error`."""

    @property
    def owing(self) -> bool:
        """Whether the server owes a reply."""
        return bool(self._written)

    def statistics(self) -> LinkStatistics:
        """Return the figures of this moment."""
        return LinkStatistics(
            queued=len(self._queue),
            in_flight=len(self._written),
            crowd=len(self._room),
            connections=self.connections,
        )

    @trio.lowlevel.enable_ki_protection
    def request(self, data: bytes, repeatable: bool = False) -> Awaitable[Reply]:  # noqa: FBT001, FBT002 - by position, it is the hot path
        """Send a packed command; its reply is to be awaited at once.

        Errors are returned, not raised: an error reply; `LinkLostError` if the
        connection was lost after the request was written, unless `repeatable`
        lets the link write it again; `ReplyTooLongError` if that would be for nothing;
        `LinkClosedError` if the link was closed before. Cancelling withdraws what is
        not written yet, and leaves the rest to run without a witness.
        """
        queue = self._queue
        waiting = len(queue)
        if waiting + len(self._written) >= self._limit:
            return self._request_later(data, repeatable=repeatable)
        if waiting >= self._batch:
            return self._complete_batch(data, repeatable=repeatable)
        # As in `_take_seat`, without the call.
        spare = self._spare
        seat = spare.pop() if spare else Seat()
        seat.task = current_task()
        seat.data = data
        seat.repeatable = repeatable
        queue.append(seat)
        writer = self._writer
        if writer is not None:
            self._writer = None
            reschedule(writer)
        return sleep(seat, spare)

    @trio.lowlevel.enable_ki_protection
    async def _request_later(self, data: bytes, *, repeatable: bool) -> Reply:
        await self._wait_for_room()
        if self._closed:
            return closed()
        seat = self._take_seat(data, repeatable=repeatable)
        self._queue.append(seat)
        self._wake_writer()
        return await sleep(seat, self._spare)

    @trio.lowlevel.enable_ki_protection
    async def _complete_batch(self, data: bytes, *, repeatable: bool) -> Reply:
        await checkpoint_if_cancelled()
        if len(self._queue) < self._batch:
            return await self.request(data, repeatable)
        seat = self._take_seat(data, repeatable=repeatable)
        transport = self._transport
        if transport is None or self._queue:
            self._queue.append(seat)
            self._flush()
        else:
            self._write_through(seat, transport)
        return await sleep(seat, self._spare)

    def _take_seat(self, data: bytes, *, repeatable: bool) -> Seat:
        seat = self._spare.pop() if self._spare else Seat()
        seat.task, seat.data, seat.repeatable = current_task(), data, repeatable
        return seat

    @trio.lowlevel.enable_ki_protection
    async def request_unit(
        self,
        data: bytes,
        count: int,
        *,
        repeatable: bool = False,
        epoch: int = 0,
        look: Look | None = None,
    ) -> Reply:
        """Send `count` packed commands in one piece; return the list of their replies.

        Error replies stand in the list; other errors are returned in its stead, as
        in `request`. With `epoch` the unit is for that connection only:
        `LinkLostError(may_have_run=False)` if it is over. `look` sees the list first, and may
        have something else sent in its place.
        """
        await checkpoint_if_cancelled()
        if len(self._queue) + len(self._written) >= self._limit:
            await self._wait_for_room()
            if self._closed:
                return closed()
        if epoch not in (0, self.epoch):
            await checkpoint()
            return lost("the connection that this belongs to is gone", may_have_run=False)
        request = Unit(
            current_task(), data, count=count, repeatable=repeatable, epoch=epoch, look=look
        )
        self._queue.append(request)
        if len(self._queue) > self._batch:
            self._flush()
        else:
            self._wake_writer()
        replies: Reply = await wait_task_rescheduled(request.abort)
        if look is not None:
            await cancel_shielded_checkpoint()  # whom it has woken goes first
        return replies

    @trio.lowlevel.enable_ki_protection
    async def request_blocking(self, data: bytes, unblock: Callable[[Blocking], None]) -> Reply:
        """Send a packed command that waits on the server; errors are returned as in `request`.

        Cancelled once it is written, it calls `unblock` and goes on waiting, as
        `Blocking` says; the caller of this sees to it that this comes to an end.
        """
        if self._closed:
            return closed()
        request = Blocking(current_task(), data, self._queue, unblock)
        self._queue.append(request)
        self._wake_writer()
        return await wait_task_rescheduled(request.abort)

    def notify(self, data: bytes) -> Notice:
        """Send a packed command whose reply nobody waits for, if there is a connection."""
        notice = Notice(data, self.log)
        transport = self._transport
        if transport is None or self._closed:
            notice.done.set()
        elif self._batch == 0 and not self._queue:
            self._write_through(notice, transport)
        else:
            self._queue.append(notice)
            self._wake_writer()
        return notice

    def _write_through(self, request: Request, transport: Transport) -> None:
        """Write a request from its caller's own task: nobody else waits to be written."""
        self._batch = MOST_IN_BATCH - 1
        try:
            sent = transport.send_now(request.data)
        except OSError as error:
            self._queue.append(request)
            self.drop(error)
        else:
            self._written.append(request)
            if sent < len(request.data):
                self._hold(memoryview(request.data)[sent:])

    def _go_on(self, request: Request) -> None:
        """Write what a request that was answered goes on with, if it does: at once if it can be."""
        transport = self._transport
        if request.task is None:
            return
        if transport is None or self._batch == maxsize or self._queue:
            self._queue.append(request)
            self._wake_writer()
        else:
            self._write_through(request, transport)
            if self._batch < maxsize:
                self._batch = 0  # its reply has woken nobody who may ask

    async def _wait_for_room(self) -> None:
        """Wait until the queues are shorter; at once if cancelled requests can be thrown out."""
        live = [request for request in self._queue if request.task is not None]
        if len(live) < len(self._queue):
            self._queue.clear()
            self._queue.extend(live)
            self._make_room()
        full = len(live) + len(self._written) >= self._max
        if not self._closed and (full or self._room):
            self._limit = 0  # whoever comes later stands behind
            try:
                await self._room.park()
            finally:
                self._open_if_nobody_waits()

    def _refuse_queue(self, error: Exception | None = None) -> None:
        for request in self._queue:
            request.resume(AuthError(str(error)) if error else closed())
        self._queue.clear()

    # Writing

    @trio.lowlevel.enable_ki_protection
    async def _write(self, transport: Transport) -> None:
        try:
            while True:
                if self._rest:
                    await transport.wait_writable()
                    self._rest = self._rest[transport.send_now(self._rest) :]
                    if not self._rest:
                        self._allow_send()
                elif self._retiring or not self._queue:
                    self._writer = current_task()
                    await wait_task_rescheduled(self._leave_writer)
                elif transport.can_send_now:
                    self._flush()
                elif data := self._take():
                    await transport.send_all(data)
        except (OSError, *BROKEN) as error:
            self.drop(error)

    def _flush(self) -> None:
        """Send what is queued, from any task, as far as the system takes it."""
        if self._batch < maxsize:
            self._batch = MOST_IN_BATCH - 1
        data = self._take()
        if data and self._transport is not None:
            self._rest = memoryview(data)  # should the send fail, all is unsent
            try:
                self._rest = self._rest[self._transport.send_now(data) :]
            except OSError as error:
                self.drop(error)
            if self._rest:
                self._hold(self._rest)

    def _take(self) -> bytes:
        live = [request for request in self._queue if request.task is not None]
        some_left = len(live) < len(self._queue)
        self._queue.clear()
        self._written.extend(live)
        if some_left:
            self._make_room()
        return live[0].data if len(live) == 1 else b"".join([request.data for request in live])

    def _hold(self, rest: memoryview) -> None:
        """Leave unsent bytes to the writer; nobody else may send before they have gone."""
        self._rest = rest
        self._forbid_send()
        self._wake_writer()

    def _allow_send(self) -> None:
        transport = self._transport
        held = self._rest or self._loss or self._retiring or self._closed
        if transport is not None and transport.can_send_now and not held:
            self._batch = 0

    def _forbid_send(self) -> None:
        self._batch = maxsize

    def _wake_writer(self) -> None:
        writer = self._writer
        if writer is not None:
            self._writer = None
            reschedule(writer)

    def _leave_writer(self, _: RaiseCancelT) -> Abort:
        self._writer = None
        return Abort.SUCCEEDED

    def _make_room(self) -> None:
        self._room.unpark(count=max(0, self._max - len(self._written) - len(self._queue)))
        self._open_if_nobody_waits()

    def _open_if_nobody_waits(self) -> None:
        if not self._room and not self._closed:
            self._limit = self._max
