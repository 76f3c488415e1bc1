"""The errors of the kernel, and the exception by which a handler refuses a message.

Invariant: what user code raised is never replaced; where a kernel error stands
for it, ``__cause__`` is the original. Raised by refs, supervisors and trees.
"""

from typing import Any

import attrs

from terzetto.errors import InvalidNameError, InvalidOptionError, TerzettoError


class ActorStoppedError(TerzettoError):
    """The actor has stopped for good, or stopped before it answered."""


class ActorCrashedError(TerzettoError):
    """The actor crashed on the message that was asked; ``__cause__`` is the crash."""


class AskCycleError(TerzettoError):
    """Waiting would never end: the one waited for is itself waiting for the caller."""


class MessageError(TerzettoError, TypeError):
    """A method is no message of this actor, or the arguments do not fit it."""


class ChildNameError(InvalidNameError):
    """A child's name is malformed, or taken by another child of the same supervisor."""


class ChildLimitError(TerzettoError):
    """The supervisor has as many children as its `max_children` allows."""


class UnknownChildError(TerzettoError, LookupError):
    """No child of that name, or it is of another type than the one that was asked for."""


class SpecError(InvalidOptionError):
    """A `Child`, a `Tree` or their options cannot work; nothing was started."""


class StrayCancelledError(TerzettoError):
    """User code raised a `trio.Cancelled` that no cancel scope around it had asked for."""


@attrs.define(eq=False, init=False)
class Reject(Exception):  # noqa: N818 - a verb, as in `raise Reject(error)`; it never reaches a caller
    """Raised by a handler to refuse a message: the asker gets `error`, the actor lives on.

    When the message was told, not asked, nobody waits for the refusal and it is
    dropped. It counts only when it leaves the handler bare, not inside a group.
    """

    error: Exception

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def set_context(error: BaseException, context: BaseException | None) -> None:
    """Set ``__context__``, also of an error that cannot be changed, such as a frozen dataclass."""
    slot: Any = vars(BaseException)["__context__"]
    slot.__set__(error, context)
