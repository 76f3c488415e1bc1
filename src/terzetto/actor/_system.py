"""The root: the nursery that all tasks of a tree live in, and the block around it.

Theory of operation
-------------------
The block opens a nursery in the caller's task, whose one child opens a second
nursery under a shield; every task of the tree lives in the second. So a
cancellation from outside reaches the caller's code, leaves the block, and there
becomes a close: the shield gets its deadline, within which the actors stop in
order. Ctrl-C is kept out of the kernel's own code: it is raised in the caller's
code or in a handler, and becomes a close as well. The first nursery never sees
an exception of the caller's code, so nothing comes out wrapped in a group, and
a `Cancelled` only passes through.

When restarts are used up, the scope around the caller's code is cancelled and
the last crash is raised from the block, unless that code raised by itself; what
is no `Exception` comes before one.

Invariant: the shield has a deadline from the moment the block is left.
"""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

import attrs
import trio

from terzetto._shared._logging import Logger, default_logger
from terzetto.actor._background import triage
from terzetto.actor._cell import ActorCell
from terzetto.actor._context import Context
from terzetto.actor._errors import ActorStoppedError, set_context
from terzetto.actor._events import Feed, Hub, Observer, run_observer
from terzetto.actor._handle import Supervisor
from terzetto.actor._log import log_to
from terzetto.actor._node import Node
from terzetto.actor._supervisor import SupervisorCell
from terzetto.actor._tree import Tree
from terzetto.actor._types import Ending, Exit, LifeEnd, Stop

T = TypeVar("T")

_turns: trio.lowlevel.RunVar[Iterator[int]] = trio.lowlevel.RunVar("terzetto.actor.turns")

OBSERVER_BUFFER = 1000
SLACK = 1.0  # seconds beyond the sum of grace periods before everything is cancelled
TURNS = 0.001  # seconds more for each actor: with many of them their turns alone take long


def _turns_of_this_run() -> Iterator[int]:
    try:
        return _turns.get()
    except LookupError:
        turns = itertools.count(1)
        _turns.set(turns)
        return turns


@attrs.define(eq=False)
class System:
    """What the nodes of one root share."""

    logger: Logger
    observers: tuple[Observer, ...] = ()
    hub: Hub = attrs.field(factory=Hub)
    now: Callable[[], float] = attrs.field(
        factory=lambda: trio.lowlevel.current_clock().current_time
    )
    turns: Iterator[int] = attrs.field(factory=_turns_of_this_run)
    ended: trio.Event = attrs.field(factory=trio.Event)
    failure: BaseException | None = None
    body: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    shield: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    _nursery: trio.Nursery | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self, root: SupervisorCell) -> None:
        """Begin the root, and hold the nursery open until the tree has ended."""
        if self.ended.is_set():
            return  # the block was cancelled before this task came to run
        with self.shield:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for observer in (log_to(self.logger), *self.observers):
                    self.observe(observer, OBSERVER_BUFFER)
                root.begin()
                await self.ended.wait()
                # Only observers are left; they may see the last events, but not stay.
                nursery.cancel_scope.deadline = trio.current_time() + SLACK

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery of all tasks of the tree."""
        if self._nursery is None:
            raise AssertionError("the root opens its nursery first")
        return self._nursery

    def spawn(self, fn: Callable[..., Awaitable[object]], name: str, *args: Any) -> None:  # noqa: ANN401 - as trio's own
        """Start a task of the tree."""
        self.nursery.start_soon(fn, *args, name=name)

    async def start(self, fn: Callable[..., Awaitable[object]], name: str) -> Any:  # noqa: ANN401 - as trio's own
        """Start a task of the tree and wait until it says that it has started."""
        return await self.nursery.start(fn, name=name)

    def observe(self, observer: Observer, buffer_size: int, path: str = "") -> None:
        """Start an observer of events at and below `path`."""
        if not self.ended.is_set():  # there are no events any more
            feed = self.hub.add(Feed(buffer_size, path))
            self.spawn(self._observe, f"observer {observer!r}", feed, observer)

    async def _observe(self, feed: Feed, observer: Observer) -> None:
        """Run an observer; drop one that raises, and fail if that is no `Exception`."""
        try:
            await run_observer(feed, observer)
        except BaseException as raised:  # noqa: BLE001 - the boundary of user code; see triage
            error = await triage(f"observer {observer!r}", raised)
            if isinstance(error, Exception):
                event = "observer raised and gets no more events"
                self.log_raised(event, error, observer=repr(observer))
            else:
                self.fail(error)
        finally:
            self.hub.remove(feed)

    def log_raised(self, event: str, error: Exception, **fields: str) -> None:
        """Log what an observer or a monitor raised."""
        try:
            self.logger.error(event, exc_info=error, **fields)
        except Exception:  # noqa: BLE001 - a logger of the user's; it may be what raised before
            default_logger("actor").error(event, exc_info=error, **fields)

    def context_of(self, cell: ActorCell) -> Context[Any]:
        """Return the context of one life."""
        return Context(cell)

    def face_of(self, cell: SupervisorCell) -> Supervisor:
        """Return the public face of a supervisor."""
        return Supervisor(cell)

    def stop(self, node: Node, ending: Ending) -> None:
        """Stop a node for good."""
        if node.parent is not None:
            node.parent.stop_child(node, ending)
        else:
            node.request(ending)

    def root_ended(self, root: Node, end: LifeEnd) -> None:
        """Hear that the root's life is over."""
        root.finish(Exit(end.reason, end.error))
        if end.error is not None:
            self.fail(end.error)
        self.hub.end()
        self.ended.set()

    def fail(self, error: BaseException) -> None:
        """Cancel the block; `error` comes out of it, unless there is one already."""
        if self.failure is None:
            self.failure = error
        self.body.cancel()


@attrs.define(eq=False)
class Root(AbstractAsyncContextManager[T], Generic[T]):
    """A block around a tree of its own; `_pick` chooses what ``as`` gives."""

    _tree: Tree
    _path: str
    _pick: Callable[[SupervisorCell], T]
    _logger: Logger | None = None
    _observers: tuple[Observer, ...] = ()
    _system: System | None = None
    _root: SupervisorCell | None = None
    _manager: Any = None  # trio's NurseryManager has no public name

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> T:
        system = self._system = System(self._logger or default_logger("actor"), self._observers)
        root = self._root = SupervisorCell(
            name=self._tree.name,
            path=self._path,
            system=system,
            parent=None,
            tree=self._tree,
            spec=self._tree,
        )
        root.face = Supervisor(root)
        self._manager = trio.open_nursery()
        nursery = await self._manager.__aenter__()
        system.body.__enter__()
        try:
            # Not Nursery.start: it keeps a task that begins in a cancelled scope, shield or not.
            nursery.start_soon(system.run, root)
            await root.wait_settled()
        except BaseException as error:
            if not await self.__aexit__(type(error), error, error.__traceback__):
                raise
        if not root.was_up:
            await self.__aexit__(None, None, None)
            raise ActorStoppedError(f"{root.path!r} ended before it had started")
        return self._pick(root)

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        system, root = self._system, self._root
        if system is None or root is None:
            raise AssertionError("a block is entered before it is left")
        try:
            absorbed = system.body.__exit__(exc_type, exc, traceback)
        finally:
            # A second Ctrl-C may end the first of these; it comes out after the second.
            try:
                await self._close(system, root)
            finally:
                await self._manager.__aexit__(None, None, None)
        failure = system.failure
        # Ctrl-C in a handler comes to its asker as an `ActorCrashedError`, and is still Ctrl-C.
        outranks = isinstance(exc, Exception) and not isinstance(failure, Exception)
        if failure is not None and (exc is None or absorbed or outranks):
            context = failure.__context__
            try:
                raise failure
            finally:
                set_context(failure, context)  # the Cancelled of the block explains nothing
        return bool(absorbed)

    def request(self, ending: Ending) -> None:
        """Ask the tree to end in this way, from the moment that the block is being entered."""
        if self._root is not None:
            self._root.request(ending)

    def force(self) -> None:
        """End all grace periods of the tree now."""
        if self._root is not None:
            self._root.force()

    async def _close(self, system: System, root: SupervisorCell) -> None:
        """Close the tree within its grace; beyond that, cancel what is left."""
        if root.state == "new":  # cancelled before anything had begun
            root.finish(Exit(Stop.CLOSED))
            system.ended.set()
        elif not system.ended.is_set():
            root.request(Ending.CLOSE)
            allowance = root.bound() + SLACK + TURNS * root.count()
            system.shield.deadline = trio.current_time() + allowance
            with trio.CancelScope(deadline=system.shield.deadline, shield=True):
                await system.ended.wait()
            if not system.ended.is_set():
                root.finish(Exit(Stop.CLOSED))
                system.hub.end()
                system.ended.set()
