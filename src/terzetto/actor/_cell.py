"""The cell of an actor: mailbox and identity, and the task that runs one life after another.

Theory of operation
-------------------
A life is one task of the root's shielded nursery. It makes the actor, runs
`started`, handles messages until it is asked to end or crashes, and then goes
through the closing in this order, whatever the reason:

1. no new messages (unless the actor will be restarted: then the mailbox stays);
2. the message in hand has one grace period to finish, then it is cancelled;
3. children stop, last one first, each within its own grace period;
4. what is unhandled goes to `handed_back`, unless this life crashed;
5. `stopping`, which shares one further grace period with `handed_back`;
6. background tasks are cancelled and waited for.

A request to end only sets `ending` and a deadline on the scope around the
work, or wakes the idle task; everything else happens in the life's own task.

Invariants: user code runs in here and nowhere else in the kernel; a `Cancelled`
leaves only if it belongs to a scope outside of the life; every asker is
answered before the life is reported as ended, except those whose messages wait
in a mailbox that is kept.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import attrs
import trio

from terzetto._shared._texts import describe_error
from terzetto.actor._actor import Actor, message_table, resolve
from terzetto.actor._current import Waiter, current_cell
from terzetto.actor._errors import (
    ActorCrashedError,
    ActorStoppedError,
    MessageError,
    Reject,
    StrayCancelledError,
)
from terzetto.actor._events import CutOff, describe_stop
from terzetto.actor._mailbox import Mailbox
from terzetto.actor._message import Handler, Message
from terzetto.actor._node import Node
from terzetto.actor._types import Ending, Exit, LifeEnd, Stop

if TYPE_CHECKING:
    from terzetto.actor._context import Context
    from terzetto.actor._supervisor import SupervisorCell

BATCH = 64  # messages that a life handles at most before it lets other tasks run


@attrs.define(eq=False, kw_only=True)
class ActorCell(Node):
    """The runtime of one actor."""

    factory: Callable[[], Actor]
    grace: float
    mailbox: Mailbox
    table: dict[Any, Handler] = attrs.field(factory=dict[Any, Handler])
    actor_type: type[Actor] | None = None
    waiting_on: list[Waiter] = attrs.field(factory=list[Waiter])
    current: Message | None = None
    children: "SupervisorCell | None" = None
    stop_asked: bool = False
    _crash: BaseException | None = None
    _work: trio.CancelScope | None = None
    _closing: trio.CancelScope | None = None
    _forced: bool = False
    _unanswered: dict[Message, None] | None = None  # what an actor with its own `run` holds
    _pump_scope: trio.CancelScope | None = None
    _pumped: trio.Event | None = None
    _background: dict[trio.CancelScope, None] | None = None
    _background_done: trio.Event | None = None

    # What others ask of it ---------------------------------------------------------------

    def handler(self, method: object) -> Handler:
        """Return what to call for `method`, or raise `MessageError`."""
        if self.actor_type is None:
            raise MessageError(f"{self.path!r} has not started yet: wait until it has")
        return resolve(self.actor_type, method)

    def waits_for(self) -> Iterable[Waiter]:
        """Return those that its handler is waiting for."""
        return self.waiting_on

    async def deadline(self) -> float:
        """Return until when the asker of the message in hand waits."""
        message = self.current
        if message is None:
            await trio.lowlevel.checkpoint()
            return math.inf
        return await message.deadline()

    def apply_ending(self) -> None:
        """Let the message in hand have its grace; wake the task if it is idle."""
        if self.ending is not None and self.ending is not Ending.RESTART:
            self.mailbox.close(describe_stop(self.ending.reason))
        if self.ending is not Ending.SHUTDOWN and self._work is not None:
            self._work.deadline = min(self._work.deadline, trio.current_time() + self.grace)
        self.mailbox.wake()

    def stop_self(self) -> None:
        """End this life normally, after the message in hand."""
        self.stop_asked = True
        if self.restart != "permanent":
            self.mailbox.close(describe_stop(Stop.NORMAL))
        self.mailbox.wake()

    def force(self) -> None:
        """End the grace periods now."""
        self._forced = True
        for scope in (self._work, self._closing):
            if scope is not None:
                scope.cancel()
        if self.children is not None:
            self.children.force()

    def bound(self) -> float:
        """Return the seconds within which it ends once it is asked to."""
        below = self.children.bound() if self.children is not None else 0.0
        return 2 * self.grace + below

    @property
    def is_open(self) -> bool:
        """Whether a life runs and has not begun to close."""
        return self._work is not None and self.state in ("starting", "running")

    def fail(self, error: BaseException) -> None:
        """Crash the actor from outside its task: a background task or its children failed."""
        if self._crash is None:
            self._crash = error
        if self._work is not None:
            self._work.cancel()

    def finish(self, exit_: Exit) -> None:
        """Resolve; what is still in the mailbox becomes dead letters."""
        self.mailbox.close(describe_stop(exit_.reason))
        left = self._messages_in_hand() + self.mailbox.drain()
        if self.children is not None:
            self.children.finish_all(exit_)
        for message in left:
            message.refuse(self.mailbox.stopped_error())
        self.bury(left)
        super().finish(exit_)

    def bury(self, messages: Sequence[Message], reason: str = "unhandled") -> None:
        """Make dead letters of `messages`."""
        for message in messages:
            self.system.hub.dead(self.path, message, reason)

    # One life ----------------------------------------------------------------------------

    async def live(self) -> None:
        """Run one life, and report how it ended."""
        current_cell.set(self)
        self._crash = None
        self.stop_asked = self._forced = False
        self._work = scope = trio.CancelScope()
        if self.ending is not None:  # asked to end before its task came to run
            self.apply_ending()
        actor: Actor | None = None
        is_up = False
        try:
            with scope:
                actor = self._make()
                context = self.system.context_of(self)
                if type(actor).started is not Actor.started:
                    await actor.started(context)
                if self._crash is None:
                    is_up = True
                    self.note_started()
                    if type(actor).run is Actor.run:
                        await self._handle_messages(actor)
                    else:
                        await self._run(actor, context)
        except BaseException as error:  # noqa: BLE001 - the boundary of user code; see _triage
            crash = await self._triage(error)
            # A start that was overtaken by a stop finds others stopped: that is no crash.
            if is_up or self.ending is None or not isinstance(crash, ActorStoppedError):
                self._crash = crash
        self.note_ended(await self._close(actor if is_up else None))

    def _make(self) -> Actor:
        actor = self.factory()
        if not isinstance(actor, Actor):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise MessageError(
                f"the factory of {self.path!r} made a {type(actor).__name__}, no Actor"
            )
        if type(actor) is not self.actor_type:
            self.actor_type = type(actor)
            self.table = message_table(self.actor_type)
        return actor

    @trio.lowlevel.enable_ki_protection
    async def _triage(self, error: BaseException) -> BaseException:
        """Tell a cancellation of the whole tree, which passes on, from a crash."""
        is_cancelled = isinstance(error, trio.Cancelled)
        group: object = error
        if isinstance(group, BaseExceptionGroup):
            parts = cast("BaseExceptionGroup[BaseException]", group)
            found, rest = parts.split(trio.Cancelled)
            if found is not None and rest is not None:
                return rest
            is_cancelled = found is not None
        if is_cancelled:
            # One that belongs to a scope around us is raised anew by this very line,
            # so no captured Cancelled travels; one that belongs to none is a crash.
            await trio.lowlevel.checkpoint_if_cancelled()
            stray = StrayCancelledError(
                f"{self.path!r} raised a trio.Cancelled that belongs to no scope around it: "
                "never keep a Cancelled to raise it later"
            )
            stray.__cause__ = error
            return stray
        return error

    async def _handle_messages(self, actor: Actor) -> None:  # noqa: C901 - a call for each part would cost every message
        mailbox = self.mailbox
        queue = mailbox.queue
        handled = 0
        while True:
            if self.stop_asked or (self.ending is not None and self.ending is not Ending.SHUTDOWN):
                return
            if not queue:
                if self.ending is not None:
                    return
                await mailbox.wait()
                handled = 0
                continue
            handled += 1
            if handled > BATCH:
                handled = 0
                await trio.lowlevel.checkpoint()
                continue
            # From here on every line is paid for by every message.
            self.current = message = queue.popleft()
            if mailbox.has_senders:
                mailbox.admit()
            try:
                work = message.method(actor, *message.args, **message.kwargs)
            except TypeError as error:
                self._misfit(message, error)
                continue
            try:
                value = await work
            except Reject as refusal:
                message.refuse(refusal.error)
            else:
                if message.asker is not None:
                    message.answer(value)
            self.current = None

    def _misfit(self, message: Message, error: TypeError) -> None:
        """Turn away a message whose arguments do not fit; that is no crash of the actor."""
        self.current = None
        if message.is_asked:
            message.refuse(message.misfit(error))
        else:
            self.bury([message], "misfit")

    # An actor with a `run` of its own ----------------------------------------------------

    async def _run(self, actor: Actor, context: "Context[Any]") -> None:
        """Feed the inbox from the mailbox while `run` iterates it."""
        send, receive = trio.open_memory_channel[Message](0)
        self._unanswered = {}
        self._pumped = trio.Event()
        self._pump_scope = self.start_soon(self._pump, (send, self._pumped), "inbox")
        with receive:
            await actor.run(context, receive)
        self.current = None
        self.stop_asked = True
        self.mailbox.wake()

    async def _pump(self, send: "trio.MemorySendChannel[Message]", ended: trio.Event) -> None:
        """Move messages from the mailbox to the inbox, each when `run` asks for it."""
        try:
            with send:
                await self._pump_into(send)
        finally:
            ended.set()

    async def _pump_into(self, send: "trio.MemorySendChannel[Message]") -> None:
        mailbox = self.mailbox
        while not self.stop_asked and self.ending in (None, Ending.SHUTDOWN):
            if not mailbox.queue:
                if self.ending is not None:
                    return
                await mailbox.wait()
                continue
            try:
                message = await mailbox.offer_to(send)
            except trio.BrokenResourceError:
                return  # run has returned
            if message is not None and not self.stop_asked:
                self.current = message
                self._note_received(message)

    def _note_received(self, message: Message) -> None:
        """Remember who is owed an answer should `run` end without giving it."""
        if self._unanswered is None or not message.is_asked:
            return
        if len(self._unanswered) >= BATCH:
            self._unanswered = {m: None for m in self._unanswered if m.is_asked}
        self._unanswered[message] = None

    # Background tasks --------------------------------------------------------------------

    def start_soon(
        self, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...], name: str
    ) -> trio.CancelScope:
        """Start a task whose crash is the actor's crash; return the scope that ends it."""
        scope = self._add_background(name)
        self.system.spawn(self._in_background, f"{self.path}: {name}", fn, args, scope)
        return scope

    async def start(
        self, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...], name: str
    ) -> Any:  # noqa: ANN401 - as trio's own Nursery.start
        """Start a task and wait until it says that it has started."""
        scope = self._add_background(name)
        return await self.system.start(
            partial(self._in_background_once_started, fn, args, scope), f"{self.path}: {name}"
        )

    def _add_background(self, name: str) -> trio.CancelScope:
        if self._work is None:
            raise ActorStoppedError(f"{self.path!r} is not running: it cannot start {name!r}")
        if self._background is None:
            self._background = {}
        scope = trio.CancelScope()
        self._background[scope] = None
        return scope

    async def _in_background(
        self, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...], scope: trio.CancelScope
    ) -> None:
        current_cell.set(None)
        try:
            with scope:
                await fn(*args)
        except BaseException as error:  # noqa: BLE001 - the boundary of user code; see _triage
            self.fail(await self._triage(error))
        finally:
            self._background_ended(scope)

    async def _in_background_once_started(
        self,
        fn: Callable[..., Awaitable[object]],
        args: tuple[Any, ...],
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[Any],
    ) -> None:
        current_cell.set(None)
        status = _Status(task_status)
        try:
            with scope:
                await fn(*args, task_status=status)
        except BaseException as error:
            if not status.called:
                raise  # to the one who waits in `start`
            self.fail(await self._triage(error))
        finally:
            self._background_ended(scope)

    def _background_ended(self, scope: trio.CancelScope) -> None:
        if self._background is not None:
            self._background.pop(scope, None)
            if not self._background and self._background_done is not None:
                self._background_done.set()

    async def _end_background(self) -> None:
        if self._background:
            self._background_done = trio.Event()
            for scope in list(self._background):
                scope.cancel()
            await self._background_done.wait()
        self._background = self._background_done = None

    # The closing -------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def _close(self, actor: Actor | None) -> LifeEnd:
        """Carry out the closing, and return how the life ended."""
        if self._pump_scope is not None and self._pumped is not None:
            # What `run` has received must have left the mailbox before that is drained.
            self._pump_scope.cancel()
            await self._pumped.wait()
            self._pump_scope = self._pumped = None
        reason = self._reason()
        cut_off = self._messages_in_hand()
        if self._crash is not None:
            self._fail_messages(cut_off, self._crash)
        if self.children is not None:
            await self.children.stop_with_owner(self.ending or Ending.CLOSE)
            self.children = None
        until = trio.current_time() + (0 if self._forced else self.grace)
        if self._crash is None:
            if self._keeps_mailbox():
                self._refuse(cut_off, "was restarted in the middle of it")
                self.bury(cut_off, "restarted")
            elif actor is not None:
                await self._hand_back(actor, cut_off + self.mailbox.drain(), until)
        if actor is not None and type(actor).stopping is not Actor.stopping:
            await self._hook(actor.stopping, reason, until)
        self._work = None
        await self._end_background()
        if self._crash is not None:
            reason = Stop.CRASHED
        return LifeEnd(reason, self._crash)

    def _messages_in_hand(self) -> list[Message]:
        """Take what was begun and not finished: one message, or more of an actor with `run`."""
        unanswered, self._unanswered = self._unanswered, None
        in_hand = dict.fromkeys(message for message in unanswered or () if message.is_asked)
        current, self.current = self.current, None
        if current is not None and not current.is_done:
            in_hand[current] = None
        return list(in_hand)

    def _fail_messages(self, messages: list[Message], crash: BaseException) -> None:
        for message in messages:
            if message.is_asked:
                error = ActorCrashedError(
                    f"{self.path!r} crashed on {message.name}: {describe_error(crash)}"
                )
                error.__cause__ = crash
                message.refuse(error)
        self.bury(messages, "crashed")

    def _refuse(self, messages: list[Message], what: str) -> None:
        for message in messages:
            message.refuse(
                ActorStoppedError(f"{self.path!r} did not answer {message.name}: it {what}")
            )

    async def _hand_back(self, actor: Actor, messages: list[Message], until: float) -> None:
        self.mailbox.close(describe_stop(self._reason()))
        if not messages:
            return
        self._refuse(messages, describe_stop(self._reason()))
        if type(actor).handed_back is Actor.handed_back:
            self.bury(messages)
        elif not await self._hook(actor.handed_back, messages, until):
            self.bury(messages, "hand back failed")

    async def _hook(
        self, hook: Callable[[Any], Awaitable[None]], argument: object, until: float
    ) -> bool:
        """Run a hook of the closing; return whether it came to its end."""
        scope = trio.CancelScope(deadline=until)
        self._closing = scope
        try:
            with scope:
                await hook(argument)
                return True
        except BaseException as error:  # noqa: BLE001 - the boundary of user code; see _triage
            self._crash_late(await self._triage(error))
        if scope.cancelled_caught:
            self.system.hub.emit(CutOff(path=self.path, hook=getattr(hook, "__name__", repr(hook))))
        return False

    def _crash_late(self, error: BaseException) -> None:
        """Note a crash of the closing; the crash that began it stays the one that counts."""
        if self._crash is None:
            self._crash = error
        else:
            self._crash.add_note(f"its closing raised too: {describe_error(error)}")

    def _reason(self) -> Stop:
        if self._crash is not None:
            return Stop.CRASHED
        if self.ending is not None:
            return self.ending.reason
        return Stop.NORMAL

    def _keeps_mailbox(self) -> bool:
        if self.ending is not None:
            return self.ending is Ending.RESTART
        return self.restart == "permanent"


@attrs.define(eq=False)
class _Status:
    """A `trio.TaskStatus` that remembers whether it was called."""

    inner: trio.TaskStatus[Any]
    called: bool = False

    def started(self, value: object = None) -> None:
        self.inner.started(value)
        self.called = True
