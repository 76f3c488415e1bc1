"""The supervisor's runtime: one coordinator task that carries out what the policy decides.

Theory of operation
-------------------
Everything that concerns a supervisor comes to its coordinator as a report in
one queue: a child started or ended, somebody wants a child started or stopped,
the supervisor itself is to end. The coordinator asks the policy about each and
carries out the actions, none of which waits: starting a child begins its task,
stopping one marks it, and the outcome comes back as a report. So a child that
is slow to start or to stop holds up nothing but itself, and a back-off is only
the time until the next tick.

Children of the tree's spec keep their nodes, and with them refs and mailboxes,
when the whole supervisor is restarted; those spawned later do not come back.

Invariants: only the coordinator touches the policy; a node is finished exactly
once; a life ends only after all children have.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import attrs
import trio

from terzetto._shared._texts import add_note
from terzetto.actor import _policy as do
from terzetto.actor._cell import ActorCell
from terzetto.actor._current import Waiter, waiting_for
from terzetto.actor._errors import (
    ActorStoppedError,
    AskCycleError,
    ChildLimitError,
    ChildNameError,
    UnknownChildError,
)
from terzetto.actor._events import Escalated, describe_stop
from terzetto.actor._mailbox import Mailbox
from terzetto.actor._node import Node
from terzetto.actor._policy import How, Policy
from terzetto.actor._ref import Ref
from terzetto.actor._tree import Child, Tree, default_name
from terzetto.actor._types import Ending, Exit, LifeEnd, Stop

Spec: TypeAlias = Child[Any] | Tree
Report: TypeAlias = Callable[[float], list[do.Action]]


@attrs.define(eq=False, kw_only=True)
class SupervisorCell(Node):
    """The runtime of one supervisor."""

    tree: Tree
    owner: ActorCell | None = None
    """The actor whose children these are; None for a tree."""

    nodes: dict[int, Node] = attrs.field(factory=dict[int, Node])
    names: dict[str, Node] = attrs.field(factory=dict[str, Node])
    kept: set[str] = attrs.field(factory=set[str])
    """The names of children that stay listed, and come back when this supervisor restarts."""

    _last_order: int = 0
    _last_suffix: dict[str, int] = attrs.field(factory=dict[str, int])
    _policy: Policy | None = None
    _reports: deque[Report] = attrs.field(factory=deque[Report])
    _sleeper: trio.lowlevel.Task | None = None
    _ends: dict[int, LifeEnd] = attrs.field(factory=dict[int, LifeEnd])
    _wanted: dict[int, Ending] = attrs.field(factory=dict[int, Ending])
    _not_up: set[int] = attrs.field(factory=set[int])
    _failure: BaseException | None = None
    _force_at: float = math.inf
    _ended: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        """Make the nodes of the children that the spec names."""
        for spec in self.tree.children:
            self.kept.add(self._add_node(spec, None).name)

    @classmethod
    def under(cls, owner: ActorCell) -> "SupervisorCell":
        """Make and begin the supervisor of an actor's own children."""
        cell = cls(
            name=owner.name,
            path=owner.path,
            system=owner.system,
            parent=None,
            owner=owner,
            tree=Tree(name=owner.name),
            spec=None,
        )
        cell.begin()
        return cell

    # What others ask of it, in their own tasks -------------------------------------------

    async def spawn(self, spec: Spec) -> Any:  # noqa: ANN401 - a ref, a face or a supervisor, typed where it is offered
        """Start one more child and return its face once it is up."""
        node = self._admit(spec, None)
        self.feed(partial(self._add, node))
        return await self.wait_up(node)

    async def wait_up(self, node: Node) -> Any:  # noqa: ANN401 - as spawn
        """Wait until a child that was just added is up; if that fails, take it away again."""
        try:
            with waiting_for(node):
                await node.wait_settled()
        except (trio.Cancelled, AskCycleError):
            self.system.stop(node, Ending.CLOSE)
            raise
        if node.was_up:
            return node.face
        exit_ = node.exit
        if exit_ is not None and exit_.error is not None:
            raise exit_.error
        raise ActorStoppedError(f"{node.path!r} was stopped before it had started")

    @trio.lowlevel.enable_ki_protection
    def feed(self, report: Report) -> None:
        """Give the coordinator something to do."""
        self._reports.append(report)
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            trio.lowlevel.reschedule(sleeper)

    def hear_started(self, node: Node) -> None:
        """Hear from a child that it is up."""
        self.feed(partial(self._child_started, node))

    def hear_exited(self, node: Node, end: LifeEnd) -> None:
        """Hear from a child that its life has ended."""
        self.feed(partial(self._child_exited, node, end))

    def stop_child(self, node: Node, ending: Ending) -> None:
        """Stop one child for good."""
        self.feed(partial(self._stop_child, node, ending))

    async def restart_and_wait(self, node: Node) -> None:
        """Stop one child and start it again; return once it is up."""
        if node.exit is None:
            node.expect_start()
            self.feed(lambda now: self._known_policy().restart(node.order, now))
        with waiting_for(node, refuse=False):  # what it does now is cut off within its grace
            await node.wait_settled()
        if node.exit is not None:
            raise ActorStoppedError(f"{node.path!r} {describe_stop(node.exit.reason)}")

    def start_again(self, name: str) -> Node:
        """Add a new node for a stopped child, in the old one's place, and start it."""
        old = self.find(name)
        node = self._admit(old.spec, old)
        self.feed(partial(self._add, node))
        return node

    def forget(self, node: Node) -> None:
        """Drop a stopped child for good; its name may be another's by now."""
        if self.names.get(node.name) is node:
            del self.names[node.name]
            del self.nodes[node.order]
            self.kept.discard(node.name)

    def find(self, name: str) -> Node:
        """Return a child by name, or raise `UnknownChildError`."""
        try:
            return self.names[name]
        except KeyError:
            known = ", ".join(self.names) or "none"
            raise UnknownChildError(
                f"{self.path!r} has no child {name!r}; it has: {known}"
            ) from None

    def waits_for(self) -> Iterable[Waiter]:
        """Return the children that it is starting, or letting come to their end."""
        draining = self.ending is Ending.SHUTDOWN
        below = [node for node in self.nodes.values() if draining or node.state == "starting"]
        return [*below, *super().waits_for()]

    def starts_before(self, node: Node) -> Node | None:
        """Return the child that must be up before `node` is started."""
        order = None if self._policy is None else self._policy.whose_turn(node.order)
        return None if order is None else self.nodes[order]

    def above(self) -> Waiter | None:
        """Return the supervisor above, or the actor whose children these are."""
        return self.parent if self.owner is None else self.owner

    async def stop_with_owner(self, ending: Ending) -> None:
        """Stop all children of an actor that is closing, and wait for it."""
        self.request(ending if ending is Ending.SHUTDOWN else Ending.CLOSE)
        await self._ended.wait()

    # As a node ---------------------------------------------------------------------------

    def apply_ending(self) -> None:
        """Begin the closing."""
        if self.tree.grace is not None:
            self._force_at = min(self._force_at, trio.current_time() + self.tree.grace)
        policy = self._policy
        # A life that has failed meanwhile leaves the report to the next one, which it is not for.
        self.feed(lambda now: self._close(policy, now) if policy is self._policy else [])

    def _close(self, policy: Policy | None, now: float) -> list[do.Action]:
        if policy is None:
            return []
        shutdown = self.ending is Ending.SHUTDOWN
        drain = {order for order, node in self.nodes.items() if shutdown and node.has_messages()}
        return policy.close(now, drain)

    def has_messages(self) -> bool:
        """Whether messages wait for one of those below it."""
        return any(node.has_messages() for node in self.nodes.values())

    def force(self) -> None:
        """End all grace periods now."""
        self._forced = True
        for node in list(self.nodes.values()):
            if node.ending is not None and node.exit is None:
                node.force()

    def bound(self) -> float:
        """Return the seconds within which it ends once it is asked to."""
        bounds = [node.bound() for node in self.nodes.values() if node.exit is None]
        total = max(bounds, default=0.0) if self.tree.dynamic else sum(bounds)
        return total if self.tree.grace is None else min(total, self.tree.grace)

    def count(self) -> int:
        """Return how many nodes there are from here down."""
        return 1 + sum(node.count() for node in self.nodes.values())

    def finish(self, exit_: Exit) -> None:
        """Resolve, and with it every child that was kept for a next life."""
        self.finish_all(exit_)
        super().finish(exit_)

    @trio.lowlevel.enable_ki_protection
    async def live(self) -> None:
        """Run one life of the coordinator."""
        self._failure = None
        self._policy = policy = Policy(self.tree.rules())
        static = [
            node for node in self.nodes.values() if node.exit is None and node.name in self.kept
        ]
        self._not_up = {node.order for node in static}
        now = trio.current_time()
        self._perform(policy.start([(n.order, n.restart, n.significant) for n in static], now))
        if self.ending is not None:  # asked to end before its task came to run
            self.apply_ending()
        elif not static:
            self.note_started()
        while not policy.is_done():
            await self._sleep(policy)
            now = trio.current_time()
            while self._reports and not policy.is_done():
                self._perform(self._reports.popleft()(now))
            self._perform(policy.tick(now))
            if now >= self._force_at:
                self._force_at = math.inf
                self.force()
        self._policy = None
        self._force_at = math.inf
        self.note_ended(self._end())

    async def _sleep(self, policy: Policy) -> None:
        """Wait for a report, or for the time of the next tick."""
        if self._reports:
            return
        tick = policy.next_deadline()
        until = self._force_at if tick is None else min(tick, self._force_at)
        if until == math.inf:
            await self._park()
        else:
            with trio.CancelScope(deadline=until):
                await self._park()

    @trio.lowlevel.enable_ki_protection
    async def _park(self) -> None:
        self._sleeper = trio.lowlevel.current_task()

        def abort(_: Any) -> trio.lowlevel.Abort:  # noqa: ANN401 - trio's RaiseCancelT, not used
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    # The coordinator's work --------------------------------------------------------------

    def _known_policy(self) -> Policy:
        if self._policy is None:
            raise AssertionError("reports are taken only while a life runs")
        return self._policy

    def _add(self, node: Node, now: float) -> list[do.Action]:
        if node.exit is not None:
            return []
        policy = self._known_policy()
        if policy.state != "running":
            self._drop(node, Exit(self._mode().reason))
            return []
        return policy.add(node.order, node.restart, now, significant=node.significant)

    def _stop_child(self, node: Node, ending: Ending, now: float) -> list[do.Action]:
        policy = self._known_policy()
        if node.exit is not None:
            return []
        self._wanted[node.order] = max(ending, self._wanted.get(node.order, ending))
        if node.order not in policy.children:
            self._drop(node, Exit(ending.reason))
            return []
        drain = ending is Ending.SHUTDOWN and node.has_messages()
        return policy.stop(node.order, now, drain=drain)

    def _child_started(self, node: Node, now: float) -> list[do.Action]:
        self._await_no_more(node)
        return self._known_policy().started(node.order, now)

    def _await_no_more(self, node: Node) -> None:
        """Be up once every child of the spec has been up, or was stopped by name."""
        self._not_up.discard(node.order)
        if self.state == "starting" and not self._not_up:
            self.note_started()

    def _child_exited(self, node: Node, end: LifeEnd, now: float) -> list[do.Action]:
        self._ends[node.order] = end
        policy = self._known_policy()
        how = How.NORMAL if end.error is None else How.FATAL if end.is_fatal else How.CRASHED
        if how is How.FATAL and policy.state == "closing" and self._failure is None:
            self._failure = end.error
        return policy.exited(node.order, how, now)

    def _perform(self, actions: list[do.Action]) -> None:
        for action in actions:
            match action:
                case do.Start(id_):
                    self.nodes[id_].begin()
                case do.Stop(id_):
                    self._stop(self.nodes[id_])
                case do.Gone(id_):
                    self._gone(self.nodes[id_])
                case do.Escalate(id_, why):
                    self._fail(self.nodes[id_], why)
                case do.AutoClose() | do.Finished():
                    pass  # the stops that follow, and the end of the life, say it all

    def _stop(self, node: Node) -> None:
        policy = self._known_policy()
        wanted = self._wanted.get(node.order)
        if policy.state != "running":
            ending = self._mode()
            if ending is Ending.RESTART and node.name not in self.kept:
                ending = Ending.CLOSE  # it was spawned, and will not come back
        elif (
            wanted is None and node.restart == "temporary" and not policy.children[node.order].again
        ):
            ending = Ending.CLOSE  # it falls with its group, and will not come back
        else:
            ending = Ending.RESTART
        node.request(ending if wanted is None else max(ending, wanted))
        if self._forced:
            node.force()

    def _mode(self) -> Ending:
        """Return in which way all children are being stopped."""
        if self.ending is not None:
            return self.ending
        comes_back = self.parent is not None and (
            self.restart == "permanent"
            or (self._failure is not None and self.restart == "transient")
        )
        return Ending.RESTART if comes_back else Ending.CLOSE

    def _gone(self, node: Node) -> None:
        end = self._ends.pop(node.order, None)
        wanted = self._wanted.pop(node.order, None)
        policy = self._known_policy()
        closing = policy.state != "running"
        if not closing:
            self._await_no_more(node)
        if closing and wanted is None and node.name in self.kept and self._mode() is Ending.RESTART:
            return  # it keeps its mailbox for the next life of this supervisor
        reason = self._mode().reason if wanted is None else wanted.reason
        self._drop(node, Exit(reason) if end is None else Exit(end.reason, end.error))

    def _drop(self, node: Node, exit_: Exit) -> None:
        """Finish a node; forget it unless it can be started again."""
        node.finish(exit_)
        if node.name not in self.kept:
            self.nodes.pop(node.order, None)
            if self.names.get(node.name) is node:
                del self.names[node.name]

    def _fail(self, node: Node, why: str) -> None:
        error, verb = self._ends[node.order].error, "crashed"
        if error is None:  # a permanent child: its normal ends are restarted too
            error, verb = ActorStoppedError(f"{node.path!r} has stopped by itself"), "ended"
        add_note(error, f"terzetto: {node.path!r} {verb}, and {why}")
        self._failure = error
        self.system.hub.emit(Escalated(path=self.path, child=node.path, error=error, why=why))

    def _end(self) -> LifeEnd:
        if self._failure is not None:
            return LifeEnd(Stop.CRASHED, self._failure)
        return LifeEnd(Stop.NORMAL if self.ending is None else self.ending.reason)

    def note_started(self) -> None:
        """Report that the life is up; an actor's own supervisor reports nothing."""
        if self.owner is None:
            super().note_started()
        else:
            self.mark_running()

    def note_ended(self, end: LifeEnd) -> None:
        """Report that the life is over; to the actor, if these are an actor's children."""
        if self.owner is None:
            super().note_ended(end)
            return
        if end.error is not None:
            self.owner.fail(end.error)
        exit_ = Exit(end.reason, end.error)
        self.resolve(exit_)
        self.finish_all(exit_)
        self._ended.set()

    def finish_all(self, exit_: Exit) -> None:
        """Finish what waits for a coordinator that will not come."""
        self._reports.clear()
        for node in list(self.nodes.values()):
            node.finish(Exit(Stop.CLOSED if exit_.error is not None else exit_.reason))

    # Nodes -------------------------------------------------------------------------------

    def _admit(self, spec: Spec, old: Node | None) -> Node:
        """Make a node for a new child, or refuse it."""
        if self.exit is not None or (self.ending is not None and self.ending is not Ending.RESTART):
            reason = describe_stop(self.exit.reason) if self.exit is not None else "is stopping"
            raise ActorStoppedError(f"{self.path!r} starts no more children: it {reason}")
        cap = self.tree.max_children
        if cap is not None and len(self.nodes) >= cap and self._count_living() >= cap:
            raise ChildLimitError(
                f"{self.path!r} has {cap} children, as many as max_children allows"
            )
        return self._add_node(spec, old)

    def _count_living(self) -> int:
        return sum(node.exit is None for node in self.nodes.values())

    def _add_node(self, spec: Spec, old: Node | None) -> Node:
        if old is None:
            name = self._free_name(spec)
            self._last_order += 1
            order = self._last_order
        else:
            name, order = old.name, old.order
        place: dict[str, Any] = {
            "name": name,
            "path": f"{self.path}/{name}" if self.path else name,
            "system": self.system,
            "parent": self,
            "order": order,
            "restart": spec.restart,
            "significant": spec.significant,
            "spec": spec,
        }
        node: Node
        if isinstance(spec, Tree):
            node = SupervisorCell(tree=spec, **place)
            node.face = self.system.face_of(node)
        else:
            node = ActorCell(
                factory=spec.factory,
                grace=spec.grace,
                turns=self.system.turns,
                mailbox=Mailbox(place["path"], spec.mailbox, self.system.now),
                **place,
            )
            ref = Ref[Any](node)
            node.face = ref if spec.face is None else spec.face(ref)
        self.nodes[order] = self.names[name] = node
        return node

    def _free_name(self, spec: Spec) -> str:
        if spec.name is not None:
            if spec.name in self.names:
                raise ChildNameError(
                    f"{self.path!r} has a child {spec.name!r} already: give another name"
                )
            return spec.name
        base = default_name(spec.factory)
        if base not in self.names:
            return base
        number = self._last_suffix.get(base, 1)
        while True:
            number += 1
            name = f"{base}-{number}"
            if name not in self.names:
                self._last_suffix[base] = number
                return name
