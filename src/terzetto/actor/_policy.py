"""Supervision as a pure state machine: what to do when children start, end and fall.

No trio and no clock in here: every call brings the time and returns the actions
to carry out, in order. One coordinator task (`_supervisor.py`) does that; a
Hypothesis model drives this machine directly.

Theory of operation
-------------------
A child is IDLE, WAITING (for its back-off), STARTING, UP or STOPPING. The
runtime reports `started` and `exited`; the machine answers with `Start` and
`Stop`, and says `Gone` exactly once for each child it has given up.

What concerns one child only (a restart under one_for_one, a spawn, a stop by
name) is done at once. What has an order is a *plan*: children to stop, last
one first, then children to start, first one first, one at a time. The first
start of a tree, a restart of a group and the closing are plans; a crash in the
middle of one makes a new plan that takes over what was left of the old.

Every restart after a crash is counted; more than `max_restarts` of them within
`within` seconds is `Escalate`. A start that fails is counted apart, by child,
against `max_failed_starts`. Escalating and closing are final: from then on the
machine only stops, and `Finished` is its last word.

Invariants: children are ordered by id; at most one child of a plan is in
motion; nothing is started after the closing has begun, except what a shutdown
owes a last life.
"""

import enum
import heapq
import random
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Literal, TypeAlias

import attrs

from terzetto.actor._backoff import Backoff
from terzetto.actor._types import AutoShutdown, Restart, Strategy


class Phase(enum.Enum):
    """Where a child stands, as the policy sees it."""

    IDLE = "idle"
    WAITING = "waiting"
    STARTING = "starting"
    UP = "up"
    STOPPING = "stopping"


class How(enum.Enum):
    """How a child ended."""

    NORMAL = "normal"
    CRASHED = "crashed"
    FATAL = "fatal"
    """By an exception that no restart answers, such as `SystemExit`."""


@attrs.frozen
class Start:
    """Begin a life of this child."""

    id: int


@attrs.frozen
class Stop:
    """Ask this child to end; `Policy.exited` will report it."""

    id: int


@attrs.frozen
class Gone:
    """This child is supervised no more."""

    id: int


@attrs.frozen
class Escalate:
    """This child's crash is the supervisor's; all children are being stopped."""

    id: int
    why: str


@attrs.frozen
class AutoClose:
    """A significant child ended by itself; all children are being stopped."""

    id: int


@attrs.frozen
class Finished:
    """Every child is gone; the machine takes no more reports."""


Action: TypeAlias = Start | Stop | Gone | Escalate | AutoClose | Finished


@attrs.frozen(kw_only=True)
class Rules:
    """The options of one supervisor that the policy needs."""

    strategy: Strategy = "one_for_one"
    max_restarts: int = 3
    within: float = 5.0
    backoff: Backoff = attrs.field(factory=Backoff)
    max_failed_starts: int = 3
    auto_shutdown: AutoShutdown = "never"
    dynamic: bool = False


@attrs.define
class _Child:
    id: int
    restart: Restart
    significant: bool
    spawned: bool
    phase: Phase = Phase.IDLE
    leaving: bool = False
    again: bool = False
    tried: bool = False
    streak: int = 0
    failed_starts: int = 0
    up_since: float = 0.0
    due: float = 0.0

    @property
    def is_spawning(self) -> bool:
        """Whether somebody who spawned it still waits for its first start."""
        return self.spawned and not self.tried


_IN_MOTION = (Phase.STARTING, Phase.UP)
_ALIVE = (Phase.STARTING, Phase.UP, Phase.STOPPING)


@attrs.define
class _Plan:
    stopping: list[int]
    starting: deque[int]
    not_before: float = 0.0
    busy: int | None = None


@attrs.define(eq=False)
class Policy:
    """The state machine of one life of a supervisor."""

    rules: Rules = attrs.field(factory=Rules)
    chance: Callable[[], float] = random.random
    state: Literal["running", "closing", "done"] = "running"
    children: dict[int, _Child] = attrs.field(factory=dict[int, _Child])
    _plan: _Plan | None = None
    _restarts: deque[float] = attrs.field(factory=deque[float])
    _timers: list[tuple[float, int]] = attrs.field(factory=list[tuple[float, int]])
    _alive: int = 0

    def is_done(self) -> bool:
        """Whether `Finished` has been said."""
        return self.state == "done"

    # What the runtime reports ------------------------------------------------------------

    def start(self, children: Iterable[tuple[int, Restart, bool]], now: float) -> list[Action]:
        """Begin: start these `(id, restart, significant)` in order of their ids."""
        for id_, restart, significant in children:
            self.children[id_] = _Child(id_, restart, significant, spawned=False)
        self._plan = _Plan([], deque(sorted(self.children)))
        return self._advance(now)

    def add(self, id_: int, restart: Restart, now: float, *, significant: bool) -> list[Action]:
        """Take in and start one more child; nothing when the closing has begun."""
        if self.state != "running":
            return []
        child = self.children[id_] = _Child(id_, restart, significant, spawned=True)
        if self._plan is not None and self.rules.strategy != "one_for_one":
            self._plan.starting.append(id_)
            return self._advance(now)
        return [self._begin(child)]

    def started(self, id_: int, now: float) -> list[Action]:
        """Hear that a child is up."""
        child = self.children.get(id_)
        if child is None or child.phase is not Phase.STARTING:
            return []  # it is being stopped already
        child.phase = Phase.UP
        child.tried = True
        child.failed_starts = 0
        child.up_since = now
        return self._freed(id_, now)

    def exited(self, id_: int, how: How, now: float) -> list[Action]:
        """Hear that a child's life has ended, and decide what becomes of it."""
        child = self.children[id_]
        before, child.phase = child.phase, Phase.IDLE
        self._alive -= 1
        if self.state == "closing":
            return self._after_end_in_closing(child, how, now)
        if before is Phase.STOPPING:
            return self._after_stop(child, how, now)
        if before is Phase.STARTING and (how is not How.NORMAL or child.is_spawning):
            return self._after_failed_start(child, how, now)
        if how is How.FATAL:
            return self._escalate(child, "no restart answers that", now)
        if child.restart == "temporary" or (child.restart == "transient" and how is How.NORMAL):
            return self._ended_by_itself(child, now)
        return self._after_crash(child, now)

    def stop(self, id_: int, now: float, *, drain: bool = False) -> list[Action]:
        """Stop one child for good; asking again passes the request on again.

        With `drain`, one that does not run gets one more life first.
        """
        child = self.children.get(id_)
        if child is None:
            return []
        child.leaving = True
        if self._plan is not None and id_ in self._plan.starting:
            self._plan.starting.remove(id_)
        if drain and child.phase in (Phase.IDLE, Phase.WAITING):
            begun = self._begin(child)
            child.phase = Phase.STOPPING
            return [begun, Stop(id_)]
        if child.phase in (Phase.IDLE, Phase.WAITING):
            return self._give_up(child, now)
        child.phase = Phase.STOPPING
        return [Stop(id_)]

    def starting_next(self) -> Sequence[int]:
        """Return those whose start is planned, in order, but for the one that is starting."""
        return () if self._plan is None else tuple(self._plan.starting)

    def whose_turn(self, id_: int) -> int | None:
        """Return the child that is starting, if this one has to wait for that before its start."""
        plan = self._plan
        if plan is None or plan.busy is None or self._child_phase(plan.busy) is not Phase.STARTING:
            return None
        joins = id_ not in self.children and self.rules.strategy != "one_for_one"
        return plan.busy if joins or id_ in plan.starting else None

    def restart(self, id_: int, now: float) -> list[Action]:
        """Stop one child and start it again, uncounted; a waiting one starts now."""
        child = self.children.get(id_)
        if child is None or self.state != "running":
            return []
        if child.phase is Phase.WAITING:
            return [self._begin(child)]
        if child.phase is Phase.UP:
            child.phase = Phase.STOPPING
            child.again = True
            return [Stop(id_)]
        return self._advance(now)

    def close(self, now: float, drain: Container[int] = ()) -> list[Action]:
        """Stop everything; asking again ends starts, and passes the request on to the others.

        Those of `drain` that do not run get one more life first: one that waits
        for its own restart at once, and of a group that is being started every
        one in its turn, for they may need each other. Whoever else does not run
        is gone at once: nobody shall wait for it.
        """
        if self.state == "done":
            return []
        actions: list[Action] = []
        if self.state == "closing":
            actions += [Stop(child.id) for child in self._each() if child.phase is Phase.STOPPING]
        self.state = "closing"
        self._timers.clear()
        old = self._plan if self._plan is not None else _Plan([], deque())
        starting = old.starting if any(id_ in drain for id_ in old.starting) else deque[int]()
        busy = old.busy
        if busy is not None and not starting:
            is_stopping = self._child_phase(busy) is Phase.STOPPING
            busy = busy if is_stopping and not self.rules.dynamic else None
        actions += self._leave_idle(drain, starting)
        self._plan = _Plan(sorted(self.children), starting, busy=busy)
        return actions + self._advance(now)

    def tick(self, now: float) -> list[Action]:
        """Start what has waited long enough."""
        actions: list[Action] = []
        while self._timers and self._timers[0][0] <= now:
            due, id_ = heapq.heappop(self._timers)
            child = self.children.get(id_)
            # A timer of an earlier wait finds its child elsewhere, and is dropped.
            if child is not None and child.phase is Phase.WAITING and child.due == due:
                actions.append(self._begin(child))
        return actions + self._advance(now)

    def next_deadline(self) -> float | None:
        """Return when `tick` is due, if anything waits for the time."""
        times = [self._timers[0][0]] if self._timers else []
        plan = self._plan
        if plan is not None and plan.busy is None and not plan.stopping and plan.starting:
            times.append(plan.not_before)
        return min(times, default=None)

    # What follows ------------------------------------------------------------------------

    def _each(self) -> list[_Child]:
        return [self.children[id_] for id_ in sorted(self.children)]

    def _child_phase(self, id_: int) -> Phase:
        child = self.children.get(id_)
        return Phase.IDLE if child is None else child.phase

    def _begin(self, child: _Child) -> Start:
        child.phase = Phase.STARTING
        self._alive += 1
        return Start(child.id)

    def _freed(self, id_: int, now: float) -> list[Action]:
        """Go on with the plan when the child that it waited for has moved."""
        if self._plan is not None and self._plan.busy == id_:
            self._plan.busy = None
        return self._advance(now)

    def _give_up(self, child: _Child, now: float) -> list[Action]:
        del self.children[child.id]
        return [Gone(child.id), *self._freed(child.id, now)]

    def _after_end_in_closing(self, child: _Child, how: How, now: float) -> list[Action]:
        if child.id in self.starting_next() and how is not How.FATAL:
            # It is owed a life with its group.
            return self._freed(child.id, now)
        return self._give_up(child, now)

    def _after_stop(self, child: _Child, how: How, now: float) -> list[Action]:
        if how is How.FATAL:
            return self._escalate(child, "no restart answers that", now)
        if child.leaving:
            return self._give_up(child, now)
        if child.again:
            child.again = False
            return [self._begin(child), *self._freed(child.id, now)]
        if child.restart == "temporary":  # fell with its group, and does not come back
            return self._give_up(child, now)
        return self._freed(child.id, now)

    def _after_failed_start(self, child: _Child, how: How, now: float) -> list[Action]:
        if child.is_spawning:
            return self._give_up(child, now)  # who spawned it gets the error
        if how is How.FATAL:
            return self._escalate(child, "no restart answers that", now)
        if not child.tried:
            return self._escalate(child, "it could not start", now)
        child.failed_starts += 1
        if child.failed_starts > self.rules.max_failed_starts:
            return self._escalate(
                child, f"it failed to start {child.failed_starts} times in a row", now
            )
        delay = self._delay(child)
        plan = self._plan
        if plan is not None and plan.busy == child.id:
            plan.busy = None
            plan.starting.appendleft(child.id)
            plan.not_before = now + delay
            return self._advance(now)
        return self._wait(child, now, delay)

    def _ended_by_itself(self, child: _Child, now: float) -> list[Action]:
        actions = self._give_up(child, now)
        rule = self.rules.auto_shutdown
        if not child.significant or rule == "never":
            return actions
        if rule == "all" and any(other.significant for other in self.children.values()):
            return actions
        return [*actions, AutoClose(child.id), *self.close(now)]

    def _after_crash(self, child: _Child, now: float) -> list[Action]:
        rules = self.rules
        self._restarts.append(now)
        while now - self._restarts[0] > rules.within:
            self._restarts.popleft()
        if len(self._restarts) > rules.max_restarts:
            return self._escalate(
                child,
                f"its supervisor had used up its {rules.max_restarts} restarts "
                f"within {rules.within:g} s",
                now,
            )
        if now - child.up_since >= rules.backoff.quiet:
            child.streak = 0
        delay = self._delay(child)
        if rules.strategy == "one_for_one":
            return self._wait(child, now, delay)
        return self._restart_group(child, now, delay)

    def _delay(self, child: _Child) -> float:
        delay = self.rules.backoff.delay(child.streak, self.chance)
        child.streak += 1
        return delay

    def _wait(self, child: _Child, now: float, delay: float) -> list[Action]:
        if delay == 0:
            return [self._begin(child)]
        child.phase = Phase.WAITING
        child.due = now + delay
        heapq.heappush(self._timers, (child.due, child.id))
        return self._freed(child.id, now)

    def _restart_group(self, fallen: _Child, now: float, delay: float) -> list[Action]:
        old = self._plan if self._plan is not None else _Plan([], deque())
        first = fallen.id if self.rules.strategy == "rest_for_one" else min(self.children)
        group = [child for child in self._each() if child.id >= first]
        stopping = {child.id for child in group if child.phase in _IN_MOTION}
        starting = {
            child.id
            for child in group
            if child is fallen
            or (child.phase in _ALIVE and child.restart != "temporary" and not child.leaving)
        }
        busy = old.busy
        if busy is not None and busy in stopping:
            busy = None  # it was starting; now it is to be stopped like the others
        self._plan = _Plan(
            sorted(stopping.union(old.stopping)),
            deque(sorted(starting.union(old.starting))),
            not_before=max(now + delay, old.not_before),
            busy=busy,
        )
        return self._advance(now)

    def _escalate(self, child: _Child, why: str, now: float) -> list[Action]:
        del self.children[child.id]
        # The child is gone before the closing begins, so that it is not stopped twice.
        return [Escalate(child.id, why), Gone(child.id), *self.close(now)]

    def _leave_idle(self, drain: Container[int], starting: Container[int]) -> list[Action]:
        actions: list[Action] = []
        for child in reversed(self._each()):
            if child.phase is Phase.WAITING and child.id in drain:
                actions.append(self._begin(child))
            elif child.phase not in _ALIVE and child.id not in starting:
                del self.children[child.id]
                actions.append(Gone(child.id))
        return actions

    def _advance(self, now: float) -> list[Action]:
        """Carry the plan on as far as it goes without waiting."""
        plan = self._plan
        if plan is None or plan.busy is not None:
            return []
        if self.state == "closing":
            return self._advance_closing(plan)
        actions = self._advance_stops(plan)
        if not actions and now >= plan.not_before:
            actions = self._advance_starts(plan)
            if not actions:
                self._plan = None
        return actions

    def _advance_closing(self, plan: _Plan) -> list[Action]:
        """Start those that a shutdown owes a life, then stop all, then say that it is over."""
        actions = self._advance_starts(plan)
        if not actions:
            stop = self._stop_together if self.rules.dynamic else self._advance_stops
            actions = stop(plan)
        if not actions and self._alive == 0:
            self.state = "done"
            actions.append(Finished())
        return actions

    def _advance_starts(self, plan: _Plan) -> list[Action]:
        """Start the next child of the plan, if there is one."""
        while plan.starting:
            child = self.children.get(plan.starting.popleft())
            if child is not None and child.phase is Phase.IDLE:
                plan.busy = child.id
                return [self._begin(child)]
        return []

    def _stop_together(self, plan: _Plan) -> list[Action]:
        """Stop all children of the plan at once."""
        stopping, plan.stopping = plan.stopping, []
        children = [self.children[id_] for id_ in reversed(stopping) if id_ in self.children]
        for child in children:
            child.phase = Phase.STOPPING
        return [Stop(child.id) for child in children]

    def _advance_stops(self, plan: _Plan) -> list[Action]:
        """Stop the next child of the plan, if there is one."""
        closing = self.state == "closing"
        while plan.stopping:
            child = self.children.get(plan.stopping.pop())
            if child is None:
                continue
            if child.phase in _IN_MOTION or (closing and child.phase is Phase.STOPPING):
                child.phase = Phase.STOPPING
                plan.busy = child.id
                return [Stop(child.id)]
        return []
