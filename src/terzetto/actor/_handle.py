"""The public face of a running supervisor."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast, overload

import attrs

from terzetto.actor._actor import Actor
from terzetto.actor._cell import ActorCell
from terzetto.actor._checks import check_count
from terzetto.actor._current import refuse_own_end
from terzetto.actor._describe import Description, describe_node
from terzetto.actor._errors import SpecError, UnknownChildError
from terzetto.actor._events import Event, Feed, Observer
from terzetto.actor._node import Node, end, wait_for_end
from terzetto.actor._ref import Ref
from terzetto.actor._supervisor import Spec, SupervisorCell
from terzetto.actor._tree import Child, Tree
from terzetto.actor._types import Ending, Exit, Restart

A = TypeVar("A", bound=Actor)
T = TypeVar("T")


def as_spec(child: object, options: dict[str, Any]) -> Spec:
    """Return the spec that the arguments of a `spawn` stand for.

    Raises:
        SpecError: options beside a spec, or nothing that can be started.
    """
    if isinstance(child, Child | Tree):
        if options:
            raise SpecError(f"{', '.join(options)}: a spec has its options in itself")
        return child  # pyright: ignore[reportUnknownVariableType] - a Child of anything
    return Child(cast("Callable[[], Actor]", child), **options)


@attrs.frozen(eq=False, repr=False)
class Supervisor:
    """A running supervisor: starts children, finds them, stops them."""

    cell: SupervisorCell = attrs.field(alias="cell")
    """The runtime; for the kernel's own use."""

    @property
    def name(self) -> str:
        """The supervisor's name."""
        return self.cell.name

    @property
    def path(self) -> str:
        """The names from the root down to the supervisor, joined by slashes."""
        return self.cell.path

    @property
    def children(self) -> tuple[str, ...]:
        """The names of its children, in order of start."""
        return tuple(node.name for _, node in sorted(self.cell.nodes.items()))

    @property
    def is_stopped(self) -> bool:
        """Whether it has ended for good."""
        return self.cell.exit is not None

    @overload
    async def spawn(
        self,
        child: Callable[[], A],
        *,
        name: str | None = None,
        restart: Restart = "transient",
        grace: float = 5.0,
        mailbox: int = 100,
        significant: bool = False,
    ) -> Ref[A]: ...

    @overload
    async def spawn(self, child: Child[T]) -> T: ...

    @overload
    async def spawn(self, child: Tree) -> "Supervisor": ...

    async def spawn(self, child: Any, **options: Any) -> Any:
        """Start a child; returns once it has started (`Actor.started` has returned).

        Takes a factory with the options of `Child`, or a `Child`, or a `Tree`;
        gives a `Ref`, the child's face, or a `Supervisor`. When cancelled, the
        child is stopped again.

        Raises:
            ChildNameError: the name is malformed or taken.
            ChildLimitError: there are `max_children` already.
            SpecError: an option is out of its range.
            ActorStoppedError: the supervisor has stopped or is stopping.
            AskCycleError: the child would have to wait for the one that spawns it.
            Exception: what the child's start raised, as it is.
        """
        return await self.cell.spawn(as_spec(child, options))

    @overload
    def get(self, path: str, kind: type[A]) -> Ref[A]: ...

    @overload
    def get(self, path: str, kind: type[T]) -> T: ...

    def get(self, path: str, kind: type[Any]) -> Any:
        """Look up a child, or a child's child, by its names joined by slashes.

        `kind` is the actor's class, and gives its ref; or the class of the
        child's face, or `Supervisor`, and gives that.

        Raises:
            UnknownChildError: there is none, or it is of another type.
        """
        node: Node = self.cell
        for name in path.split("/"):
            node = _child(node, name)
        if isinstance(node, ActorCell) and issubclass(kind, Actor):
            if node.actor_type is not None and issubclass(node.actor_type, kind):
                return Ref[Any](node)
        elif isinstance(node.face, kind) and kind is not Ref:
            return node.face
        found = node.actor_type if isinstance(node, ActorCell) else Supervisor
        raise UnknownChildError(
            f"{node.path!r} is no {kind.__name__}: it is a "
            f"{'child that has not started' if found is None else found.__name__}"
        )

    def describe(self) -> Description:
        """Return a picture of it and all below it: states, restarts, mailboxes, as they are now."""
        return describe_node(self.cell)

    @property
    def dead_letters(self) -> Mapping[tuple[str, str], int]:
        """How many dead letters there were at and below it, by path and reason.

        Reasons are those of `DeadLetter`. After 10,000 different places further
        ones are counted at the root under an empty path.
        """
        counts = self.cell.system.hub.dead_letters
        return {key: counts[key] for key in counts if self._covers(key[0])}

    def _covers(self, path: str) -> bool:
        return (path + "/").startswith(self.path + "/") or not self.path

    @asynccontextmanager
    async def events(self, *, buffer_size: int = 1000) -> AsyncGenerator[AsyncIterator[Event]]:
        """Watch what happens at and below it, from here on.

        Gives an async iterator that ends when the whole tree has ended. A
        reader that falls `buffer_size` events behind loses the oldest and gets
        a `Missed` in their place: the tree never waits for it.

        Raises:
            SpecError: `buffer_size` is below 1.
        """
        check_count("buffer_size", buffer_size, 1)
        hub = self.cell.system.hub
        feed = hub.add(Feed(buffer_size, self.path))
        try:
            yield feed
        finally:
            hub.remove(feed)

    def observe(self, observer: Observer, *, buffer_size: int = 1000) -> None:
        """Call `observer` with every event at and below it, from here on.

        It runs in a task of its own and is given `Missed` for what it was too
        slow to see. One that raises is logged, and gets no more events; what is
        no `Exception` closes the tree and comes out of its block.

        Raises:
            SpecError: `buffer_size` is below 1.
        """
        check_count("buffer_size", buffer_size, 1)
        self.cell.system.observe(observer, buffer_size, self.path)

    async def stop_child(self, name: str) -> Exit:
        """Close one child; it stays listed, and `start_child` starts it anew.

        Cancelling this stops the waiting, not the closing.

        Raises:
            UnknownChildError: there is no child of that name.
        """
        node = self.cell.find(name)
        refuse_own_end(node)
        self.cell.kept.add(name)
        self.cell.stop_child(node, Ending.CLOSE)
        return await node.wait_stopped()

    async def start_child(self, name: str) -> Any:  # noqa: ANN401 - a ref or a face; `get` has it typed
        """Start a child that has stopped, in its old place; returns what `spawn` would.

        It has a new mailbox; refs of the one that stopped stay stopped. When
        cancelled, the child is stopped again, and stays listed.

        Raises:
            UnknownChildError: there is no child of that name.
            SpecError: it has not stopped.
        """
        node = self.cell.find(name)
        if node.exit is None:
            raise SpecError(f"{node.path!r} has not stopped: it is {node.state}")
        return await self.cell.wait_up(self.cell.start_again(name))

    async def restart_child(self, name: str) -> None:
        """Stop one child and start it again; its mailbox stays. Returns once it is up.

        It is not counted as a restart after a crash. Cancelling this stops the
        waiting, not the restart.

        Raises:
            UnknownChildError: there is no child of that name.
            ActorStoppedError: it has stopped for good.
        """
        node = self.cell.find(name)
        refuse_own_end(node)
        await self.cell.restart_and_wait(node)

    async def remove_child(self, name: str) -> None:
        """Close one child if it runs, and forget it: its name is free again.

        When cancelled, the child is closed and stays listed.

        Raises:
            UnknownChildError: there is no child of that name.
        """
        node = self.cell.find(name)
        if node.exit is None:
            await self.stop_child(name)
        self.cell.forget(node)

    async def close(self) -> Exit:
        """Stop all children, the last one first, and then the supervisor; work is handed back.

        Cancelling this stops the waiting, not the closing.

        Raises:
            AskCycleError: one of its own actors calls this in a handler.
        """
        return await end(self.cell, Ending.CLOSE)

    async def shutdown(self) -> Exit:
        """Let every child handle what it had accepted, the last one first, and then stop.

        Cancelling this stops the waiting, not the draining.

        Raises:
            AskCycleError: one of its own actors calls this in a handler, or one
                of them waits for the actor that does.
        """
        return await end(self.cell, Ending.SHUTDOWN)

    async def wait_stopped(self) -> Exit:
        """Wait until it has ended for good; return why. Cancelling stops the waiting only.

        Raises:
            AskCycleError: one of its own actors calls this in a handler.
        """
        return await wait_for_end(self.cell)

    def __repr__(self) -> str:
        return f"<Supervisor {self.path} {self.cell.state}, {len(self.cell.nodes)} children>"


def _child(node: Node, name: str) -> Node:
    if isinstance(node, ActorCell):
        if node.children is None:
            raise UnknownChildError(f"{node.path!r} has no child {name!r}; it has: none")
        return node.children.find(name)
    return cast("SupervisorCell", node).find(name)
