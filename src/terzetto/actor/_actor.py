"""The base class of actors, and the table of what is a message.

A message is a public ``async def`` of the class, hooks excepted. The table
resolves a method named through any base class to the actor's own override, once
for each class and method; beside it stands which of the handlers are brief.
"""

import inspect
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import attrs
import trio

from terzetto._shared._brief import is_brief
from terzetto.actor._current import current_cell
from terzetto.actor._errors import MessageError
from terzetto.actor._message import Handler, Message
from terzetto.actor._types import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from terzetto.actor._context import Context

HOOKS = frozenset({"started", "stopping", "handed_back", "run"})


@attrs.define
class Actor:
    """The base of all actors: a class whose public ``async def`` methods are messages.

    Subclasses are attrs classes (``@attrs.define``), their state plain fields.
    A supervisor makes a new object for every start, so a restart begins with
    fresh state; what must survive lives in an object that the factory captures.

    Only one handler runs at a time, so fields need no locks. A handler that
    raises crashes the actor, except with `Reject`.
    """

    async def started(self, ctx: "Context[Any]") -> None:
        """Set up; the start counts as done when this returns.

        Raising fails the start; `stopping` is not called then, so a half-made
        set-up is undone in here. A stop that comes meanwhile cancels it after
        the grace period.
        """

    async def stopping(self, reason: Stop) -> None:
        """Clean up, after the last message and after the children have stopped.

        Called once for every start that succeeded, after a crash too. It is
        shielded from cancellation from outside, and is cancelled itself when
        the grace period is over. What it raises is logged, and makes the exit
        a crash.
        """

    async def handed_back(self, messages: "Sequence[Message]") -> None:
        """Take back what was accepted and will not be handled, oldest first.

        Called before `stopping` when the actor closes with messages left; one
        that was cut off by the grace period comes first. Their askers have got
        `ActorStoppedError` already. By default they become dead letters.
        """
        cell = current_cell.get()
        if cell is not None:
            cell.bury(messages)

    async def run(self, ctx: "Context[Any]", inbox: "trio.MemoryReceiveChannel[Message]") -> None:
        """Handle messages until `inbox` ends.

        Override it to iterate the channel yourself; the channel ends when the
        actor is to stop, and the actor stops when this returns. What was
        received is yours: call `Message.handle`, or use its arguments and
        `Message.answer`.
        """
        del ctx  # for overriders
        async for message in inbox:
            await message.handle(self)


_tables: "WeakKeyDictionary[type, dict[Any, Handler]]" = WeakKeyDictionary()
_briefs: "WeakKeyDictionary[type, set[Handler]]" = WeakKeyDictionary()


def message_table(cls: type) -> dict[Any, Handler]:
    """Return the table of messages of `cls`: what a sender names to what is called."""
    table = _tables.get(cls)
    if table is None:
        table = _tables[cls] = {}
    return table


def brief_handlers(cls: type) -> set[Handler]:
    """Return those handlers of the table of `cls` that wait for nothing."""
    handlers = _briefs.get(cls)
    if handlers is None:
        handlers = _briefs[cls] = set()
    return handlers


def resolve(cls: type, method: object) -> Handler:
    """Return the handler that `cls` has for `method`, and note it in the table.

    Raises:
        MessageError: it is no message of `cls`; the text says why.
    """
    name = getattr(method, "__name__", None)
    if not inspect.isfunction(method) or name is None:
        raise MessageError(
            f"{method!r} is no message: name the method through its class, as in "
            f"{cls.__name__}.method"
        )
    if name in HOOKS or name.startswith("_"):
        raise MessageError(f"{name!r} is no message: hooks and private methods cannot be sent")
    named = any(vars(base).get(name) is method for base in cls.__mro__)
    if not named:
        raise MessageError(
            f"{getattr(method, '__qualname__', name)} is no method of {cls.__name__}: "
            "send messages of the actor's own class or its bases"
        )
    own: Handler = getattr(cls, name)
    if not inspect.iscoroutinefunction(own):
        raise MessageError(f"{cls.__name__}.{name} is no message: make it `async def`")
    message_table(cls)[method] = own
    if is_brief(own):
        brief_handlers(cls).add(own)
    return own
