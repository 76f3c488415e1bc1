"""The supervision policy against a model: random crashes, starts, stops and times.

The machine below plays the runtime: it keeps what really runs, answers the
policy's actions at random moments, and knows on its own what the policy owes.
"""

import random
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from terzetto.actor import Backoff, Restart, Strategy
from terzetto.actor._policy import (
    Action,
    AutoClose,
    Escalate,
    Finished,
    Gone,
    How,
    Phase,
    Policy,
    Rules,
    Start,
    Stop,
)

RESTARTS: Sequence[Restart] = ("permanent", "transient", "temporary")


class PolicyModel(RuleBasedStateMachine):
    """A runtime without tasks."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.running: dict[int, str] = {}  # "starting", "up"
        self.asked: dict[int, None] = {}  # asked to stop, and not ended yet
        self.restart: dict[int, Restart] = {}
        self.gone: list[int] = []
        self.counted: list[float] = []
        self.closing = False
        self.escalated = False
        self.finished = False
        self.closing_asked: set[int] = set()
        self.drained: set[int] = set()
        self.owed: set[int] = set()  # of a group that a shutdown lets start in its order

    @initialize(
        strategy=st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
        restarts=st.lists(st.sampled_from(RESTARTS), min_size=1, max_size=4),
        max_restarts=st.integers(0, 3),
        first=st.sampled_from([0.0, 1.0]),
        dynamic=st.booleans(),
    )
    def begin(
        self,
        strategy: Strategy,
        restarts: list[Restart],
        max_restarts: int,
        first: float,
        dynamic: bool,  # noqa: FBT001 - Hypothesis calls by name
    ) -> None:
        self.rules_ = Rules(
            strategy=strategy,
            max_restarts=max_restarts,
            within=10.0,
            backoff=Backoff(first=first, ceiling=8.0, jitter=0.5, quiet=20.0),
            max_failed_starts=2,
            dynamic=dynamic and strategy == "one_for_one",
        )
        self.policy = Policy(self.rules_, chance=random.Random(0).random)  # noqa: S311 - no secret
        self.restart.update(enumerate(restarts))
        self.obey(self.policy.start([(n, r, False) for n, r in enumerate(restarts)], self.now))

    def obey(self, actions: list[Action]) -> None:
        """Carry out actions, and check each against what runs."""
        for action in actions:
            assert not self.finished, "an action after Finished"
            match action:
                case Start(id_):
                    assert id_ not in self.running, "started twice"
                    assert id_ not in self.gone, "started after it was given up"
                    if self.closing and id_ not in self.drained:
                        owed = self.owed.difference(self.running)
                        assert id_ in owed, "started after the closing began"
                        assert id_ == min(owed), "not the first one"
                    self.drained.discard(id_)
                    self.owed.discard(id_)
                    self.running[id_] = "starting"
                case Stop(id_):
                    assert id_ in self.running, "stopped, but does not run"
                    if self.closing and id_ not in self.asked:
                        assert self.owed <= set(self.running), "stopped before all are up"
                        self.check_order(id_)
                    self.asked[id_] = None
                case Gone(id_):
                    assert id_ not in self.gone, "given up twice"
                    assert id_ not in self.running, "given up, but runs"
                    self.gone.append(id_)
                case Escalate():
                    assert not self.closing
                    self.closing = self.escalated = True
                case AutoClose():
                    raise AssertionError("no child is significant")
                case Finished():
                    assert not self.running
                    assert self.owed <= set(self.gone), "a group got no life for its messages"
                    assert self.closing
                    self.finished = True

    def check_order(self, id_: int) -> None:
        """A closing stops the last one first, and the next one when that has ended."""
        assert id_ == max(set(self.running).difference(self.asked)), "not the last one"
        if not self.rules_.dynamic:
            assert not self.closing_asked.intersection(self.running), "two at a time"
        self.closing_asked.add(id_)

    # What may happen -----------------------------------------------------------------

    def pick(self, where: list[int], index: int) -> int:
        return sorted(where)[index % len(where)]

    @precondition(lambda self: any(state == "starting" for state in self.running.values()))
    @rule(index=st.integers(0, 9))
    def start_succeeds(self, index: int) -> None:
        id_ = self.pick([n for n, state in self.running.items() if state == "starting"], index)
        self.running[id_] = "up"
        self.obey(self.policy.started(id_, self.now))

    @precondition(lambda self: any(state == "starting" for state in self.running.values()))
    @rule(index=st.integers(0, 9))
    def start_fails(self, index: int) -> None:
        id_ = self.pick([n for n, state in self.running.items() if state == "starting"], index)
        self.ended(id_)
        self.obey(self.policy.exited(id_, How.CRASHED, self.now))

    @precondition(lambda self: any(state == "up" for state in self.running.values()))
    @rule(
        index=st.integers(0, 9),
        how=st.sampled_from([How.CRASHED, How.CRASHED, How.CRASHED, How.NORMAL]),
    )
    def life_ends(self, index: int, how: How) -> None:
        id_ = self.pick([n for n, state in self.running.items() if state == "up"], index)
        asked = id_ in self.asked
        self.ended(id_)
        counts = self.restart[id_] == "permanent" or (
            self.restart[id_] == "transient" and how is How.CRASHED
        )
        was_closing = self.closing
        if counts and not asked and not self.closing:
            self.counted = [t for t in self.counted if self.now - t <= self.rules_.within]
            self.counted.append(self.now)
        too_many = len(self.counted) > self.rules_.max_restarts
        self.obey(self.policy.exited(id_, how, self.now))
        if not asked and not was_closing:
            assert self.escalated == (counts and too_many)

    @precondition(lambda self: bool(self.asked))
    @rule(index=st.integers(0, 9))
    def stop_succeeds(self, index: int) -> None:
        id_ = self.pick(list(self.asked), index)
        self.ended(id_)
        self.obey(self.policy.exited(id_, How.NORMAL, self.now))

    def ended(self, id_: int) -> None:
        del self.running[id_]
        self.asked.pop(id_, None)

    @precondition(lambda self: not self.closing)
    @rule(restart=st.sampled_from(RESTARTS))
    def spawn(self, restart: Restart) -> None:
        id_ = len(self.restart)
        self.restart[id_] = restart
        self.obey(self.policy.add(id_, restart, self.now, significant=False))

    @precondition(lambda self: bool(self.policy.children) and not self.closing)
    @rule(index=st.integers(0, 9), drain=st.booleans())
    def stop_by_name(self, index: int, drain: bool) -> None:  # noqa: FBT001 - as above
        id_ = self.pick(list(self.policy.children), index)
        waited = self.policy.children[id_].phase in (Phase.WAITING, Phase.IDLE)
        self.obey(self.policy.stop(id_, self.now, drain=drain))
        assert not (waited and drain) or id_ in self.asked, "no life to handle its messages"
        assert id_ in self.asked or id_ in self.gone

    @precondition(lambda self: bool(self.policy.children) and not self.closing)
    @rule(index=st.integers(0, 9))
    def restart_by_name(self, index: int) -> None:
        self.obey(self.policy.restart(self.pick(list(self.policy.children), index), self.now))

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 11.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if not self.finished:
            self.obey(self.policy.tick(self.now))
            due = self.policy.next_deadline()
            assert due is None or due > self.now or self.policy.tick(self.now) == []

    @precondition(lambda self: not self.finished)
    @rule(rarely=st.integers(0, 9), drain=st.frozensets(st.integers(0, 12)))
    def close(self, rarely: int, drain: frozenset[int] = frozenset()) -> None:
        if rarely == 9:  # or most runs would end after a few steps
            if self.closing:  # a shutdown is cut short by a close: nobody is owed a life any more
                self.owed, drain = set[int](), frozenset[int]()
            down = [child for child in self.policy.children.values() if child.id in drain]
            self.drained = {child.id for child in down if child.phase is Phase.WAITING}
            group = set(self.policy.starting_next())
            if group.intersection(drain):
                self.owed = group
            self.closing = True
            self.obey(self.policy.close(self.now, drain))
            assert not self.drained, "one that waited with messages got no life to handle them"

    # What always holds ---------------------------------------------------------------

    @invariant()
    def the_policy_sees_what_runs(self) -> None:
        alive = {
            id_
            for id_, child in self.policy.children.items()
            if child.phase in (Phase.STARTING, Phase.UP, Phase.STOPPING)
        }
        assert alive == set(self.running)

    @invariant()
    def no_more_restarts_than_allowed(self) -> None:
        recent = [t for t in self.counted if self.now - t <= self.rules_.within]
        assert len(recent) <= self.rules_.max_restarts + self.escalated

    @invariant()
    def nobody_is_forgotten(self) -> None:
        known = set(self.policy.children).union(self.gone)
        assert known == set(self.restart), "a child is neither supervised nor given up"
        if self.finished:
            assert sorted(self.gone) == sorted(self.restart)
        elif not self.closing:
            self.somebody_will_move()

    def somebody_will_move(self) -> None:
        """A child that does not run waits for its time or for another one to move."""
        idle = set(self.policy.children).difference(self.running)
        moving = self.policy.next_deadline() is not None or any(
            state == "starting" or id_ in self.asked for id_, state in self.running.items()
        )
        assert not idle or moving, "a child was left down for ever"

    def teardown(self) -> None:
        """Let everything end: the policy must come to its own end."""
        if self.finished or not hasattr(self, "policy"):
            return
        self.close(9)
        while self.asked:
            self.stop_succeeds(0)
        assert self.policy.is_done(), "the closing never ended"


TestPolicyModel = PolicyModel.TestCase
TestPolicyModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def settle(policy: Policy, actions: list[Action], now: float) -> list[str]:
    """Let every start and stop succeed at once; return what was done."""
    done: list[str] = []
    todo = list(actions)
    while todo:
        action = todo.pop(0)
        if isinstance(action, Start | Stop):
            done.append(f"{'+' if isinstance(action, Start) else '-'}{action.id}")
            if isinstance(action, Start):
                todo += policy.started(action.id, now)
            else:
                todo += policy.exited(action.id, How.NORMAL, now)
    return done


def policy_of(strategy: Strategy, *, dynamic: bool = False) -> Policy:
    return Policy(Rules(strategy=strategy, backoff=Backoff(first=0), dynamic=dynamic))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", ["+1"]),
        ("rest_for_one", ["-3", "-2", "+1", "+2", "+3"]),
        ("one_for_all", ["-3", "-2", "-0", "+0", "+1", "+2", "+3"]),
    ],
)
def test_each_strategy_restarts_its_group(strategy: Strategy, expected: list[str]) -> None:
    policy = policy_of(strategy)
    static: list[tuple[int, Restart, bool]] = [(id_, "transient", False) for id_ in range(4)]
    assert settle(policy, policy.start(static, 0), 0) == ["+0", "+1", "+2", "+3"]
    assert settle(policy, policy.exited(1, How.CRASHED, 0), 0) == expected
    assert settle(policy, policy.close(0), 0) == ["-3", "-2", "-1", "-0"]
    assert policy.is_done()


def test_a_crash_in_the_middle_of_a_group_restart_makes_one_plan_of_both() -> None:
    policy = policy_of("rest_for_one")
    static: list[tuple[int, Restart, bool]] = [(id_, "transient", False) for id_ in range(4)]
    settle(policy, policy.start(static, 0), 0)
    assert policy.exited(2, How.CRASHED, 0) == [Stop(3)]
    assert policy.exited(0, How.CRASHED, 0) == []  # 3 is still on its way out
    assert settle(policy, policy.exited(3, How.NORMAL, 0), 0) == ["-1", "+0", "+1", "+2", "+3"]


def test_dynamic_children_are_stopped_together() -> None:
    policy = policy_of("one_for_one", dynamic=True)
    for id_ in range(3):
        settle(policy, policy.add(id_, "temporary", 0, significant=False), 0)
    assert policy.close(0) == [Stop(2), Stop(1), Stop(0)]


def test_a_fatal_end_escalates_whatever_the_limits() -> None:
    policy = policy_of("one_for_one")
    settle(policy, policy.start([(0, "permanent", False), (1, "permanent", False)], 0), 0)
    actions = policy.exited(0, How.FATAL, 0)
    assert [type(action) for action in actions] == [Escalate, Gone, Stop]


def up(policy: Policy, *ids: int, now: float = 0.0) -> None:
    """Let these children start, all at once."""
    settle(policy, policy.start([(id_, "transient", False) for id_ in ids], now), now)


STEADY = Backoff(first=1.0, factor=2.0, ceiling=100.0, jitter=0.0, quiet=20.0)


def test_waits_grow_and_a_quiet_spell_makes_the_next_one_the_first_again() -> None:
    policy = Policy(Rules(max_restarts=9, within=100.0, backoff=STEADY))
    up(policy, 0)
    now = 0.0
    waits: list[float] = []
    for spell in (0.0, 19.0, 19.0, 20.0, 0.0):
        now += spell
        assert policy.exited(0, How.CRASHED, now) == []
        due = policy.next_deadline()
        assert due is not None
        waits.append(due - now)
        now = due
        settle(policy, policy.tick(now), now)
    assert waits == [1.0, 2.0, 4.0, 1.0, 2.0]


def test_a_start_that_succeeds_forgives_those_that_failed() -> None:
    policy = Policy(Rules(max_restarts=9, max_failed_starts=1, backoff=Backoff(first=0)))
    up(policy, 0)
    for _ in range(3):
        assert policy.exited(0, How.CRASHED, 0) == [Start(0)]
        assert policy.exited(0, How.CRASHED, 0) == [Start(0)]  # the start has failed
        policy.started(0, 0)
    assert policy.exited(0, How.CRASHED, 0) == [Start(0)]
    policy.exited(0, How.CRASHED, 0)
    assert isinstance(policy.exited(0, How.CRASHED, 0)[0], Escalate)


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_a_group_waits_for_its_back_off_and_for_the_longer_of_two(strategy: Strategy) -> None:
    policy = Policy(Rules(strategy=strategy, max_restarts=9, within=100.0, backoff=STEADY))
    up(policy, 0, 1)
    assert settle(policy, policy.exited(0, How.CRASHED, 0), 0) == ["-1"]
    assert policy.next_deadline() == 1.0
    assert policy.tick(0.9) == []
    assert settle(policy, policy.tick(1.0), 1.0) == ["+0", "+1"]
    assert policy.exited(0, How.CRASHED, 2.0) == [Stop(1)]  # waits for 2 s
    assert policy.exited(1, How.CRASHED, 2.0) == []  # fell while it was stopped: no wait of its own
    assert policy.next_deadline() == 4.0


def test_significant_children_close_by_the_rule_of_all_only_when_the_last_has_ended() -> None:
    policy = Policy(Rules(auto_shutdown="all"))
    static: list[tuple[int, Restart, bool]] = [(0, "transient", True), (1, "transient", True)]
    settle(policy, policy.start([*static, (2, "permanent", False)], 0), 0)
    assert policy.exited(0, How.NORMAL, 0) == [Gone(0)]
    assert policy.exited(1, How.NORMAL, 0) == [Gone(1), AutoClose(1), Stop(2)]


def test_who_is_restarted_by_name_does_not_wait_for_its_back_off() -> None:
    policy = Policy(Rules(backoff=STEADY))
    up(policy, 0)
    policy.exited(0, How.CRASHED, 0)
    assert policy.restart(0, 0.5) == [Start(0)]
    policy.started(0, 0.5)
    assert policy.tick(1.0) == [], "the timer of the wait that was cut short started it again"


def test_restarts_count_within_the_time_and_not_one_moment_longer() -> None:
    policy = Policy(Rules(max_restarts=1, within=10.0, backoff=Backoff(first=0)))
    up(policy, 0)
    for now in (0.0, 10.5, 21.0):
        assert policy.exited(0, How.CRASHED, now) == [Start(0)]
        policy.started(0, now)
    assert isinstance(policy.exited(0, How.CRASHED, 31.0)[0], Escalate)


def test_a_child_that_is_starting_is_stopped_at_once_when_its_group_falls() -> None:
    policy = Policy(Rules(strategy="one_for_all", backoff=Backoff(first=0)))
    static: list[tuple[int, Restart, bool]] = [(id_, "transient", False) for id_ in range(3)]
    assert policy.start(static, 0) == [Start(0)]
    assert policy.started(0, 0) == [Start(1)]
    assert policy.exited(0, How.CRASHED, 0) == [Stop(1)]
    assert settle(policy, policy.exited(1, How.NORMAL, 0), 0) == ["+0", "+1", "+2"]


def test_one_that_had_its_last_life_by_name_gets_no_other_with_its_group() -> None:
    policy = Policy(Rules(strategy="one_for_all", backoff=STEADY))
    up(policy, 0, 1, 2)
    settle(policy, policy.exited(0, How.CRASHED, 0), 0)
    assert policy.stop(1, 0, drain=True) == [Start(1), Stop(1)]
    assert policy.close(0, {1, 2}) == [Start(0)]
    assert policy.exited(1, How.NORMAL, 0) == [Gone(1)]
    assert settle(policy, policy.started(0, 0), 0) == ["+2", "-2", "-0"]


def test_the_time_of_an_earlier_wait_starts_nobody() -> None:
    policy = Policy(Rules(max_restarts=9, backoff=STEADY))
    up(policy, 0)
    policy.exited(0, How.CRASHED, 0.0)  # waits until 1.0
    settle(policy, policy.restart(0, 0.1), 0.1)
    assert policy.exited(0, How.CRASHED, 0.2) == []  # waits until 2.2
    assert policy.tick(1.0) == []
    assert policy.tick(2.2) == [Start(0)]
