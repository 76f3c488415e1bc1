"""Brief handlers: those that wait for nothing, and so can run in the task of the one that asks.

Theory of operation: an ask costs two turns of trio's scheduler, the actor's and
the asker's, and those are most of its price. A handler without any ``await``
cannot be suspended, so it matters little in whose task it runs. When such a
message comes to an actor that rests, with nothing in hand and an empty mailbox,
the asker runs it, in the context of the actor's task: context variables are the
actor's. A crash is raised in the actor's own task and takes its ordinary way.

Called by refs, for actors whose mailbox has a receiver that sleeps.
"""

import sys
import types
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Never, cast

import trio

from terzetto.actor._errors import Reject, set_context
from terzetto.actor._message import Handler
from terzetto.actor._question import Question

if TYPE_CHECKING:
    from terzetto.actor._cell import ActorCell


@trio.lowlevel.disable_ki_protection
@types.coroutine
def _drive() -> Generator[object, Coroutine[Any, Any, Any], None]:
    work = yield None
    while True:
        work = yield (yield from work)


def new_driver() -> Callable[[Coroutine[Any, Any, Any]], object]:
    """Return what runs one brief handler after the other, each to its end, until one raises.

    A generator that lives on takes a reply without an exception; driving each
    handler by itself would cost a `StopIteration` for every reply.
    """
    generator: Any = _drive()  # to type checkers, `types.coroutine` has made it an Awaitable
    generator.send(None)  # on to where it takes the first handler
    return cast("Callable[[Coroutine[Any, Any, Any]], object]", generator.send)


async def settle(
    cell: "ActorCell",
    handler: Handler,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    raised: BaseException,
) -> Never:
    """Do what follows from what a brief handler has raised; it ends with an error for the asker."""
    cell.drive = new_driver()
    if isinstance(raised, Reject):
        raise raised.error
    _forget_context(raised, sys.exception())
    question = Question(
        handler, args, kwargs, cell.mailbox.now(), trio.lowlevel.current_task(), cell.mailbox
    )
    cell.crash_on(question, raised)
    await trio.lowlevel.wait_task_rescheduled(question.abort)
    raise AssertionError("a crash is answered with an error")


def _forget_context(error: BaseException, outer: BaseException | None) -> None:
    """Take out of the context of `error` what the asker, not the actor, is just handling."""
    link: BaseException | None = error
    while link is not None and outer is not None:
        if link.__context__ is outer:
            set_context(link, None)
        link = link.__context__
