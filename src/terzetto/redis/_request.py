"""A request on its way: what is sent, who waits, how the waiting ends; and a link's condition.

Made by `RequestQueue`, the caller's side of a link; resumed by the link's reader
with a reply, or by the link with an error when the connection or the link ends.
"""

from collections import deque
from collections.abc import Callable, Container, Generator, Sequence
from types import coroutine
from typing import Final, Literal, TypeAlias, cast

import attrs
import outcome
import trio
from redis.exceptions import RedisError
from trio.lowlevel import Abort, RaiseCancelT, Task, reschedule, wait_task_rescheduled

from terzetto._shared._logging import Logger
from terzetto.redis._errors import LinkClosedError, LinkLostError
from terzetto.redis._wire import Arg, Reply

State: TypeAlias = Literal["connected", "reconnecting", "closed"]
"""How a link stands with its server."""

Glance: TypeAlias = Callable[[list[Reply]], Sequence[Sequence[Arg]] | None]
"""Looks at replies a turn of the scheduler before their caller is resumed.

If it returns commands, these are sent at once, and the caller goes on waiting for their replies.
"""

Look: TypeAlias = Callable[[list[Reply]], tuple[bytes, int] | None]
"""A glance as a link has it, which never raises: what follows, packed, and how many commands."""


_NOBODY: Final = cast("Task", object())
"""Stands for a task that waits where none does; without one, a caller has left."""


@attrs.frozen(kw_only=True)
class LinkStatus:
    """What a link is doing.

    Attributes:
        state: "connected", "reconnecting" or "closed".
        since: when it came into that state, by `trio.current_time()`.
        attempts: attempts to reconnect that have failed in this outage.
        error: why the connection was lost, or the last attempt failed; None while connected.
    """

    state: State
    since: float
    attempts: int = 0
    error: Exception | None = None


@attrs.frozen(kw_only=True)
class LinkStatistics:
    """Figures of a link at one moment.

    Attributes:
        queued: requests that have not been written yet.
        in_flight: requests that have been written and wait for their replies.
        crowd: callers who wait until there is room for their requests.
        connections: connections that were opened in the life of the link.
    """

    queued: int
    in_flight: int
    crowd: int
    connections: int


class Request:
    """A place in the queue of a link, for one command.

    It stands in for an `outcome.Outcome` when its task is resumed: trio calls
    `unwrap` and nothing else, and the request is there already.
    """

    __slots__ = ("data", "repeatable", "task", "value")

    count = 1
    epoch = 0

    def __init__(self, task: Task | None, data: bytes, repeatable: bool) -> None:  # noqa: FBT001 - by position, it is the hot path
        self.task = task
        self.data = data
        self.repeatable = repeatable

    def unwrap(self) -> Reply:
        return self.value

    def abort(self, raise_cancel: RaiseCancelT) -> Abort:
        """Let the caller go; the place in the queue stays."""
        del raise_cancel  # trio raises it by itself
        self.task = None
        return Abort.SUCCEEDED

    def resume(self, value: Reply) -> None:
        """Wake the caller, if it still waits, with a reply or an error to raise."""
        task = self.task
        if task is not None:
            self.task = None
            self.value = value
            reschedule(task, cast("outcome.Outcome[Reply]", self))

    def take(self, reply: Reply) -> bool:
        """Take a reply; True if it was the last one. Who still waits then is to be sent again."""
        self.resume(reply)
        return True

    def restart(self) -> None:
        """Forget what came of it: it is sent again."""


class Seat(Request):
    """A place for a plain command, which one caller takes after the other.

    What `wait_task_rescheduled` says to trio is kept with it: it only names `abort`, so it
    can be said for every wait. To say it anew would take a sixth of a busy client's time.
    """

    __slots__ = ("plea",)

    def __init__(self) -> None:
        super().__init__(None, b"", repeatable=False)
        self.plea: object = wait_task_rescheduled(self.abort).send(None)  # noqa: ASYNC105 - asked, not waited for


@trio.lowlevel.enable_ki_protection
@coroutine
def sleep(
    seat: Seat, spare: deque[Seat]
) -> Generator[object, "Seat | outcome.Outcome[Reply]", Reply]:
    """Sleep until a seat has its reply; return that, and leave the seat to others in `spare`.

    Cancelling leaves it where it stands: it may be in a queue, and nobody else can have it.
    """
    woken_with = yield seat.plea
    if woken_with is not seat:
        return woken_with.unwrap()
    reply = seat.value
    seat.data, seat.value = b"", None
    spare.append(seat)
    return reply


class Unit(Request):
    """A place for several commands, which nothing comes between.

    With `epoch` it belongs to that connection and is never sent on another. `look` is called
    with the replies in the task that read them, unless the caller has left. If it returns
    something, that is to be sent, and nobody is resumed.
    """

    __slots__ = ("count", "epoch", "look", "replies")

    def __init__(
        self,
        task: Task,
        data: bytes,
        *,
        count: int,
        repeatable: bool,
        epoch: int,
        look: Look | None,
    ) -> None:
        super().__init__(task, data, repeatable)
        self.count = count
        self.epoch = epoch
        self.look = look
        self.replies: list[Reply] = []

    def take(self, reply: Reply) -> bool:
        self.replies.append(reply)
        if len(self.replies) < self.count:
            return False
        replies, self.replies = self.replies, []
        following = None
        if self.look is not None and self.task is not None:
            following = self.look(replies)
        if following is None:
            self.resume(replies)
        else:
            self.data, self.count = following
        return True

    def restart(self) -> None:
        self.replies.clear()


class Blocking(Request):
    """A place for a command that waits on the server and may take something from it.

    Cancelled once it is written, it does not let its caller go at once: `unblock`
    asks the server to end the waiting. If the server had just answered, the
    caller gets the answer (and meets the cancellation at its next checkpoint),
    so nothing that was taken is lost. Else it is cancelled then, and `give_up`
    cancels it if the server does not answer at all.
    """

    __slots__ = ("_cancel", "_unblock", "_unwritten", "settled")

    def __init__(
        self,
        task: Task,
        data: bytes,
        unwritten: Container[Request],
        unblock: Callable[["Blocking"], None],
    ) -> None:
        super().__init__(task, data, repeatable=False)
        self.settled = trio.Event()
        self._unwritten = unwritten
        self._unblock = unblock
        self._cancel: RaiseCancelT | None = None

    def abort(self, raise_cancel: RaiseCancelT) -> Abort:
        if self in self._unwritten:
            return super().abort(raise_cancel)
        self._cancel = raise_cancel
        self._unblock(self)
        return Abort.FAILED

    def resume(self, value: Reply) -> None:
        self.settled.set()
        if self._cancel is not None and (value is None or isinstance(value, Exception)):
            self.give_up()
        else:
            super().resume(value)

    def give_up(self) -> None:
        """Cancel the caller now; a reply that comes later is dropped."""
        task = self.task
        if task is not None and self._cancel is not None:
            self.task = None
            reschedule(task, outcome.capture(self._cancel))


class Notice(Request):
    """A command whose reply nobody waits for; `done` is set when it came or never will.

    It is for the connection of its time only. `on_reply` is the user's code, in the task that
    all others wait for: what it raises is logged, for nobody could catch it.
    """

    __slots__ = ("_log", "done", "on_reply")

    epoch = 1

    def __init__(self, data: bytes, log: Logger) -> None:
        super().__init__(_NOBODY, data, repeatable=False)
        self._log = log
        self.done = trio.Event()
        self.on_reply: Callable[[Reply], None] | None = None  # called, not waited for

    def resume(self, value: Reply) -> None:
        self.task = None
        self.done.set()
        if self.on_reply is not None:
            try:
                self.on_reply(value)
            except Exception as error:  # noqa: BLE001 - the user's, and others wait behind it
                self._log.error("what was to hear of a reply raised", exc_info=error)


def sort_out(written: deque[Request], *, unsent: int) -> tuple[list[Request], list[Request]]:
    """Empty the queue of a lost connection; return what can be sent again, and what is lost.

    `unsent` bytes were not taken by the system: whatever has one of them has not
    run, since the server needs a command whole. What is `repeatable` may run twice.
    The oldest that has unsent bytes may be gone: a server can refuse what it has not read.
    """
    whole: deque[Request] = deque()
    while unsent > 0 and written:
        request = written.pop()
        unsent -= len(request.data)
        whole.appendleft(request)
    safe = [request for request in written if request.repeatable]
    gone = [request for request in written if not request.repeatable]
    written.clear()
    for request in safe:
        request.restart()
    return [*safe, *whole], gone


def lost(reason: str, *, may_have_run: bool, cause: Exception | None = None) -> LinkLostError:
    """Return the error of a request whose connection was lost, by `cause` where that is known."""
    outlook = (
        "the command may have run: read back before sending it again"
        if may_have_run
        else "the command has not run: it can be sent again"
    )
    error = LinkLostError(
        f"the connection to Redis was lost ({reason}); {outlook}", may_have_run=may_have_run
    )
    error.__cause__ = cause
    return error


def reason_of(error: Exception | None) -> str:
    """Return in words why a connection ended; None if it was by our own will."""
    return "the link was closed" if error is None else str(error) or type(error).__name__


def closed() -> LinkClosedError:
    """Return the error of a request that comes too late."""
    return LinkClosedError("the link to Redis is closed and nothing was sent: open another")


def as_list(value: Reply) -> list[Reply] | None:
    """Return a reply that is a list, typed; None if it is something else."""
    return value if isinstance(value, list) else None  # pyright: ignore[reportUnknownVariableType] - a Reply is Any


def replies_of(value: Reply) -> list[Reply | RedisError]:
    """Return what `Link.request_unit` gave as a list; raise it if it is an error instead."""
    if isinstance(value, Exception):
        raise value
    return cast("list[Reply | RedisError]", value)
