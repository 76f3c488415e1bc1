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
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import attrs
import trio

from terzetto._shared._texts import add_note, describe_error
from terzetto.actor._actor import Actor, brief_handlers, message_table, resolve
from terzetto.actor._background import Background, triage
from terzetto.actor._brief import new_driver
from terzetto.actor._current import Waiter, current_cell
from terzetto.actor._errors import (
    ActorCrashedError,
    ActorStoppedError,
    MessageError,
    Reject,
)
from terzetto.actor._events import CutOff, describe_stop
from terzetto.actor._mailbox import Item, Mailbox, as_item, as_message
from terzetto.actor._message import Handler, Message, misfit
from terzetto.actor._node import Node
from terzetto.actor._question import Question
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
    turns: Iterator[int]
    """Counts what is told in this run of trio; senders let others run now and then."""

    table: dict[Any, Handler] = attrs.field(factory=dict[Any, Handler])
    brief: AbstractSet[Handler] = frozenset()
    """Those handlers that an asker may run while the actor rests (`_brief`)."""

    actor: Actor | None = None
    """The actor of the life that handles messages."""

    task: trio.lowlevel.Task | None = None
    """The task of the life."""

    drive: Callable[[Coroutine[Any, Any, Any]], object] = attrs.field(factory=new_driver)
    """Runs a brief handler."""

    run_in_context: Callable[..., Any] = attrs.field(init=False)
    """Calls a function in the context of that task."""

    actor_type: type[Actor] | None = None
    waiting_on: list[Waiter] = attrs.field(factory=list[Waiter])
    current: Item | None = None
    """The message in hand."""

    _received: Message | None = None  # the last one that an actor with its own `run` took
    children: "SupervisorCell | None" = None
    is_open: bool = False
    """Whether a life runs and has not come to its closing."""

    stop_asked: bool = False
    _handed_over: BaseException | None = None  # what a handler in its asker's task crashed with
    _crash: BaseException | None = None
    _work: trio.CancelScope | None = None
    _closing: trio.CancelScope | None = None
    _unanswered: dict[Message, None] | None = None  # what an actor with its own `run` holds
    _pump_scope: trio.CancelScope | None = None
    _pumped: trio.Event | None = None
    _background: Background | None = None

    # What others ask of it ---------------------------------------------------------------

    def handler(self, method: object) -> Handler:
        """Return what to call for `method`, or raise `MessageError`."""
        if self.actor_type is None:
            raise MessageError(f"{self.path!r} has not started yet: wait until it has")
        return resolve(self.actor_type, method)

    def has_messages(self) -> bool:
        """Whether messages wait in its mailbox."""
        return bool(self.mailbox.queue)

    @property
    def takes_while_waiting(self) -> bool:
        """Whether it may go on with messages while a task of its handler's waits."""
        return self.actor_type is not None and self.actor_type.run is not Actor.run

    def waits_for(self) -> Iterable[Waiter]:
        """Return those that its handler is waiting for, or that its start or its end is."""
        below = () if self.children is None or self.children.ending is None else (self.children,)
        return [*self.waiting_on, *below, *super().waits_for()]

    async def deadline(self) -> float:
        """Return until when the asker of the message in hand waits."""
        message = self._received if self.current is None else as_message(self.current)
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
        """End this life normally, after the message in hand; one that is closing ends anyway."""
        if not self.is_open:
            return
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

    def count(self) -> int:
        """Return how many nodes there are from here down."""
        return 1 if self.children is None else self.children.count()

    def fail(self, error: BaseException) -> None:
        """Crash the actor from outside its task: a background task or its children failed."""
        if self._crash is None:
            self._crash = error
        if self._work is not None:
            self._work.cancel()

    def crash_on(self, question: Question, error: BaseException) -> None:
        """Crash the actor, which rests, as if `question` had raised `error` in its own task."""
        self.current = as_item(question)
        self._handed_over = error
        self.mailbox.wake()

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

    def bury(
        self,
        messages: Sequence[Message],
        reason: str = "unhandled",
        error: BaseException | None = None,
    ) -> None:
        """Make dead letters of `messages`."""
        for message in messages:
            self.system.hub.dead(self.path, message, reason, error)

    # One life ----------------------------------------------------------------------------

    async def live(self) -> None:
        """Run one life, and report how it ended."""
        current_cell.set(self)
        self.task = trio.lowlevel.current_task()
        self.run_in_context = self.task.context.run
        self._crash = None
        self.stop_asked = False
        self.mailbox.reopen()
        self._work = scope = trio.CancelScope()
        self.is_open = True
        if self.ending is not None:  # asked to end before its task came to run
            self.apply_ending()
        if self._forced:
            scope.cancel()
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
        except BaseException as error:  # noqa: BLE001 - the boundary of user code; see triage
            crash = await triage(self.path, error)
            # A start that was overtaken by a stop finds others stopped: that is no crash.
            if is_up or self.ending is None or not isinstance(crash, ActorStoppedError):
                self._crash = crash
        self.actor = None
        end = await self._close(actor if is_up else None)
        self.task = None
        self.note_ended(end)

    def _make(self) -> Actor:
        actor = self.factory()
        if not isinstance(actor, Actor):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise MessageError(
                f"the factory of {self.path!r} made a {type(actor).__name__}, no Actor"
            )
        if type(actor) is not self.actor_type:
            self.actor_type = type(actor)
            self.table = message_table(self.actor_type)
            if self.actor_type.run is Actor.run:
                self.brief = brief_handlers(self.actor_type)
            else:
                self.brief = frozenset()
        return actor

    async def _handle_messages(self, actor: Actor) -> None:  # noqa: C901 - a call for each part would cost every message
        self.actor = actor
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
                if self._handed_over is not None:
                    error, self._handed_over = self._handed_over, None
                    raise error
                handled = 0
                continue
            handled += 1
            if handled > BATCH:
                handled = 0
                await trio.lowlevel.checkpoint()
                continue
            # From here on every line is paid for by every message.
            self.current = item = queue.popleft()
            if mailbox.has_senders:
                mailbox.admit()
            handler, args, kwargs, _, question = item
            try:
                work = handler(actor, *args, **kwargs) if kwargs else handler(actor, *args)
            except TypeError as error:
                self._misfit(item, error)
                continue
            try:
                value = await work
            except Reject as refusal:
                if question is not None:
                    question.refuse(refusal.error)
            else:
                if question is not None:
                    question.answer(value)
            self.current = None

    def _misfit(self, item: Item, error: TypeError) -> None:
        """Turn away a message whose arguments do not fit; that is no crash of the actor."""
        self.current = None
        message = as_message(item)
        if message.is_asked:
            message.refuse(misfit(message.method, error))
        else:
            self.bury([message], "misfit", misfit(message.method, error))

    # An actor with a `run` of its own ----------------------------------------------------

    async def _run(self, actor: Actor, context: "Context[Any]") -> None:
        """Feed the inbox from the mailbox while `run` iterates it."""
        send, receive = trio.open_memory_channel[Message](0)
        self._unanswered = {}
        self._pumped = trio.Event()
        self._pump_scope = self.background("inbox").start_soon(
            self._pump, (send, self._pumped), "inbox"
        )
        with receive:
            await actor.run(context, receive)
        self._received = None
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
                self._received = message
                self._note_received(message)

    async def _stop_pump(self) -> None:
        """Let what `run` has received have left the mailbox, before that is drained."""
        if self._pump_scope is not None and self._pumped is not None:
            self._pump_scope.cancel()
            await self._pumped.wait()
            self._pump_scope = self._pumped = None

    def _note_received(self, message: Message) -> None:
        """Remember who is owed an answer should `run` end without giving it."""
        if self._unanswered is None or not message.is_asked:
            return
        if len(self._unanswered) >= BATCH:
            self._unanswered = {m: None for m in self._unanswered if m.is_asked}
        self._unanswered[message] = None

    # Background tasks --------------------------------------------------------------------

    def background(self, name: str) -> Background:
        """Return the background tasks of this life, for one more.

        Raises:
            ActorStoppedError: the life is over.
        """
        if self._work is None:
            raise ActorStoppedError(f"{self.path!r} is not running: it cannot start {name!r}")
        if self._background is None:
            self._background = Background(path=self.path, system=self.system, fail=self.fail)
        return self._background

    # The closing -------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def _close(self, actor: Actor | None) -> LifeEnd:
        """Carry out the closing, and return how the life ended."""
        self.is_open = False
        if self._crash is not None and self.ending is None:
            self.mailbox.reopen()  # for the next life, if the one that crashed had been stopping
        await self._stop_pump()
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
        if self._background is not None:
            await self._background.end()
            self._background = None
        if self._crash is not None:
            reason = Stop.CRASHED
        return LifeEnd(reason, self._crash)

    def _messages_in_hand(self) -> list[Message]:
        """Take what was begun and not finished: one message, or more of an actor with `run`."""
        unanswered, self._unanswered = self._unanswered, None
        in_hand = dict.fromkeys(message for message in unanswered or () if message.is_asked)
        received, self._received = self._received, None
        if received is not None and not received.is_done:
            in_hand[received] = None
        current, self.current = self.current, None
        if current is not None:
            in_hand[as_message(current)] = None
        return list(in_hand)

    def _fail_messages(self, messages: list[Message], crash: BaseException) -> None:
        for message in messages:
            if message.is_asked:
                error = ActorCrashedError(
                    f"{self.path!r} crashed on {message.name}: {describe_error(crash)}"
                )
                error.__cause__ = crash
                message.refuse(error)
        self.bury(messages, "crashed", crash)

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
        except BaseException as error:  # noqa: BLE001 - the boundary of user code; see triage
            self._crash_late(await triage(self.path, error))
        if scope.cancelled_caught:
            self.system.hub.emit(CutOff(path=self.path, hook=getattr(hook, "__name__", repr(hook))))
        return False

    def _crash_late(self, error: BaseException) -> None:
        """Note a crash of the closing; the crash that began it stays the one that counts."""
        if self._crash is None:
            self._crash = error
        else:
            add_note(self._crash, f"its closing raised too: {describe_error(error)}")

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
