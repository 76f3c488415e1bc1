"""A place in the tree: what actors and supervisors have in common, seen from above.

A node outlives the lives that are run in it: it holds the name, the options
and the state, and it resolves exactly once, with the final `Exit`. Its
supervisor begins lives, asks them to end and hears how they ended.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import attrs
import trio

from terzetto.actor._current import Waiter, refuse_own_end, waiting_for
from terzetto.actor._events import Crashed, Restarted, Started, Stopped
from terzetto.actor._types import Ending, Exit, LifeEnd, Restart, State

if TYPE_CHECKING:
    from terzetto.actor._supervisor import SupervisorCell
    from terzetto.actor._system import System


@attrs.define(eq=False, kw_only=True)
class Node(ABC):
    """The common part of `ActorCell` and `SupervisorCell`."""

    name: str
    path: str
    system: "System"
    parent: "SupervisorCell | None"
    spec: Any
    """The `Child` or `Tree` that it was made of; None for an actor's own supervisor."""

    order: int = 0
    restart: Restart = "transient"
    significant: bool = False
    state: State = "new"
    restarts: int = 0
    exit: Exit | None = None
    ending: Ending | None = None
    face: Any = None
    """What `spawn` returned for this node: a ref, or the face made of it."""

    was_up: bool = False
    is_up: bool = False
    _forced: bool = False
    """Whether the grace periods of the life have been ended."""

    _monitors: list[Callable[[Exit], None]] = attrs.field(factory=list[Callable[[Exit], None]])
    _stopped: trio.Event | None = None
    _settled: trio.Event | None = None

    def waits_for(self) -> Iterable[Waiter]:
        """Return those that it cannot go on without: before a start, whom that waits for."""
        ahead = None if self.is_up or self.parent is None else self.parent.starts_before(self)
        return () if ahead is None else (ahead,)

    def above(self) -> Waiter | None:
        """Return the supervisor that it is a child of; None at the root."""
        return self.parent

    def has_messages(self) -> bool:
        """Whether messages wait in its mailbox."""
        return False

    # For the supervisor ------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a life."""
        self.ending = None
        self._forced = False
        self.state = "starting"
        self.system.spawn(self.live, self.path)

    @abstractmethod
    async def live(self) -> None:
        """Run one life, and report how it ended."""

    def request(self, ending: Ending) -> None:
        """Ask the running life to end in this way; a weaker request changes nothing."""
        if self.ending is None or ending > self.ending:
            self.ending = ending
            if self.state not in ("stopped", "waiting"):
                self.state = "stopping"
            self.apply_ending()

    @abstractmethod
    def apply_ending(self) -> None:
        """Make the running life see what `ending` says."""

    @abstractmethod
    def force(self) -> None:
        """End the grace periods of the running life now."""

    @abstractmethod
    def bound(self) -> float:
        """Return the seconds within which a requested end is reached, its turns not counted."""

    @abstractmethod
    def count(self) -> int:
        """Return how many nodes there are from here down."""

    @trio.lowlevel.enable_ki_protection
    def note_started(self) -> None:
        """Report that the life is up."""
        self.is_up = True
        self.mark_running()
        if self.was_up:
            self.restarts += 1
            self.system.hub.emit(Restarted(path=self.path, restarts=self.restarts))
        else:
            self.was_up = True
            self.system.hub.emit(Started(path=self.path))
        if self.parent is not None:
            self.parent.hear_started(self)
        if self._settled is not None:
            self._settled.set()

    def mark_running(self) -> None:
        """Be running, unless an end was asked for already."""
        if self.state == "starting":
            self.state = "running"

    @trio.lowlevel.enable_ki_protection
    def note_ended(self, end: LifeEnd) -> None:
        """Report that the life is over."""
        self.is_up = False
        self.state = "waiting"
        if end.error is not None:
            self.system.hub.emit(Crashed(path=self.path, error=end.error))
        if self.parent is not None:
            self.parent.hear_exited(self, end)
        else:
            self.system.root_ended(self, end)

    @trio.lowlevel.enable_ki_protection
    def finish(self, exit_: Exit) -> None:
        """Resolve: no further life will come."""
        if self.exit is not None:
            return
        self.resolve(exit_)
        self.system.hub.emit(Stopped(path=self.path, exit=exit_))
        if self._stopped is not None:
            self._stopped.set()
        if self._settled is not None:
            self._settled.set()
        monitors, self._monitors = self._monitors, []
        for call in monitors:
            self._tell(call, exit_)

    def monitor(self, call: Callable[[Exit], None]) -> None:
        """Have `call` told of the end, now if it has come."""
        if self.exit is None:
            self._monitors.append(call)
        else:
            self._tell(call, self.exit)

    def _tell(self, call: Callable[[Exit], None], exit_: Exit) -> None:
        try:
            call(exit_)
        except Exception as error:  # noqa: BLE001 - the user's, and others wait behind it
            self.system.log_raised("a monitor raised", error, path=self.path)

    def resolve(self, exit_: Exit) -> None:
        """Note the end, and tell nobody."""
        self.exit = exit_
        self.state = "stopped"

    # For anybody -------------------------------------------------------------------------

    def expect_start(self) -> None:
        """Let `wait_settled` wait for the next start, though this life is up."""
        self.is_up = False

    async def wait_settled(self) -> None:
        """Sleep until a start has succeeded, or the node has finished."""
        if not self.is_up and self.exit is None:
            if self._settled is None or self._settled.is_set():
                self._settled = trio.Event()
            await self._settled.wait()

    async def wait_stopped(self) -> Exit:
        """Sleep until the node has finished; return why."""
        if self.exit is None:
            if self._stopped is None:
                self._stopped = trio.Event()
            await self._stopped.wait()
        else:
            await trio.lowlevel.checkpoint()
        if self.exit is None:
            raise AssertionError("a node resolves before it wakes its monitors")
        return self.exit


async def end(node: Node, ending: Ending) -> Exit:
    """Stop `node` for good, and wait for it.

    Raises:
        AskCycleError: the running actor would wait for itself.
    """
    refuse_own_end(node)
    # A close ends by itself, whoever waits for whom.
    with nullcontext() if ending is Ending.CLOSE else waiting_for(node):
        if node.exit is None:
            node.system.stop(node, ending)
        return await node.wait_stopped()


async def wait_for_end(node: Node) -> Exit:
    """Wait until `node` has finished; return why.

    Raises:
        AskCycleError: the running actor would wait for itself.
    """
    refuse_own_end(node)
    with waiting_for(node, refuse=node.ending is not Ending.CLOSE):
        return await node.wait_stopped()
