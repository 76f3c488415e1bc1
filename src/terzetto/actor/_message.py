"""A message on its way: what is to be called, and with what.

Made by refs, carried by mailboxes, handled by cells; actors that override `run`
meet it as the items of their inbox. One that was asked is a `Question`.
"""

import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import attrs
import trio

from terzetto.actor._errors import MessageError, Reject

# Any: the parameters of a handler are checked where a ref is used, by ParamSpec;
# from there on they are carried and not looked at.
Handler: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]


@attrs.define(eq=False)
class Message:
    """One message: a method, its arguments and, if it was asked, its asker."""

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
        del value  # nobody waits
        self.is_done = True

    def refuse(self, error: Exception) -> None:
        """Raise `error` in the asker; nothing happens if nobody waits."""
        del error  # nobody waits
        self.is_done = True

    async def deadline(self) -> float:
        """Return until when the asker waits: infinity if it was told, minus that if it left."""
        await trio.lowlevel.checkpoint()
        return math.inf

    # Handling ----------------------------------------------------------------------------

    def begin(self, actor: object) -> Coroutine[Any, Any, Any]:
        """Bind the arguments; no line of the handler has run yet.

        Raises:
            MessageError: the arguments do not fit; the fault is the sender's.
        """
        try:
            return self.method(actor, *self.args, **self.kwargs)
        except TypeError as error:
            raise misfit(self.method, error) from error

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


def misfit(method: Handler, error: TypeError) -> MessageError:
    """Return the error for arguments that do not fit `method`."""
    misfit = MessageError(f"{method.__qualname__}: {error}")
    misfit.__cause__ = error
    return misfit
