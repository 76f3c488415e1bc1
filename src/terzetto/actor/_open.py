"""The blocks that run actors: a supervisor, one child, or one actor in a plain nursery."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast

import trio

from terzetto._shared._logging import Logger
from terzetto.actor._actor import Actor
from terzetto.actor._backoff import Backoff
from terzetto.actor._events import Observer
from terzetto.actor._handle import Supervisor
from terzetto.actor._ref import Ref
from terzetto.actor._supervisor import SupervisorCell
from terzetto.actor._system import Root
from terzetto.actor._tree import Child, Tree
from terzetto.actor._types import AutoShutdown, Strategy

A = TypeVar("A", bound=Actor)
T = TypeVar("T")

_DEFAULT_BACKOFF = Backoff()


def open_supervisor(
    *,
    name: str = "top",
    strategy: Strategy = "one_for_one",
    max_restarts: int = 3,
    within: float = 5.0,
    grace: float | None = None,
    backoff: Backoff = _DEFAULT_BACKOFF,
    max_failed_starts: int = 3,
    auto_shutdown: AutoShutdown = "never",
    dynamic: bool = False,
    max_children: int | None = None,
    logger: Logger | None = None,
    observers: tuple[Observer, ...] = (),
) -> AbstractAsyncContextManager[Supervisor]:
    """Open a supervisor around a block; the options are those of `Tree`.

    `observers` are called with every event from the first on, as by
    `Supervisor.observe`.

    Leaving the block closes every child, the last one first; cancelling the
    block does the same, within the grace periods. When restarts are used up,
    the block is cancelled and the last crash comes out of it, as it is, with a
    note; an exception of the block's own comes first, but what is no `Exception`
    before one.

    Raises:
        SpecError: an option is out of its range.
    """
    tree = Tree(
        name=name,
        strategy=strategy,
        max_restarts=max_restarts,
        within=within,
        grace=grace,
        backoff=backoff,
        max_failed_starts=max_failed_starts,
        auto_shutdown=auto_shutdown,
        dynamic=dynamic,
        max_children=max_children,
    )
    return open_tree(tree, logger=logger, observers=observers)


def open_tree(
    tree: Tree, *, logger: Logger | None = None, observers: tuple[Observer, ...] = ()
) -> AbstractAsyncContextManager[Supervisor]:
    """Open a whole tree around a block: it is up when the block begins.

    As `open_supervisor`; what a child's first start raises comes out of the
    ``async with``.
    """
    return root_of(tree, logger=logger, observers=observers)


def root_of(
    tree: Tree, *, logger: Logger | None, observers: tuple[Observer, ...]
) -> Root[Supervisor]:
    """Return the block that `open_tree` opens, for those who steer it from beside."""

    def pick(root: SupervisorCell) -> Supervisor:
        return cast("Supervisor", root.face)

    return Root(tree, tree.name, pick, logger, observers)


def open_child(
    child: Child[T],
    *,
    max_restarts: int = 3,
    within: float = 5.0,
    logger: Logger | None = None,
) -> AbstractAsyncContextManager[T]:
    """Open one child with a supervisor of its own around a block: the block form of a component.

    As `open_supervisor`; ``as`` gives what spawning `child` would. The child's
    path is its name alone.
    """

    def pick(root: SupervisorCell) -> T:
        (node,) = root.nodes.values()
        return cast("T", node.face)

    only: tuple[Child[Any]] = (child,)
    tree = Tree(name=child.name or "child", children=only, max_restarts=max_restarts, within=within)
    return Root(tree, "", pick, logger)


async def run_actor(
    factory: Callable[[], A],
    *,
    name: str | None = None,
    grace: float = 5.0,
    mailbox: int = 100,
    logger: Logger | None = None,
    task_status: trio.TaskStatus[Ref[A]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run one actor in a nursery of yours: ``ref = await nursery.start(run_actor, Counter)``.

    It is not restarted: a crash comes out of this, as it is. Returns when the
    actor has stopped; cancelling this closes the actor within its grace.
    """
    child: Child[Any] = Child(factory, name=name, restart="temporary", grace=grace, mailbox=mailbox)
    async with open_child(child, logger=logger) as ref:
        task_status.started(ref)
        exit_ = await ref.wait_stopped()
    if exit_.error is not None:
        raise exit_.error
