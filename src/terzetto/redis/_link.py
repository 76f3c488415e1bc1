"""One connection to one server, kept alive, and the queue of requests on it.

Theory of operation
-------------------
A request lives in one of two queues. In `_queue` it has not been written; in
`_written` it has, and its reply will come in exactly that order. Three tasks
work on them while a connection is there:

* the caller's own: it appends its request to `_queue` and sleeps. If the link is
  idle (both queues empty) it writes it itself, one or a unit, which saves a turn;
* the writer gathers all that was queued in one turn of the scheduler, moves it
  to `_written`, and sends it with one system call. In a busy turn a caller does
  so for each `_BATCH`, and the server works on it while the turn goes on;
* the reader feeds hiredis, and resumes the caller of the oldest written request
  for each reply, directly through `trio.lowlevel.reschedule`.

A caller that is cancelled empties its request (`task` becomes None). Not yet
written, it is never sent; written, it keeps its place and its reply is dropped,
so replies never slip to another caller.

`run` connects, serves until the connection is lost, and connects again, until
`close`. At a loss, what had any byte left unsent goes back to the head
of `_queue` (the server needs a command whole to run it), and so does what is
safe to run twice; everything else in `_written` fails with
`LinkLostError(may_have_run=True)`. What waits in `_queue` goes on waiting.

The client, dedicated links and pub/sub have one each; `_actors.py` runs them.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from sys import maxsize
from typing import Final, cast

import trio
from redis.exceptions import RedisError
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    checkpoint,
    checkpoint_if_cancelled,
    current_task,
    reschedule,
    wait_task_rescheduled,
)

from terzetto.redis._connection import Connection, reconnect
from terzetto.redis._errors import AuthError, ConnectError, LinkClosedError, ReplyError
from terzetto.redis._io import Transport
from terzetto.redis._reader import ReplyReader, malformed
from terzetto.redis._request import (
    Blocking,
    LinkStatistics,
    LinkStatus,
    Notice,
    Request,
    State,
    Unit,
    closed,
    lost,
    reason_of,
    sort_out,
)
from terzetto.redis._url import Options
from terzetto.redis._watch import watch
from terzetto.redis._wire import NEED_MORE, Push, Reply, bounded, drop_push

_REFUSED_PAUSE: Final = 30.0  # seconds until credentials that were refused are tried unasked
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
_BATCH: Final = 50  # requests that do not wait for the turn's end: at 300 bytes, a server's read


class Link:
    """A kept connection; see the module's theory of operation."""

    def __init__(
        self,
        options: Options,
        name: str,
        *,
        first: Connection | None = None,
        on_push: Callable[[list[Reply]], bool] = drop_push,
    ) -> None:
        self.options, self.name, self.first = options, name, first
        self.on_status: Callable[[], None] | None = None
        self.log = options.logger.bind(link=name, url=options.url)
        self.endpoint = options.endpoint  # of the last connection
        self.client_id = 0
        self.patience = 0.0  # seconds that a blocking command may add to server_timeout
        self.connections, self.epoch = 0, 0  # the epoch is 0 while there is none
        self._on_push = on_push
        self._queue: deque[Request] = deque()
        self._written: deque[Request] = deque()
        self._room = trio.lowlevel.ParkingLot()
        self._max = options.max_in_flight
        self._limit = self._max  # 0 while there is a crowd, or the link is closed
        self._closed = False
        self._burst = False  # the last read woke several tasks: let the writer gather
        self._rest = memoryview(b"")  # what the system would not take yet
        self._transport: Transport | None = None
        self._send_now: Callable[[bytes], int] | None = None  # None: the writer is to send
        self._batch = maxsize  # `_BATCH` where callers may send what has been queued
        self._notices: list[Request] = []
        self._writer: Task | None = None  # the writer, while it sleeps
        self._life, self._scope = trio.CancelScope(), trio.CancelScope()  # of `run`, a connection
        self._nursery: trio.Nursery | None = None  # of the connection
        self._loss = self._retiring = cast("Exception | None", None)
        self.reads = 0  # counted so that the watch sees whether the server says anything
        self._changed = trio.Event()
        self.status = LinkStatus(state="reconnecting", since=trio.current_time())

    def __repr__(self) -> str:
        return (
            f"<Link {self.name} {self.options.url} {self.status.state}, "
            f"{len(self._queue)} queued, {len(self._written)} written>"
        )

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

    # The caller's side

    async def request(self, data: bytes, repeatable: bool = False) -> Reply:  # noqa: FBT001, FBT002 - by position, it is the hot path
        """Send a packed command and return its reply.

        Errors are returned, not raised: an error reply; `LinkLostError` if the
        connection was lost after the request was written, unless `repeatable`
        lets the link write it again; `LinkClosedError` if the link was closed
        before. Cancelling withdraws what is not written yet, and leaves the rest
        to run without a witness.
        """
        request = Request(current_task(), data, repeatable)
        send = self._send_now
        if send is not None and not self._written and not self._queue:
            await checkpoint_if_cancelled()
            if self._send_now is send:
                self._write_through(request, send)
                return await wait_task_rescheduled(request.abort)
        queue = self._queue
        waiting = len(queue)
        if waiting + len(self._written) >= self._limit:
            await self._wait_for_room()
            if self._closed:
                return closed()
        elif waiting >= self._batch:
            self._flush()  # without this request: its caller may be cancelled already
        queue.append(request)
        writer = self._writer
        if writer is not None:
            self._writer = None
            reschedule(writer)
        return await wait_task_rescheduled(request.abort)

    async def request_unit(
        self, data: bytes, count: int, *, repeatable: bool = False, epoch: int = 0
    ) -> Reply:
        """Send `count` packed commands in one piece; return the list of their replies.

        Error replies stand in the list; other errors are returned in its stead, as
        in `request`. With `epoch` the unit is for that connection only:
        `LinkLostError(may_have_run=False)` if it is over.
        """
        await checkpoint_if_cancelled()
        if len(self._queue) + len(self._written) >= self._limit:
            await self._wait_for_room()
            if self._closed:
                return closed()
        if epoch not in (0, self.epoch):
            await checkpoint()
            return lost("the connection that this belongs to is gone", may_have_run=False)
        request = Unit(current_task(), data, count=count, repeatable=repeatable, epoch=epoch)
        self._queue.append(request)
        if self._send_now is not None and not self._written and len(self._queue) == 1:
            self._flush()
        else:
            self._wake_writer()
        return await wait_task_rescheduled(request.abort)

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
        notice = Notice(data)
        send = self._send_now
        if self._transport is None or self._closed:
            notice.done.set()
        elif send is not None and not (self._written or self._queue or self._notices):
            self._write_through(notice, send)
        else:
            self._notices.append(notice)
            self._wake_writer()
        return notice

    def start_soon(self, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a function in the background, until the connection of this moment ends."""
        if self._nursery is not None:
            self._nursery.start_soon(fn, *args)

    def drop(self, error: Exception) -> None:
        """Give the connection up, as if it had been lost by `error`; the link opens another."""
        if self._transport is not None and self._loss is None:
            self._loss = error
            self._forbid_send()
            self._scope.cancel()

    def retire(self, error: Exception) -> None:
        """Open another connection because of `error`, once all that is on its way has its reply."""
        if self._transport is not None and self._loss is None:
            self._retiring = error
            self._forbid_send()
            if not self._written:
                self.drop(error)

    async def wait_connected(self) -> None:
        """Wait until there is a connection; raises `LinkClosedError` if the link is closed."""
        while self.status.state != "connected":
            if self.status.state == "closed":
                raise LinkClosedError("the link to Redis has been closed: open another")
            await self._changed.wait()

    async def wait_changed(self) -> LinkStatus:
        """Wait for the next change of `status` and return it."""
        await self._changed.wait()
        return self.status

    async def _wait_for_room(self) -> None:
        """Wait until the queues are shorter; at once if cancelled requests can be thrown out."""
        live = [request for request in self._queue if request.task is not None]
        self._queue.clear()
        self._queue.extend(live)
        full = len(live) + len(self._written) >= self._max
        if not self._closed and (full or self._room):
            self._limit = 0  # whoever comes later stands behind
            await self._room.park()

    def _write_through(self, request: Request, send: Callable[[bytes], int]) -> None:
        """Write a request from its caller's own task: nobody else waits for anything."""
        try:
            sent = send(request.data)
        except OSError as error:
            self._queue.append(request)
            self.drop(error)
        else:
            self._written.append(request)
            if sent < len(request.data):
                self._hold(memoryview(request.data)[sent:])

    # The connection's life

    async def run(self) -> None:
        """Keep the link connected until `close` or cancelling; at a crash it may be run again."""
        if self._closed:
            return
        self._life = trio.CancelScope()
        with self._life:
            while True:
                connection = self.first or await reconnect(self.options, self._note_failure)
                self.first = None
                await self._serve(connection)

    def close(self) -> None:
        """End the link at once: what was not written fails with `LinkClosedError`."""
        if self._closed:
            return
        self._closed = True
        self._limit = 0
        self._forbid_send()
        if self.first is not None:
            self.first.transport.close()
            self.first = None
        self._refuse_queue()
        self._set_status("closed", error=self.status.error)
        self._room.unpark_all()
        self._life.cancel()

    async def _note_failure(self, attempts: int, error: ConnectError) -> None:
        self._set_status("reconnecting", attempts, error)
        self.log.debug("cannot reconnect", attempts=attempts, error=str(error))
        if isinstance(error, AuthError):  # trying again helps nobody: until somebody asks again
            self._refuse_queue(error)
            self._make_room()
            with trio.move_on_after(_REFUSED_PAUSE):
                self._writer = current_task()
                await wait_task_rescheduled(self._leave_writer)

    async def _serve(self, connection: Connection) -> None:
        transport = connection.transport
        self._attach(connection)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._write, transport)
                    nursery.start_soon(watch, self)
                    await self._read(transport, connection.reader)
        finally:
            self._nursery = None
            self._detach(transport)

    def _attach(self, connection: Connection) -> None:
        self.connections += 1
        self.epoch = self.connections
        self.client_id, self.endpoint = connection.client_id, connection.endpoint
        self._loss = None
        self._scope = trio.CancelScope()
        self._rest = memoryview(b"")
        self._transport = connection.transport
        self._allow_send()
        if self.connections > 1:
            outage = trio.current_time() - self.status.since
            self.log.info("reconnected", seconds=round(outage, 3), attempts=self.status.attempts)
        self._set_status("connected")

    def _detach(self, transport: Transport) -> None:
        """Sort what was under way into what waits for the next connection and what is lost."""
        transport.close()
        self._forbid_send()
        self._transport = self._writer = None
        self.epoch = 0
        error = self._loss
        self._loss = self._retiring = None
        again, gone = sort_out(self._written, unsent=len(self._rest))
        for notice in self._notices:
            notice.resume(None)
        self._notices.clear()
        again += self._queue
        self._queue.clear()
        for request in again:
            if request.epoch:
                request.resume(lost(reason_of(error), may_have_run=False, cause=error))
            elif request.task is not None:
                self._queue.append(request)
            else:
                request.resume(None)  # heard by a notice; a caller has left
        for request in gone:
            request.resume(lost(reason_of(error), may_have_run=True, cause=error))
        if self._closed:
            self._refuse_queue()
        else:
            self.log.warning("connection lost", reason=reason_of(error), lost=len(gone))
            self._set_status("reconnecting", error=error)

    def _refuse_queue(self, error: Exception | None = None) -> None:
        for request in self._queue:
            request.resume(AuthError(str(error)) if error else closed())
        self._queue.clear()

    def _set_status(self, state: State, attempts: int = 0, error: Exception | None = None) -> None:
        since = self.status.since if state == self.status.state else trio.current_time()
        self.status = LinkStatus(state=state, since=since, attempts=attempts, error=error)
        self._changed.set()
        self._changed = trio.Event()
        if self.on_status is not None:
            self.on_status()

    # The three tasks of a connection

    async def _write(self, transport: Transport) -> None:
        try:
            while True:
                if self._rest:
                    await transport.wait_writable()
                    self._rest = self._rest[transport.send_now(self._rest) :]
                    if not self._rest:
                        self._allow_send()
                elif self._retiring or (not self._queue and not self._notices):
                    self._writer = current_task()
                    await wait_task_rescheduled(self._leave_writer)
                elif transport.can_send_now:
                    self._flush()
                elif data := self._take():
                    await transport.send_all(data)
        except (OSError, *_BROKEN) as error:
            self.drop(error)

    def _flush(self) -> None:
        """Send what is queued, from any task, as far as the system takes it."""
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
        self._queue.clear()
        if self._notices:
            live += self._notices
            self._notices.clear()
        self._written.extend(live)
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
            self._send_now = None if self._burst else transport.send_now
            self._batch = _BATCH

    def _forbid_send(self) -> None:
        self._send_now, self._batch = None, maxsize

    def _wake_writer(self) -> None:
        writer = self._writer
        if writer is not None:
            self._writer = None
            reschedule(writer)

    def _leave_writer(self, _: RaiseCancelT) -> Abort:
        self._writer = None
        return Abort.SUCCEEDED

    async def _read(self, transport: Transport, reader: ReplyReader) -> None:
        try:
            await self._read_replies(transport, reader)
        except (OSError, RedisError, MemoryError, *_BROKEN) as error:
            self.drop(error)
        except (TypeError, LookupError) as error:  # a map with keys of lists, a push without parts
            self.drop(malformed(error))

    async def _read_replies(  # noqa: C901 - the hot loop: a call for each reply would cost a tenth
        self, transport: Transport, reader: ReplyReader
    ) -> None:
        written, on_push = self._written, self._on_push
        drop_first = written.popleft
        partial = 0
        while True:
            size = await transport.receive_into(reader)
            if not size:
                raise trio.BrokenResourceError("the server closed the connection")
            self.reads += 1
            gets = reader.gets
            reply = gets()
            if reply is NEED_MORE:
                partial = bounded(partial + size, self.options.max_reply_bytes)
                continue
            partial = 0
            before = len(written)
            while reply is not NEED_MORE:
                if type(reply) is not Push or not on_push(reply):
                    if not written:
                        raise ReplyError("the server sent a reply that nobody asked for")
                    request = written[0]
                    if type(request) is Request:
                        drop_first()
                        # As Request.resume does it, without the call.
                        task = request.task
                        if task is not None:
                            request.task = None
                            request.value = reply
                            reschedule(task, request)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - it unwraps
                    elif request.take(reply):
                        drop_first()
                reply = gets()
            burst = before - len(written) > 1
            if burst is not self._burst:
                self._burst = burst
                self._allow_send()
            if self._room:
                self._make_room()
            if self._retiring and not written:
                self.drop(self._retiring)

    def _make_room(self) -> None:
        self._room.unpark(count=max(0, self._max - len(self._written) - len(self._queue)))
        if not self._room:
            self._limit = self._max
