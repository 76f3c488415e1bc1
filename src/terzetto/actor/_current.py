"""Which actor the running code belongs to.

A context variable is set once in the task of each life and inherited by every
task that a handler starts; the actor waits for those only that live below its
own task, in a nursery that a handler holds open. In its background tasks the
variable is cleared. Used to find ask cycles and by the default hooks.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import trio

from terzetto.actor._errors import AskCycleError
from terzetto.actor._message import Message


class Waiter(Protocol):
    """What may wait for another in the tree: an actor's cell or a supervisor's."""

    path: str

    def waits_for(self) -> "Iterable[Waiter]":
        """Return those that it cannot go on without."""
        ...

    def above(self) -> "Waiter | None":
        """Return the one that it is a child of; None at the root."""
        ...


class Current(Waiter, Protocol):
    """The cell of the running actor."""

    waiting_on: "list[Waiter]"
    task: trio.lowlevel.Task | None

    @property
    def takes_while_waiting(self) -> bool:
        """Whether it may go on with messages while a task of its handler's waits."""
        ...

    async def deadline(self) -> float:
        """Return until when the asker of the message in hand waits, on trio's clock."""
        ...

    def bury(self, messages: Sequence[Message]) -> None:
        """Make dead letters of messages that will not be handled."""
        ...


current_cell: ContextVar[Current | None] = ContextVar("terzetto.actor.current", default=None)


def waiting_cell() -> Current | None:
    """Return the cell of the actor that waits for the running task; None if none does."""
    cell = current_cell.get()
    if cell is None:
        return None
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    if task is not cell.task and cell.takes_while_waiting:
        return None
    while task is not None and task is not cell.task:
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
    return None if task is None else cell


def refuse_own_end(ended: Waiter) -> None:
    """Raise `AskCycleError` if the running code belongs to an actor at or below `ended`.

    It would wait for its own end. Looked up by what is a child of what, not by
    path: trees that know nothing of each other may use the same names.
    """
    asker = waiting_cell()
    place: Waiter | None = asker
    while asker is not None and place is not None:
        if place is ended:
            raise AskCycleError(
                f"{asker.path!r} would wait for its own end: call ctx.stop(), or stop "
                f"{ended.path!r} from outside"
            )
        place = place.above()


def refuse_cycle(asker: Waiter, target: Waiter) -> None:
    """Raise `AskCycleError` if `target` is waiting for `asker`, over any number of others."""
    paths = find_cycle(asker, target)
    if paths is not None:
        raise AskCycleError(
            "this would wait forever: " + " waits for ".join(paths) + "; send in a background task"
        )


@contextmanager
def waiting_for(target: Waiter, *, refuse: bool = True) -> Generator[None]:
    """Let it be known, for the time of a block, that the running actor waits for `target`.

    Raises:
        AskCycleError: `target` is waiting for it; not with `refuse=False`, for
            waits that end by themselves.
    """
    asker = waiting_cell()
    if asker is None:
        yield
        return
    if refuse:
        refuse_cycle(asker, target)
    asker.waiting_on.append(target)
    try:
        yield
    finally:
        asker.waiting_on.remove(target)


def find_cycle(start: Waiter, target: Waiter) -> list[str] | None:
    """Return the paths from `start` over `target` back to `start`, if waiting would close a ring.

    The graph is searched from `target` along what each waits for now.
    """
    if target is start:
        return [start.path, start.path]
    trail: list[tuple[Waiter, list[str]]] = [(target, [start.path, target.path])]
    seen = {id(target)}
    while trail:
        node, paths = trail.pop()
        for following in node.waits_for():
            if following is start:
                return [*paths, start.path]
            if id(following) not in seen:
                seen.add(id(following))
                trail.append((following, [*paths, following.path]))
    return None
