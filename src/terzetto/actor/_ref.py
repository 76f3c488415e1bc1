"""Refs: the only way to reach an actor, typed by its class.

A ref belongs to a place in a tree, so it survives restarts of its actor. Two
refs are equal if they are of the same place. Sending runs in the sender's task
and goes straight into the mailbox; the reply of an ask resumes the asker
without passing through a mailbox of its own.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

import attrs
import trio

from terzetto.actor._actor import Actor
from terzetto.actor._brief import settle
from terzetto.actor._cell import ActorCell
from terzetto.actor._current import refuse_cycle, waiting_cell, waiting_for
from terzetto.actor._message import Message, misfit
from terzetto.actor._node import end, wait_for_end
from terzetto.actor._question import Inquiry, Question
from terzetto.actor._types import Ending, Exit

A_co = TypeVar("A_co", bound=Actor, covariant=True)
P = ParamSpec("P")
R = TypeVar("R")

_TURN = 64  # after this many tells that found room, the sender lets others run


@attrs.frozen(eq=False, repr=False)
class Ref(Generic[A_co]):
    """A reference to an actor of type `A_co`.

    Its methods may be called from any task of the same `trio.run`. From another
    thread go through `trio.from_thread`: a send that comes from there directly is
    refused if it finds the actor asleep, and is not guarded otherwise.
    """

    _cell: ActorCell

    @property
    def name(self) -> str:
        """The actor's name, unique among the children of its supervisor."""
        return self._cell.name

    @property
    def path(self) -> str:
        """The names from the root down to the actor, joined by slashes."""
        return self._cell.path

    @property
    def is_stopped(self) -> bool:
        """Whether the actor has ended for good."""
        return self._cell.exit is not None

    def tell_nowait(
        self,
        method: Callable[Concatenate[A_co, P], Coroutine[Any, Any, Any]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Send a message without waiting.

        Raises:
            trio.WouldBlock: the mailbox is full.
            ActorStoppedError: the actor has stopped, or is stopping.
            MessageError: `method` is no message of this actor.
        """
        cell = self._cell
        try:
            handler = cell.table[method]
        except (KeyError, TypeError):
            handler = cell.handler(method)
        if not cell.mailbox.put(handler, args, kwargs):
            raise trio.WouldBlock

    async def tell(
        self,
        method: Callable[Concatenate[A_co, P], Coroutine[Any, Any, Any]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Send a message; wait for room in the mailbox if there is none.

        Always a cancel point; when cancelled, the message was not sent. It is a
        schedule point when the mailbox is full, and at least at every 64th
        message that a task sends.

        Raises:
            ActorStoppedError: the actor has stopped, or stopped before there was room.
            AskCycleError: there is no room, and the actor is itself waiting for
                the one that tells.
            MessageError: `method` is no message of this actor.
        """
        cell = self._cell
        try:
            handler = cell.table[method]
        except (KeyError, TypeError):
            handler = cell.handler(method)
        await trio.lowlevel.checkpoint_if_cancelled()
        if not cell.mailbox.put(handler, args, kwargs):
            with waiting_for(cell):
                await cell.mailbox.wait_for_room(Message(handler, args, kwargs, cell.mailbox.now()))
        elif not next(cell.turns) % _TURN:
            await trio.lowlevel.cancel_shielded_checkpoint()

    @trio.lowlevel.enable_ki_protection
    async def ask(  # noqa: C901 - a call for each part would cost every ask
        self,
        method: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Send a message and wait for what its handler returns.

        Always a checkpoint. When cancelled, the message is taken back if it has
        not begun; if it has, its work goes on and the reply is dropped. The
        caller's deadline goes with the message (`Context.deadline`).

        Raises:
            ActorCrashedError: the handler raised; ``__cause__`` is what.
            ActorStoppedError: the actor has stopped, or stopped before it answered.
            AskCycleError: the actor is itself waiting for the one that asks.
            MessageError: `method` is no message of this actor, or the arguments
                do not fit it.
            Exception: what the handler refused with (`Reject`), as it is.
        """
        cell = self._cell
        mailbox = cell.mailbox
        try:
            handler = cell.table[method]
        except (KeyError, TypeError):
            handler = cell.handler(method)
        if mailbox.receiver is not None and handler in cell.brief:
            await trio.lowlevel.checkpoint()
            if cell.mailbox.receiver is not None:
                try:
                    work = handler(cell.actor, *args, **kwargs)
                except TypeError as error:
                    raise misfit(handler, error) from error
                try:
                    reply: R = cell.run_in_context(cell.drive, work)
                except BaseException as error:  # noqa: BLE001 - the boundary of user code
                    raised = error
                else:
                    return reply
                return await settle(cell, handler, args, kwargs, raised)
        asker = waiting_cell()
        if asker is not None:
            refuse_cycle(asker, cell)
        question = Question(
            handler, args, kwargs, mailbox.now(), trio.lowlevel.current_task(), mailbox
        )
        if not mailbox.put(handler, args, kwargs, question):
            mailbox.queue_sender(question, None)
        if asker is None:
            found: Any = await trio.lowlevel.wait_task_rescheduled(question.abort)
            if type(found) is Inquiry:
                found = await question.tell_deadline(found, None)
            return found  # type: ignore[no-any-return]  # what a handler of R has replied
        asker.waiting_on.append(cell)
        try:
            found = await trio.lowlevel.wait_task_rescheduled(question.abort)
            if type(found) is Inquiry:
                found = await question.tell_deadline(found, asker.deadline)
            return found  # type: ignore[no-any-return]  # as above
        finally:
            asker.waiting_on.remove(cell)

    async def close(self) -> Exit:
        """Stop the actor and hand back its work; return how it ended.

        No message is accepted any more; the one in hand has the grace period,
        then it is cancelled; what is unhandled goes to `Actor.handed_back`.
        Cancelling this stops the waiting, not the closing.

        Raises:
            AskCycleError: the actor, or one below it, calls this in a handler
                and would wait for itself: use `Context.stop` there.
        """
        return await end(self._cell, Ending.CLOSE)

    async def shutdown(self) -> Exit:
        """Stop the actor once it has handled all that it had accepted; return how it ended.

        Waits as long as that takes; `close` cuts it short. Cancelling this
        stops the waiting, not the draining.

        Raises:
            AskCycleError: as for `close`; or the actor waits for the one that calls this.
        """
        return await end(self._cell, Ending.SHUTDOWN)

    async def wait_stopped(self) -> Exit:
        """Wait until the actor has ended for good; return why. Restarts are no end.

        Cancelling stops the waiting only.

        Raises:
            AskCycleError: as for `shutdown`.
        """
        return await wait_for_end(self._cell)

    def when_stopped(self, call: Callable[[Exit], None]) -> None:
        """Have a plain function called once, when the actor has ended for good.

        At once if it has. Else in the task that ends it, so `call` should not take long;
        what it raises is logged. For what must not be left waiting, and has no task of its
        own to call `wait_stopped`.
        """
        self._cell.monitor(call)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return NotImplemented
        return self._cell is cast("Ref[Actor]", other)._cell

    def __hash__(self) -> int:
        return hash(id(self._cell))

    def __repr__(self) -> str:
        return f"<Ref {self.path} {self._cell.state}>"
