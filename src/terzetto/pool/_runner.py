"""How a worker runs jobs: by calls to an object, or as tasks of a function.

One runner per worker. The worker calls `start`, `stop` and `notify` for one key
one after the other, for different keys at the same time.

Theory of operation of a task, from `start` to its end:

    starting --started()--------> running   start returns
    starting --returns----------> ended     start returns, then `ended` is called
    starting --raises-----------> gone      start raises it
    running  --returns----------> ended     `ended(key, None)`
    running  --raises, restarts left--> waiting --back-off--> running again,
                                after `restarting(key, crash)`
    running  --raises, none left--> ended   `ended(key, crash)`
    any      --stop-------------> gone      stop returns when it is over
"""

import random
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import attrs
import trio

from terzetto._shared._brief import finish, is_brief
from terzetto.errors import TerzettoError
from terzetto.pool._checks import check_count, check_seconds
from terzetto.pool._codec import JobBody
from terzetto.pool._job import (
    Ended,
    Handler,
    JobFunction,
    JobHandler,
    NotifiedHandler,
    Restarting,
    read_job,
)

_NOTIFICATIONS = 1000
_LONGEST_DELAY = 30.0

Spawn = Callable[[Callable[[], Awaitable[None]]], object]
BriefStart = Callable[[JobBody], None]


class JobHangsError(TerzettoError):
    """A job did not stop within its grace; it still runs."""


class NotificationLostError(TerzettoError):
    """The job has not read 1000 notifications yet; this one was dropped."""


@attrs.frozen(kw_only=True)
class JobPolicy:
    """What a worker does with jobs that crash or will not stop.

    Attributes:
        grace: seconds that a job has to end once it is stopped.
        max_restarts: how often a function that crashed after it had started is run again.
        backoff: seconds before the first restart; doubled for each further one.
    """

    grace: float = 5.0
    max_restarts: int = 3
    backoff: float = 0.1

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        check_seconds("grace", self.grace, zero=True)
        check_seconds("backoff", self.backoff, zero=True)
        check_count("max_restarts", self.max_restarts)


class Runner(Protocol):
    """What a worker asks of either form."""

    brief_start: BriefStart | None
    """What starts a job at once, in any task, and raises what the handler raises; None where
    a start may wait."""

    async def start(self, body: JobBody) -> None:
        """Start a job; raises what the handler raises."""
        ...

    async def stop(self, key: str) -> None:
        """Stop a job; raises if it still runs."""
        ...

    async def notify(self, key: str, payload: bytes) -> None:
        """Hand a notification to a job."""
        ...


def runner_for(
    handler: Handler, *, policy: JobPolicy, spawn: Spawn, restarting: Restarting, ended: Ended
) -> Runner:
    """Return the runner for either form of handler, which has been checked."""
    if callable(handler) and not (hasattr(handler, "start") and hasattr(handler, "stop")):
        return TaskRunner(handler, policy, spawn, restarting, ended)
    return ObjectRunner(cast("JobHandler", handler), policy)


def _ended_channel() -> trio.MemoryReceiveChannel[bytes]:
    send, receive = trio.open_memory_channel[bytes](0)
    send.close()
    return receive


@attrs.define
class ObjectRunner:
    """Calls an object's methods."""

    handler: JobHandler
    policy: JobPolicy
    _nothing: trio.MemoryReceiveChannel[bytes] = attrs.field(factory=_ended_channel)
    """What the jobs have as notifications, which come to the handler itself."""
    brief_start: BriefStart | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Look once whether starts wait for anything."""
        start = self.handler.start
        if is_brief(start):
            self.brief_start = lambda body: finish(start(read_job(body, self._nothing)))

    async def start(self, body: JobBody) -> None:
        """Call the handler's start."""
        await self.handler.start(read_job(body, self._nothing))

    async def stop(self, key: str) -> None:
        """Call the handler's stop, within the grace."""
        with trio.move_on_after(self.policy.grace) as scope:
            await self.handler.stop(key)
        if scope.cancelled_caught:
            raise JobHangsError(f"job {key!r} did not stop within {self.policy.grace} s")

    async def notify(self, key: str, payload: bytes) -> None:
        """Call the handler's notify, if it has one."""
        if isinstance(self.handler, NotifiedHandler):
            await self.handler.notify(key, payload)
        else:
            await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class _Status:
    """What a job's function is given as `task_status`."""

    settled: trio.Event
    """The job has started, or is over."""
    is_started: bool = False

    def started(self, value: None = None) -> None:  # noqa: ARG002 - trio's signature
        """Note that the job has started; a second time changes nothing."""
        self.is_started = True
        self.settled.set()


@attrs.define(eq=False)
class _Task:
    """One job's task."""

    body: JobBody
    send: trio.MemorySendChannel[bytes]
    receive: trio.MemoryReceiveChannel[bytes]
    """What each run has a clone of, so that one that closes it takes it from no later run."""
    settled: trio.Event = attrs.field(factory=trio.Event)
    status: _Status = attrs.field(
        default=attrs.Factory(lambda self: _Status(self.settled), takes_self=True)
    )
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)
    failure: Exception | None = None
    stopped: bool = False


@attrs.define(eq=False)
class TaskRunner:
    """Runs a function as a task for each job."""

    function: JobFunction
    policy: JobPolicy
    spawn: Spawn
    restarting: Restarting
    ended: Ended
    brief_start: BriefStart | None = attrs.field(default=None, init=False)
    _tasks: dict[str, _Task] = attrs.field(factory=dict[str, _Task])

    async def start(self, body: JobBody) -> None:
        """Run the function until it has started, ended, or failed."""
        send, receive = trio.open_memory_channel[bytes](_NOTIFICATIONS)
        task = _Task(body, send, receive)
        self._tasks[body.key] = task

        async def run() -> None:
            await self._run(task)

        self.spawn(run)
        try:
            await task.settled.wait()
        except BaseException:
            # Whoever asked is gone: the task ends by itself, unheard.
            task.stopped = True
            task.scope.cancel()
            raise
        if task.failure is not None and not task.status.is_started:
            raise task.failure

    async def stop(self, key: str) -> None:
        """Cancel the task and wait for its end, within the grace."""
        task = self._tasks.get(key)
        if task is None:
            await trio.lowlevel.checkpoint()
            return
        task.stopped = True
        task.send.close()
        task.scope.cancel()
        with trio.move_on_after(self.policy.grace) as scope:
            await task.over.wait()
        if scope.cancelled_caught:
            raise JobHangsError(f"job {key!r} did not end within {self.policy.grace} s")

    async def notify(self, key: str, payload: bytes) -> None:
        """Put a notification into the job's channel."""
        task = self._tasks.get(key)
        if task is None or task.over.is_set():
            await trio.lowlevel.checkpoint()
            return
        if task.send.statistics().open_receive_channels < 2:  # noqa: PLR2004 - ours, and the run's
            await trio.lowlevel.checkpoint()  # the job closed its channel: it wants none
            return
        try:
            task.send.send_nowait(payload)
        except trio.WouldBlock as error:
            raise NotificationLostError(
                f"job {key!r} has {_NOTIFICATIONS} notifications unread: this one was dropped"
            ) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()  # the job is being stopped

    async def _run(self, task: _Task) -> None:
        key = task.body.key
        crash: Exception | None = None
        try:
            crash = await self._live(task)
        finally:
            task.failure = crash
            task.send.close()
            task.receive.close()
            if self._tasks.get(key) is task:
                del self._tasks[key]
            task.over.set()
            task.settled.set()
        if not task.stopped and (task.status.is_started or crash is None):
            self.ended(key, crash)

    async def _live(self, task: _Task) -> Exception | None:
        """Run the function, again after a crash; return the crash that is final."""
        # User code runs here: its errors become this job's fate and nobody else's.
        # The outer try is for groups, which leave the scope with the cancellation
        # taken out of them.
        try:
            with task.scope:
                notes = task.receive.clone()
                for attempt in range(self.policy.max_restarts + 1):
                    try:
                        with notes:
                            job = read_job(task.body, notes)
                            await self.function(job, task_status=task.status)
                    except Exception as crash:  # noqa: BLE001 - a boundary of user code
                        if not task.status.is_started or attempt == self.policy.max_restarts:
                            return crash
                        self.restarting(task.body.key, crash)
                        notes = task.receive.clone()  # what comes meanwhile is for the next run
                    else:
                        return None
                    delay = min(self.policy.backoff * 2 ** min(attempt, 20), _LONGEST_DELAY)
                    await trio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        except Exception as crash:  # noqa: BLE001 - a boundary of user code
            return crash
        return None
