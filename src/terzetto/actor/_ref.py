"""Refs: the only way to reach an actor, typed by its class.

A ref belongs to a place in a tree, so it survives restarts of its actor. Two
refs are equal if they are of the same place. Sending runs in the sender's task
and goes straight into the mailbox; the reply of an ask resumes the asker
without passing through a mailbox of its own.
"""

import itertools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

import attrs
import trio

from terzetto.actor._actor import Actor
from terzetto.actor._cell import ActorCell
from terzetto.actor._current import Current, current_cell, find_cycle, refuse_own_end
from terzetto.actor._errors import AskCycleError, MessageError
from terzetto.actor._message import Handler, Inquiry, Message
from terzetto.actor._types import Ending, Exit

A_co = TypeVar("A_co", bound=Actor, covariant=True)
P = ParamSpec("P")
R = TypeVar("R")

_turns = itertools.count(1)
_TURN = 64  # after this many tells that found room, the sender lets others run


@attrs.frozen(eq=False, repr=False)
class Ref(Generic[A_co]):
    """A reference to an actor of type `A_co`.

    Its methods may be called from any task of the same `trio.run`.
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
            trio.WouldBlock: the mailbox is full (`MailboxFull` is its other name).
            ActorStoppedError: the actor has stopped, or is stopping.
            MessageError: `method` is no message of this actor.
        """
        cell = self._cell
        message = Message(_handler(cell, method), args, kwargs, trio.current_time())
        if not cell.mailbox.offer(message):
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
            MessageError: `method` is no message of this actor.
        """
        cell = self._cell
        message = Message(_handler(cell, method), args, kwargs, trio.current_time())
        await trio.lowlevel.checkpoint_if_cancelled()
        if not cell.mailbox.offer(message):
            await cell.mailbox.wait_for_room(message)
        elif not next(_turns) % _TURN:
            await trio.lowlevel.cancel_shielded_checkpoint()

    @trio.lowlevel.enable_ki_protection
    async def ask(
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
        asker = current_cell.get()
        if asker is not None:
            _refuse_cycle(asker, cell)
        message = Message(
            _handler(cell, method), args, kwargs, trio.current_time(), trio.lowlevel.current_task()
        )
        mailbox = cell.mailbox
        if not mailbox.offer(message):
            mailbox.queue_sender(message, None)

        def abort(_: Any) -> trio.lowlevel.Abort:  # noqa: ANN401 - trio's RaiseCancelT, not used
            message.forget_asker()
            mailbox.withdraw(message)
            return trio.lowlevel.Abort.SUCCEEDED

        if asker is None:
            reply: Any = await trio.lowlevel.wait_task_rescheduled(abort)
            if type(reply) is Inquiry:
                reply = await _wait_on(message, reply, None, abort)
            return cast("R", reply)
        asker.waiting_on.append(cell)
        try:
            reply = await trio.lowlevel.wait_task_rescheduled(abort)
            if type(reply) is Inquiry:
                reply = await _wait_on(message, reply, asker, abort)
            return cast("R", reply)
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
        return await _stop(self._cell, Ending.CLOSE)

    async def shutdown(self) -> Exit:
        """Stop the actor once it has handled all that it had accepted; return how it ended.

        Waits as long as that takes; `close` cuts it short. Cancelling this
        stops the waiting, not the draining.

        Raises:
            AskCycleError: as for `close`.
        """
        return await _stop(self._cell, Ending.SHUTDOWN)

    async def wait_stopped(self) -> Exit:
        """Wait until the actor has ended for good; return why. Restarts are no end."""
        return await self._cell.wait_stopped()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return NotImplemented
        return self._cell is cast("Ref[Actor]", other)._cell

    def __hash__(self) -> int:
        return hash(id(self._cell))

    def __repr__(self) -> str:
        return f"<Ref {self.path} {self._cell.state}>"


def _handler(cell: ActorCell, method: object) -> Handler:
    try:
        return cell.table[method]
    except KeyError:
        return cell.handler(method)
    except TypeError:
        raise MessageError(
            f"{method!r} is no message: name a method of the actor's class"
        ) from None


def _refuse_cycle(asker: Current, target: ActorCell) -> None:
    paths = find_cycle(asker, target)
    if paths is not None:
        raise AskCycleError(
            "this would wait forever: "
            + " waits for ".join(paths)
            + "; use tell, or ask in a background task"
        )


async def _wait_on(
    message: Message,
    inquiry: Inquiry,
    asker: Current | None,
    abort: Callable[[Any], trio.lowlevel.Abort],
) -> object:
    """Tell the deadline, and wait on for the reply."""

    async def wait() -> object:
        return cast("object", await trio.lowlevel.wait_task_rescheduled(abort))

    return await message.tell_deadline(inquiry, None if asker is None else asker.deadline, wait)


async def _stop(cell: ActorCell, ending: Ending) -> Exit:
    refuse_own_end(cell)
    if cell.exit is None:
        cell.system.stop(cell, ending)
    return await cell.wait_stopped()
