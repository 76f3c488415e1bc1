"""Runs task functions, judges how they ended, and has the outcome written.

Theory of operation. The crew is an actor whose hands are background tasks. A hand
takes one waiting lease after the other: it runs the function, gives the slot back,
begins the task that is held for a free slot, if there is one (`_held.py`), writes the
outcome, and lies down when none waits; the fetcher, and hands that leave some waiting,
resume others directly: no mailbox and no new task are on a task's way, and for functions
that wait for nothing not even a turn of the scheduler, or a cancel scope.
Each attempt has a deadline and a context (in the sense of `contextvars`) of its own all
the same.

Successes are written by one more background task, all at once that have come up
while the last ones were on their way. Other outcomes are written by the hand itself.
Whoever writes waits while Redis is away, and the lease is kept in mind; an error
reply is tried again, for each task apart, until it is written or the lease is lost.

At the end of a life, the functions that run have `shutdown_timeout` to finish;
then they are cancelled and their tasks handed back. A function that ignores its
cancellation is waited for, as trio does, and its lease is not given away meanwhile.
If the life ended by a crash, the next hands back what was not written in that time.

Nothing that a function raises crashes the crew, but for KeyboardInterrupt.
"""

import contextvars
import operator
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import attrs
import trio
from redis.exceptions import RedisError
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    cancel_shielded_checkpoint,
    current_task,
    reschedule,
    wait_task_rescheduled,
)

from terzetto._shared._logging import Logger
from terzetto._shared._pause import Pause
from terzetto._shared._texts import describe_error, printable
from terzetto.actor import Actor, Context, Stop
from terzetto.redis import LinkClosedError
from terzetto.tasks._attempt import Attempt, HandedBackError, attempt_deadline
from terzetto.tasks._broker_values import Completion, Lease
from terzetto.tasks._context import TaskContext
from terzetto.tasks._core import Bell, Core
from terzetto.tasks._limiter import Limiter
from terzetto.tasks._retry import (
    Fate,
    LeaseLostError,
    TaskCancelledError,
    TaskTimeoutError,
    error_text,
)
from terzetto.tasks._trace import follow_trace
from terzetto.tasks._user_code import own_error, raise_foreign

LAST_WORDS: Final = 5.0
"""Seconds that outcomes and hand-backs have to be written when a life ends."""

_AWAKE: Final = object()
_CALLED: Final = 2  # hands that one hand calls
_HOOK_PATIENCE: Final = 10.0  # seconds that the user's error handler may take
_TOO_EARLY: Final = 0.001  # seconds before its deadline that an attempt may be cancelled


Write: TypeAlias = Callable[[], Awaitable[bool]]
"""Writes an outcome; returns False if the lease is lost."""


@attrs.define(eq=False, kw_only=True)
class CrewActor(Actor):
    """One life of the crew."""

    core: Core
    limiter: Limiter
    _ctx: Context["CrewActor"] = attrs.field(init=False)
    _waiting: deque[Lease] = attrs.field(factory=deque[Lease])
    """What no hand has taken yet; while there is any, a hand has been called."""
    _resting: list[Task] = attrs.field(factory=list[Task])
    _succeeded: list[tuple[Attempt, Completion]] = attrs.field(
        factory=list[tuple[Attempt, Completion]]
    )
    _success: Bell = attrs.field(factory=Bell)

    async def started(self, ctx: Context["CrewActor"]) -> None:
        """Be there for the fetcher."""
        self._ctx = ctx
        ctx.start_soon(self._write_successes)
        self._hand_back_left()
        self.core.crew = self
        self.core.work.ring()

    def _hand_back_left(self) -> None:
        """Hand back what a crew that crashed has left: nobody else would settle it."""
        for attempt in self.core.running.values():
            self.core.counts.handed_back += 1
            requeue = partial(self.core.broker.requeue, attempt.lease)
            self._ctx.start_soon(self._settle, attempt, requeue)

    async def stopping(self, reason: Stop) -> None:  # noqa: ARG002 - all reasons are alike
        """Let what runs finish for a while, then hand it back."""
        core = self.core
        core.crew = None
        core.work.ring()  # what is held goes back
        with trio.move_on_after(core.options.shutdown_timeout):
            await core.wait_quiet()
        for attempt in list(core.running.values()):
            attempt.end(HandedBackError())
        with trio.move_on_after(LAST_WORDS):
            await core.wait_quiet()

    def begin(self, leases: Sequence[Lease]) -> None:
        """Start an attempt with each; slots have been taken for them."""
        self._call_hand()
        self._waiting.extend(leases)

    def cancel(self, lease: Lease, *, drop: bool) -> None:
        """Write that a task was cancelled whose function had no slot yet."""
        core, now = self.core, self.core.broker.now()
        attempt = Attempt(lease, core.broker, now, now, trio.CancelScope(), is_running=False)
        attempt.drop = drop
        self._ctx.start_soon(self._refuse, attempt)
        core.began(attempt)

    async def _refuse(self, attempt: Attempt) -> None:
        """Judge an attempt that was cancelled before it began."""
        try:
            outcome = await self._conclude(attempt, None, TaskCancelledError())
        except BaseException:  # cancelled, say: nobody writes an outcome that would settle it
            self.core.settled(attempt)
            raise
        if isinstance(outcome, Completion):
            self._succeed(attempt, outcome)
        else:
            await self._settle(attempt, outcome)

    def _call_hand(self) -> None:
        """Have one more hand look for leases that wait."""
        if self._resting:
            reschedule(self._resting.pop())
        else:
            self._ctx.start_soon(self._work, name="hand")

    async def _work(self) -> None:
        """Be one hand, for ever."""
        task, waiting, resting = current_task(), self._waiting, self._resting
        fresh = task.context.copy()

        def leave(_: RaiseCancelT) -> Abort:
            resting.remove(task)
            return Abort.SUCCEEDED

        while True:
            # Functions that wait for nothing are run by this hand alone, one after the other.
            # In case that the first does wait: those who are called call others in turn, so
            # that all are begun within a few turns of the scheduler.
            for _ in range(min(len(waiting) - 1, _CALLED)):
                self._call_hand()
            while waiting:
                await self._attempt_some(task, fresh)
                if not _is_untouched(task.context, fresh):
                    # Whatever a function did to its context ends with it; this takes
                    # effect when the hand is resumed.
                    task.context = fresh.copy()
                    await cancel_shielded_checkpoint()
            resting.append(task)
            await wait_task_rescheduled(leave)

    async def _attempt_some(self, task: Task, fresh: contextvars.Context) -> None:
        """Make one attempt, and others after it in the same cancel scope while that is the same.

        It is, as long as functions succeed without having waited and leave no trace in their
        context: nobody can have cancelled the scope, and its deadline can be the next one's.
        """
        core, waiting, scope = self.core, self._waiting, trio.CancelScope()
        attempt = self._begin(waiting.popleft(), scope)
        try:
            wait = 0.0
            if core.options.limits:
                wait = await self.limiter.admit(attempt)
            if wait == 0.0:
                result: bytes | None = None
                error: BaseException | None = None
                # User code runs here; its errors are the task's and nobody else's. The try is
                # around the scope, for groups leave it with the cancellation taken out of them.
                try:
                    with scope:
                        while True:
                            task.custom_sleep_data = _AWAKE  # trio replaces it when a task waits
                            result = await self._call(attempt)
                            if (
                                not waiting
                                or task.custom_sleep_data is not _AWAKE
                                or core.options.limits
                                or not _is_untouched(task.context, fresh)
                            ):
                                break
                            self._end(attempt)
                            if core.held.leases:  # this hand goes on with what waits
                                self._take_held(is_by_another=True)
                            self._succeed(attempt, Completion(attempt.lease, result))
                            attempt = self._begin(waiting.popleft(), scope)
                except KeyboardInterrupt:
                    raise
                except BaseException as raised:  # noqa: BLE001 - see above
                    error = own_error(raised)
                outcome = await self._conclude(attempt, result, error)
            else:
                core.counts.postponed += 1
                outcome = self._retry(attempt, wait, None, is_failure=False)
        except BaseException:
            core.settled(attempt)
            raise
        finally:
            self._end(attempt)
        self._take_held(is_by_another=not isinstance(outcome, Completion))
        if isinstance(outcome, Completion):
            self._succeed(attempt, outcome)
        else:
            await self._settle(attempt, outcome)

    def _begin(self, lease: Lease, scope: trio.CancelScope) -> Attempt:
        """Take note of an attempt that begins, and give the scope its deadline."""
        core, message = self.core, lease.message
        now = core.broker.now()
        deadline_at = attempt_deadline(message, now)
        deadline = trio.current_time() + deadline_at - now
        if not 0.0 <= deadline - scope.deadline < _TOO_EARLY:
            scope.deadline = deadline
        attempt = Attempt(lease, core.broker, now, deadline_at, scope)
        core.began(attempt)
        return attempt

    def _call(self, attempt: Attempt) -> Awaitable[bytes | None]:
        """Return what runs the function when it is awaited."""
        if attempt.deadline_at <= attempt.started_at:
            raise TaskTimeoutError
        message = attempt.lease.message
        if message.headers:
            follow_trace(message.headers)  # until the hand's context is a fresh one
        return self.core.find(message.type)(self._context_of(attempt))

    def _context_of(self, attempt: Attempt) -> TaskContext:
        return TaskContext(attempt.lease.message, attempt.deadline_at, attempt, self.core.log)

    def _end(self, attempt: Attempt) -> None:
        """Take note that a function is over, and give its slot back, once."""
        if attempt.is_running:  # not where Ctrl-C strikes between two attempts
            attempt.is_running = False
            self.core.function_ended()

    def _take_held(self, *, is_by_another: bool) -> None:
        """Have a task that is held begun in a slot that is free, if there is one."""
        if self.core.held.leases and (lease := self.core.take_held()) is not None:
            if is_by_another:
                self._call_hand()
            self._waiting.append(lease)

    def _succeed(self, attempt: Attempt, completion: Completion) -> None:
        """Leave a success to whoever writes them."""
        self.core.counts.succeeded += 1
        self._succeeded.append((attempt, completion))
        self._success.ring()

    async def _settle(self, attempt: Attempt, write: Write | None) -> None:
        """Write an outcome, if there is one to write; then the attempt is over."""
        try:
            if write is not None:
                try:
                    await self._write(attempt, write)
                except LinkClosedError:
                    raise
                except Exception as error:  # noqa: BLE001 - it cannot be sent: the task fails by that
                    await self._write_failure(attempt, error)
            if attempt.places:
                await self.limiter.leave(attempt)
        finally:
            self.core.settled(attempt)

    async def _write_failure(self, attempt: Attempt, error: Exception) -> None:
        """Write that a task failed whose outcome could not be written."""
        outcome = await self._judge(attempt, error)
        if isinstance(outcome, Completion):
            outcome = self._alone(outcome)
        if outcome is not None:
            await self._write(attempt, outcome)

    async def _write_successes(self) -> None:
        """Write successes, as many at once as there are, for ever."""
        while True:
            await self._success.wait()
            # The fetcher asks first, so that the next tasks run while Redis writes this.
            await trio.lowlevel.checkpoint()
            while self._succeeded:
                batch, self._succeeded = self._succeeded, []
                try:
                    await self._write_batch(batch)
                except LinkClosedError:
                    raise
                except Exception:  # noqa: BLE001 - what one of them has brought about
                    # Each for itself, lest one that is refused hold up the others.
                    for attempt, each in batch:
                        self._ctx.start_soon(self._settle, attempt, self._alone(each))

    def _alone(self, each: Completion) -> Write:
        complete = self.core.broker.complete
        return partial(complete, each.lease, result=each.result, retain=each.retain)

    async def _write_batch(self, batch: list[tuple[Attempt, Completion]]) -> None:
        held = [pair for pair in batch if not pair[0].is_lost]
        written = await self.core.broker.complete_many([each for _, each in held])
        for (attempt, _), is_written in zip(held, written, strict=True):
            # Not what a renewal says that came to Redis after this, and found no lease.
            attempt.is_lost = not is_written
        for attempt, _ in batch:
            if attempt.is_lost:
                self._tell_lost(attempt)
            if attempt.places:
                self._ctx.start_soon(self._settle, attempt, None)
            else:
                self.core.settled(attempt)

    async def _conclude(
        self, attempt: Attempt, result: bytes | None, error: BaseException | None
    ) -> Completion | Write | None:
        """Return the outcome of a function that is over, None if nothing is to be written."""
        core = self.core
        if attempt.scope.cancelled_caught or (error is not None and attempt.reason is not None):
            reason = attempt.reason or TaskTimeoutError()
            reason.__cause__ = error
            error = reason
        if attempt.is_lost:
            error = error if isinstance(error, LeaseLostError) else LeaseLostError()
        if error is None:
            return Completion(attempt.lease, result)
        if isinstance(error, HandedBackError):
            core.counts.handed_back += 1
            return partial(core.broker.requeue, attempt.lease)
        return await self._judge(attempt, error)

    async def _judge(self, attempt: Attempt, error: BaseException) -> Completion | Write | None:
        """Tell the user's hook of an error; return the outcome."""
        core, lease, context = self.core, attempt.lease, self._context_of(attempt)
        await self._tell(context, error)
        if attempt.is_lost:
            core.counts.lost += 1
            return None
        verdict = core.options.retry.judge(lease.message, error)
        if verdict.complaint:
            context.log.warning("a hook of the server's did not work", text=verdict.complaint)
        if verdict.fate is Fate.DONE:
            return Completion(lease, retain=False)
        shown = printable(error)
        if verdict.fate is Fate.ARCHIVE or attempt.drop:
            core.counts.archived += 1
            context.log.warning("a task failed for good", error=verdict.text, exc_info=shown)
            return partial(core.broker.archive, lease, error=verdict.text)
        core.counts.retried += 1
        if verdict.is_failure:
            context.log.warning(
                "a task failed", error=verdict.text, retry_in=verdict.delay, exc_info=shown
            )
        else:
            context.log.info("a task is put off", error=verdict.text, retry_in=verdict.delay)
        return self._retry(attempt, verdict.delay, verdict.text, is_failure=verdict.is_failure)

    def _retry(
        self, attempt: Attempt, delay: float, error: str | None, *, is_failure: bool
    ) -> Write:
        core = self.core

        async def retry() -> bool:
            at = core.broker.now() + delay
            kept = await core.broker.retry(attempt.lease, at=at, error=error, is_failure=is_failure)
            if at < core.forward_at:
                core.due.ring()
            return kept

        return retry

    async def _tell(self, context: TaskContext, error: BaseException) -> None:
        hook = self.core.options.error_handler
        if hook is None:
            return
        try:
            with trio.move_on_after(_HOOK_PATIENCE) as scope:
                await hook(context, error)
        except BaseException as raised:  # a boundary of user code
            raise_foreign(raised)
            context.log.warning(
                "the error handler failed", error=error_text(raised), exc_info=printable(raised)
            )
            return
        if scope.cancelled_caught:
            context.log.warning("the error handler took too long", seconds=_HOOK_PATIENCE)

    async def _write(self, attempt: Attempt, write: Write) -> None:
        """Write an outcome, however long it takes, unless the lease is lost."""
        pause = Pause()
        while not attempt.is_lost:
            try:
                if await write():
                    return
                attempt.is_lost = True
            except LinkClosedError:
                raise
            except RedisError as error:
                # Refused (out of memory, read only): the lease is kept until it is taken.
                self._log(attempt).warning(
                    "Redis refused the outcome of a task", error=describe_error(error)
                )
                await trio.sleep(pause.failed())
        self._tell_lost(attempt)

    def _tell_lost(self, attempt: Attempt) -> None:
        self.core.counts.lost += 1
        self._log(attempt).warning(
            "the outcome of a task was not written: its lease was lost, and it runs elsewhere"
        )

    def _log(self, attempt: Attempt) -> Logger:
        message = attempt.lease.message
        return self.core.log.bind(
            task_id=message.id, task_type=message.type, queue=attempt.lease.queue
        )


def _is_untouched(context: contextvars.Context, fresh: contextvars.Context) -> bool:
    """Return whether a copy of `fresh` has the very same values still.

    Variables are added at most: a function has no token that could take out one of ours.
    """
    return len(context) == len(fresh) and all(map(operator.is_, context.values(), fresh.values()))
