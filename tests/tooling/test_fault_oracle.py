"""The oracle clears a fleet that does right, and finds every bug that is planted in one."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.oracle import Verdict, judge
from tests.faults.record import Event, Follower, Kind, Recorder

CLIENT = "client"


@attrs.define
class Play:
    """A fleet that does right, in made-up time: what it would write down."""

    chance: random.Random
    now: float = 0.0
    nodes: list[str] = attrs.field(factory=lambda: ["n0", "n1", "n2"])
    owner: dict[str, str] = attrs.field(factory=dict[str, str])
    paused: set[str] = attrs.field(factory=set[str])
    events: list[Event] = attrs.field(factory=list[Event])

    def write(self, node: str, key: str, kind: Kind) -> None:
        self.now += self.chance.uniform(0.01, 1)
        self.events.append(Event(self.now, node, key, kind))

    def start(self, key: str, *, but_not: str = "") -> None:
        able = [node for node in self.nodes if node != but_not and node not in self.paused]
        self.owner[key] = self.chance.choice(able)
        self.write(self.owner[key], key, Kind.STARTED)

    def dispatch(self, key: str) -> None:
        self.start(key)
        self.write(CLIENT, key, Kind.ACCEPTED)

    def end(self, key: str) -> str:
        node = self.owner.pop(key)
        self.write(node, key, Kind.ENDED)
        return node

    def jobs_of(self, node: str) -> list[str]:
        return [key for key, owner in self.owner.items() if owner == node]

    def step(self, number: int) -> None:
        free = [node for node in self.nodes if node not in self.paused]
        idle = [key for key, owner in self.owner.items() if owner not in self.paused]
        what = self.chance.choice(["dispatch", "dispatch", "stop", "move", "kill", "pause"])
        if what == "dispatch":
            self.dispatch(f"job-{number}")
        elif what == "stop" and idle:
            key = self.chance.choice(idle)
            self.write(CLIENT, key, Kind.STOPPED)
            self.end(key)
        elif what == "move" and idle and len(free) > 1:
            key = self.chance.choice(idle)
            self.start(key, but_not=self.end(key))
        elif what == "kill":
            self.kill(self.chance.choice(free), f"n{number + 10}")
        elif what == "pause" and len(free) > 1 and not self.paused:
            self.pause(self.chance.choice(free))

    def kill(self, node: str, successor: str) -> None:
        self.write(node, "", Kind.KILLED)
        self.nodes[self.nodes.index(node)] = successor
        for key in self.jobs_of(node):
            self.start(key)

    def pause(self, node: str) -> None:
        """Its jobs go elsewhere; it learns of that only when it has woken up."""
        self.write(node, "", Kind.PAUSED)
        self.paused.add(node)
        moved = self.jobs_of(node)
        for key in moved:
            self.start(key)
        self.paused.remove(node)
        # Woken and stopped in no time: the pause takes all of what would overlap.
        self.now += 0.01
        self.events.append(Event(self.now, node, "", Kind.RESUMED))
        self.events += [Event(self.now, node, key, Kind.ENDED) for key in moved]

    def roll_call(self) -> float:
        began = self.now
        for key, node in self.owner.items():
            self.write(node, key, Kind.ANSWERED)
        return began


def play(seed: int, steps: int = 40) -> Play:
    fleet = Play(random.Random(seed))  # noqa: S311 - a play to be repeated, no secret
    fleet.dispatch("first")
    fleet.dispatch("second")
    for number in range(steps):
        fleet.step(number)
    # Somebody has to be there to plant a bug in.
    fleet.dispatch("last")
    return fleet


def judged(fleet: Play) -> Verdict:
    roll_call = fleet.roll_call()
    fleet.chance.shuffle(fleet.events)
    return judge(fleet.events, roll_call=roll_call)


@given(st.integers(0, 10_000))
def test_a_fleet_that_does_right_is_cleared(seed: int) -> None:
    fleet = play(seed)
    verdict = judged(fleet)
    assert verdict.lost == ()
    assert verdict.undead == ()
    assert verdict.overlaps == ()
    assert all(0 < seconds < math.inf for seconds in verdict.recoveries)


def lose_by_ending(fleet: Play) -> None:
    fleet.end("last")


def lose_in_silence(fleet: Play) -> None:
    del fleet.owner["last"]


def lose_by_kill(fleet: Play) -> None:
    node = fleet.owner["last"]
    fleet.write(node, "", Kind.KILLED)
    for key in fleet.jobs_of(node):
        del fleet.owner[key]
        if key != "last":
            fleet.nodes = [other for other in fleet.nodes if other != node]
            fleet.start(key)


def lose_before_the_start(fleet: Play) -> None:
    fleet.end("last")
    fleet.write(CLIENT, "last", Kind.STOPPED)
    fleet.write(CLIENT, "last", Kind.ACCEPTED)


@pytest.mark.parametrize(
    "plant", [lose_by_ending, lose_in_silence, lose_by_kill, lose_before_the_start]
)
@given(seed=st.integers(0, 10_000))
def test_a_job_that_is_lost_is_found(plant: Callable[[Play], None], seed: int) -> None:
    fleet = play(seed)
    plant(fleet)
    assert judged(fleet).lost == ("last",)


def start_twice(fleet: Play) -> None:
    fleet.write(fleet.owner["last"], "last", Kind.STARTED)


def start_elsewhere(fleet: Play) -> None:
    node = fleet.owner["last"]
    fleet.write("elsewhere", "last", Kind.STARTED)
    fleet.write(node, "last", Kind.ENDED)
    fleet.owner["last"] = "elsewhere"


def wake_up_and_go_on(fleet: Play) -> None:
    node = fleet.owner["last"]
    fleet.write(node, "", Kind.PAUSED)
    fleet.write("elsewhere", "last", Kind.STARTED)
    fleet.write(node, "", Kind.RESUMED)
    fleet.write(node, "last", Kind.ENDED)
    fleet.owner["last"] = "elsewhere"


@pytest.mark.parametrize("plant", [start_twice, start_elsewhere, wake_up_and_go_on])
@given(seed=st.integers(0, 10_000))
def test_two_live_executions_are_found(plant: Callable[[Play], None], seed: int) -> None:
    fleet = play(seed)
    plant(fleet)
    verdict = judged(fleet)
    assert {overlap.key for overlap in verdict.overlaps} == {"last"}
    assert verdict.worst_overlap > 0
    assert verdict.lost == ()


@given(st.integers(0, 10_000))
def test_a_stopped_job_that_lives_is_found(seed: int) -> None:
    fleet = play(seed)
    fleet.write(CLIENT, "last", Kind.STOPPED)
    assert judged(fleet).undead == ("last",)


def test_a_dispatch_that_timed_out_is_undecided_and_not_lost() -> None:
    assert judge([Event(1, CLIENT, "a", Kind.UNDECIDED)]).lost == ()
    accepted = Event(1, CLIENT, "a", Kind.ACCEPTED)
    assert judge([accepted, Event(2, CLIENT, "a", Kind.UNDECIDED)]).lost == ("a",)


def test_an_overlap_is_as_long_as_both_execute() -> None:
    events = [
        Event(0, "n1", "a", Kind.STARTED),
        Event(1, "n1", "", Kind.PAUSED),
        Event(2, "n2", "a", Kind.STARTED),
        Event(5, "n1", "", Kind.RESUMED),
        Event(5.25, "n1", "a", Kind.ENDED),
    ]
    assert [overlap.seconds for overlap in judge(events).overlaps] == [0.25]


def test_recovery_counts_from_the_kill_to_the_next_start() -> None:
    events = [
        *(Event(0, "n1", key, Kind.STARTED) for key in "abc"),
        Event(1, "n1", "", Kind.KILLED),
        Event(2, "n2", "a", Kind.STARTED),
        Event(4, "n2", "b", Kind.STARTED),
        Event(1.5, CLIENT, "c", Kind.STOPPED),
    ]
    verdict = judge(events)
    assert list(verdict.recoveries) == [1, 3]
    assert verdict.recovery(0.5) == 1
    assert verdict.recovery(1) == 3


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    recorder = Recorder(tmp_path / "one.events")
    assert not list(follower.read_new())
    recorder.write("n1", "key \n\udcff", Kind.STARTED)
    [event] = follower.read_new()
    assert (event.node, event.key, event.kind) == ("n1", "key \n\udcff", Kind.STARTED)
    recorder.write("n1", "key", Kind.ENDED)
    with (tmp_path / "one.events").open("ab") as file:
        file.write(b"[1.0, half a li")
    [second] = follower.read_new()
    assert second.kind is Kind.ENDED
    assert not list(follower.read_new())
    recorder.close()


def test_what_the_machine_did_is_not_held_against_a_fleet() -> None:
    """A stalled process executes nothing, and its stall is no part of a recovery."""
    events = [
        Event(0.0, "n0", "a", Kind.STARTED),
        Event(0.1, CLIENT, "a", Kind.ACCEPTED),
        Event(2.0, "n1", "a", Kind.STARTED),  # n0 did not run, and was taken for dead
        Event(3.0, "n0", "2.500", Kind.STALLED),
        Event(3.2, "n0", "a", Kind.ENDED),
        Event(4.0, "n1", "", Kind.KILLED),
        Event(5.5, "redis", "1.000", Kind.STALLED),
        Event(6.0, "n0", "a", Kind.STARTED),
    ]
    verdict = judge(events)
    assert verdict.worst_overlap == pytest.approx(0.2)
    assert verdict.overlaps_of_able(0.3) == ()
    assert verdict.overlaps_of_able(10.0) == verdict.overlaps
    assert verdict.recoveries == pytest.approx((1.0,))
    able = judge([event for event in events if event.kind is not Kind.STALLED])
    assert able.overlaps_of_able(0.3), "without the stall it is the fleet's fault"
    assert able.recoveries == pytest.approx((2.0,))
