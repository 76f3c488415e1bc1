"""A message on its way: what is to be called, and who waits for the answer.

Invariant: an answer is given at most once, and only to an asker that still
waits; answering one that left is a no-op. Made by refs, carried by mailboxes,
handled by cells; actors that override `run` meet it as the items of their inbox.
"""

import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import attrs
import trio
from outcome import Error, Value

from terzetto.actor._errors import MessageError, Reject

# Any: the parameters of a handler are checked where a ref is used, by ParamSpec;
# from there on they are carried and not looked at.
Handler: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]


@attrs.define(eq=False)
class Inquiry:
    """What an asker is woken with when its deadline is wanted, not its reply given."""

    told: trio.Event = attrs.field(factory=trio.Event)
    deadline: float = -math.inf  # stays so if the asker leaves meanwhile
    reply: Value[object] | Error | None = None


@attrs.define(eq=False)
class Message:
    """One message: a method, its arguments and, if it was asked, its asker.

    Theory of operation: an asker sleeps until it is rescheduled with its reply.
    To learn its deadline it is woken with an `Inquiry` instead; only its own task
    can tell, and telling it beforehand would cost more than half of an ask. While
    it is awake for that, a reply that comes is kept until it can be handed over.
    """

    method: Handler
    """The handler, as the actor's own class defines it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sent_at: float
    """When it was sent, on trio's clock."""

    asker: trio.lowlevel.Task | None = None
    """The task that waits for the reply; for the kernel's own use."""

    is_done: bool = attrs.field(default=False, init=False)
    """Whether an actor with a `run` of its own has handled it."""

    _inquiry: Inquiry | None = attrs.field(default=None, init=False)

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.method.__name__

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for an answer."""
        return self.asker is not None

    def answer(self, value: object) -> None:
        """Give the asker its reply; nothing happens if nobody waits."""
        self._reply(Value(value))

    def refuse(self, error: Exception) -> None:
        """Raise `error` in the asker; nothing happens if nobody waits."""
        self._reply(Error(error))

    def _reply(self, outcome: Value[object] | Error) -> None:
        self.is_done = True
        asker, self.asker = self.asker, None
        if asker is None:
            return
        inquiry = self._inquiry
        if inquiry is not None and not inquiry.told.is_set():
            inquiry.reply = outcome
        else:
            trio.lowlevel.reschedule(asker, outcome)

    def forget_asker(self) -> None:
        """Drop the answer to come: the asker has left."""
        self.asker = None

    # The deadline ------------------------------------------------------------------------

    async def deadline(self) -> float:
        """Return until when the asker waits: infinity if it was told, minus that if it has left."""
        await trio.lowlevel.checkpoint()
        inquiry = self._inquiry
        if inquiry is None:
            if self.asker is None:
                return math.inf
            inquiry = self._inquiry = Inquiry()
            trio.lowlevel.reschedule(self.asker, Value(inquiry))
        await inquiry.told.wait()
        return inquiry.deadline

    async def tell_deadline(
        self,
        inquiry: Inquiry,
        inherited: Callable[[], Awaitable[float]] | None,
        wait: Callable[[], Awaitable[object]],
    ) -> object:
        """Tell the deadline, in the asker's own task, and wait on for the reply.

        Args:
            inquiry: what the asker was woken with.
            inherited: gives the deadline of whoever asked the asker.
            wait: sleeps until the asker is rescheduled, as before.
        """
        deadline = trio.current_effective_deadline()
        try:
            if inherited is not None:
                deadline = min(deadline, await inherited())
            inquiry.deadline = deadline
        except BaseException:
            self.asker = None  # the asker leaves
            raise
        finally:
            inquiry.told.set()
        return await wait() if inquiry.reply is None else inquiry.reply.unwrap()

    # Handling ----------------------------------------------------------------------------

    def begin(self, actor: object) -> Coroutine[Any, Any, Any]:
        """Bind the arguments; no line of the handler has run yet.

        Raises:
            MessageError: the arguments do not fit; the fault is the sender's.
        """
        try:
            return self.method(actor, *self.args, **self.kwargs)
        except TypeError as error:
            raise self.misfit(error) from error

    def misfit(self, error: TypeError) -> MessageError:
        """Return the error for arguments that do not fit."""
        misfit = MessageError(f"{self.method.__qualname__}: {error}")
        misfit.__cause__ = error
        return misfit

    async def handle(self, actor: object) -> None:
        """Run the handler of `actor` and answer the asker.

        For actors that override `Actor.run`. What the handler raises comes out
        here, except a `Reject` and arguments that do not fit: those go to the
        asker.
        """
        try:
            value = await self.begin(actor)
        except Reject as refusal:
            self.refuse(refusal.error)
        except MessageError as error:
            if not self.is_asked:
                raise
            self.refuse(error)
        else:
            self.answer(value)
