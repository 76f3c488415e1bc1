"""A message that was asked, and the wait of its asker.

Theory of operation: an asker sleeps until it is rescheduled with its question,
which stands in for an `outcome.Outcome`: trio calls `unwrap` on it and nothing
else, and the object is there already. To learn the asker's deadline it is woken
with an `Inquiry` instead; only its own task can tell, and telling it beforehand
would cost more than half of an ask. While it is awake for that, a reply that
comes is kept until it can be handed over.

Invariant: an answer is given at most once, and only to an asker that still
waits; answering one that left is a no-op. Made by refs, answered by cells or by
actors with a `run` of their own.
"""

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import attrs
import trio
from outcome import Outcome

from terzetto.actor._message import Handler, Message

if TYPE_CHECKING:
    from terzetto.actor._mailbox import Mailbox


@attrs.define(eq=False)
class Inquiry:
    """What an asker is woken with when its deadline is wanted, not its reply given."""

    told: trio.Event = attrs.field(factory=trio.Event)
    deadline: float = -math.inf  # stays so if the asker leaves meanwhile

    def unwrap(self) -> "Inquiry":
        """Be the outcome that the asker is woken with."""
        return self


@attrs.define(eq=False, init=False)
class Question(Message):
    """A message whose sender waits for the answer."""

    is_done: bool = attrs.field(init=False)
    _mailbox: "Mailbox" = attrs.field(init=False)
    _value: object = attrs.field(init=False)
    _error: Exception | None = attrs.field(init=False)
    _inquiry: Inquiry | None = attrs.field(init=False)
    # Answered while the asker was awake to tell its deadline.
    _is_early: bool = attrs.field(init=False)

    def __init__(  # noqa: PLR0917 - by position and by hand: every ask pays for it
        self,
        method: Handler,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sent_at: float,
        asker: trio.lowlevel.Task,
        mailbox: "Mailbox",
    ) -> None:
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.sent_at = sent_at
        self.asker = asker
        self.is_done = False
        self._mailbox = mailbox
        self._error = None
        self._inquiry = None

    def answer(self, value: object) -> None:
        """Give the asker its reply; nothing happens if nobody waits."""
        self.is_done = True
        asker = self.asker
        if asker is not None:
            self.asker = None
            self._value = value
            self._wake(asker)

    def refuse(self, error: Exception) -> None:
        """Raise `error` in the asker; nothing happens if nobody waits."""
        self.is_done = True
        asker = self.asker
        if asker is not None:
            self.asker = None
            self._error = error
            self._wake(asker)

    def _wake(self, asker: trio.lowlevel.Task) -> None:
        if self._inquiry is not None and not self._inquiry.told.is_set():
            self._is_early = True
        else:
            trio.lowlevel.reschedule(asker, cast("Outcome[object]", self))

    def unwrap(self) -> object:
        """Return the answer, or raise it."""
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            del self  # or the traceback would keep this frame, and this frame the error

    @trio.lowlevel.enable_ki_protection
    def abort(self, raise_cancel: object) -> trio.lowlevel.Abort:
        """Let the asker go; a message that has not begun is taken back."""
        del raise_cancel  # trio raises it by itself
        self.asker = None
        self._mailbox.withdraw(self)
        return trio.lowlevel.Abort.SUCCEEDED

    async def deadline(self) -> float:
        """Return until when the asker waits: minus infinity if it has left."""
        await trio.lowlevel.checkpoint()
        inquiry = self._inquiry
        if inquiry is None:
            if self.asker is None:
                return -math.inf
            inquiry = self._inquiry = Inquiry()
            self._is_early = False
            trio.lowlevel.reschedule(self.asker, cast("Outcome[object]", inquiry))
        await inquiry.told.wait()
        return inquiry.deadline

    async def tell_deadline(
        self, inquiry: Inquiry, inherited: Callable[[], Awaitable[float]] | None
    ) -> object:
        """Tell the deadline, in the asker's own task, and wait on for the reply.

        Args:
            inquiry: what the asker was woken with.
            inherited: gives the deadline of whoever asked the asker.
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
        if self._is_early:
            return self.unwrap()
        return cast("object", await trio.lowlevel.wait_task_rescheduled(self.abort))
