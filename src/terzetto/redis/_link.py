"""One connection to one server, kept alive, and the replies that come by it.

Theory of operation
-------------------
Requests wait and are written as `_queue.py` says. A third task, the reader, feeds
hiredis, and resumes the caller of the oldest written request for each reply,
directly through `trio.lowlevel.reschedule`.

`run` connects, serves until the connection is lost, and connects again, until
`close`. At a loss, what had any byte left unsent goes back to the head
of `_queue` (the server needs a command whole to run it), and so does what is
safe to run twice, but for a request whose reply is what is too long; everything else in
`_written` fails with `LinkLostError(may_have_run=True)`. What waits in `_queue` goes on waiting.

The client, dedicated links and pub/sub have one each; `_actors.py` runs them.
"""

from collections.abc import Awaitable, Callable
from sys import maxsize
from typing import Final

import trio
from redis.exceptions import RedisError
from trio.lowlevel import current_task, reschedule, wait_task_rescheduled

from terzetto.redis._connection import Connection, reconnect
from terzetto.redis._errors import (
    AuthError,
    ConnectError,
    LinkClosedError,
    ReplyError,
    ReplyTooLongError,
)
from terzetto.redis._io import Transport
from terzetto.redis._queue import BROKEN, MOST_IN_BATCH, RequestQueue
from terzetto.redis._reader import ReplyReader, malformed
from terzetto.redis._request import LinkStatus, Seat, State, lost, reason_of, sort_out
from terzetto.redis._url import Options
from terzetto.redis._watchdog import watch
from terzetto.redis._wire import NEED_MORE, Push, Reply, bounded, drop_push

_REFUSED_PAUSE: Final = 30.0  # seconds until credentials that were refused are tried unasked


class Link(RequestQueue):
    """A kept connection; see the module's theory of operation."""

    def __init__(
        self,
        options: Options,
        name: str,
        *,
        first: Connection | None = None,
        on_push: Callable[[list[Reply]], bool] = drop_push,
    ) -> None:
        super().__init__(options.max_in_flight, options.logger.bind(link=name, url=options.url))
        self.options, self.name, self.first = options, name, first
        self.on_status: Callable[[], None] | None = None
        self.endpoint = options.endpoint  # of the last connection
        self.client_id = 0
        self.patience = 0.0  # seconds that a blocking command may add to server_timeout
        self._on_push = on_push
        self._life, self._scope = trio.CancelScope(), trio.CancelScope()  # of `run`, a connection
        self._nursery: trio.Nursery | None = None  # of the connection
        self.reads = 0  # counted so that the watch sees whether the server says anything
        self.turns_given = 0  # of the scheduler, to all others, when bytes have come
        self._changed = trio.Event()
        self.status = LinkStatus(state="reconnecting", since=trio.current_time())

    def __repr__(self) -> str:
        return (
            f"<Link {self.name} {self.options.url} {self.status.state}, "
            f"{len(self._queue)} queued, {len(self._written)} written>"
        )

    def start_soon(self, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a function in the background, until the connection of this moment ends.

        Not while it ends: what it would wait for is settled then.
        """
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

    # The connection's life

    @trio.lowlevel.enable_ki_protection
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
                    try:
                        await self._read(transport, connection.reader)
                    finally:
                        self._nursery = None  # which closes when the others have ended too
        finally:
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
        again += self._queue
        self._queue.clear()
        for request in again:
            if request.epoch or request.task is None:  # a notice hears of it; a caller has left
                request.resume(lost(reason_of(error), may_have_run=False, cause=error))
            else:
                self._queue.append(request)
        for request in gone:
            request.resume(lost(reason_of(error), may_have_run=True, cause=error))
        self._make_room()
        if self._closed:
            self._refuse_queue()
        else:
            self.log.warning("connection lost", reason=reason_of(error), lost=len(gone))
            self._set_status("reconnecting", error=error)

    def _set_status(self, state: State, attempts: int = 0, error: Exception | None = None) -> None:
        since = self.status.since if state == self.status.state else trio.current_time()
        self.status = LinkStatus(state=state, since=since, attempts=attempts, error=error)
        self._changed.set()
        self._changed = trio.Event()
        if self.on_status is not None:
            self.on_status()

    # The reader

    @trio.lowlevel.enable_ki_protection
    async def _read(self, transport: Transport, reader: ReplyReader) -> None:
        try:
            await self._read_replies(transport, reader)
        except ReplyTooLongError as error:
            self._fail_oldest(error)
            self.drop(error)
        except (OSError, RedisError, MemoryError, *BROKEN) as error:
            self.drop(error)
        except (TypeError, LookupError) as error:  # a map with keys of lists, a push without parts
            self.drop(malformed(error))

    def _fail_oldest(self, error: ReplyTooLongError) -> None:
        """Let a request fail that would be sent again, and its reply be too long again.

        Where pushes come too it may be one of them that is too long.
        """
        if self._on_push is drop_push and self._written and self._written[0].repeatable:
            self._written.popleft().resume(error)

    async def _read_replies(  # noqa: C901 - the hot loop: a call for each reply would cost a tenth
        self, transport: Transport, reader: ReplyReader
    ) -> None:
        written, on_push = self._written, self._on_push
        drop_first = written.popleft
        partial = 0
        while True:
            size = await transport.receive_into(reader, self.turns_given)
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
                    if type(request) is Seat:
                        drop_first()
                        # As Seat.resume does it, without the call.
                        task = request.task
                        if task is not None:
                            request.task = None
                            request.value = reply
                            reschedule(task, request)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - it unwraps
                    elif request.take(reply):
                        drop_first()
                        self._go_on(request)
                reply = gets()
            replies = before - len(written)
            if replies and self._batch < maxsize:  # as many were woken, and may ask again
                self._batch = min(replies, MOST_IN_BATCH) - 1
            if not self._limit:  # somebody waits for room
                self._make_room()
            if self._retiring and not written:
                self.drop(self._retiring)
