"""The oracle of sinks clears instances that do right, and finds every bug that is planted."""

import random
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.record import Event, Kind
from tests.faults.sink_oracle import SinkVerdict, judge_sink

CLIENT = "client"


@attrs.define
class Play:
    """Instances that do right, in made-up time: what they would write down."""

    chance: random.Random
    now: float = 0.0
    events: list[Event] = attrs.field(factory=list[Event])

    def write(self, node: str, key: str, *kinds: Kind) -> None:
        for kind in kinds:
            self.now += self.chance.uniform(0.01, 1)
            self.events.append(Event(self.now, node, key, kind))

    def deal_with(self, key: str) -> None:
        """Let an event come to an end, after the mishaps that there may be."""
        node = f"s{self.chance.randrange(3)}"
        for turn in range(self.chance.randrange(3)):
            mishap = self.chance.choice(["kill", "fail", "unsaid"])
            if mishap == "kill":
                self.write(f"{node}-{turn}-{key}", key, Kind.STARTED)
                self.write(f"{node}-{turn}-{key}", "", Kind.KILLED)
            elif mishap == "fail":
                self.write(node, key, Kind.STARTED, Kind.ENDED)
            else:  # done, and its acknowledgement did not come through
                self.write(node, key, Kind.STARTED, Kind.DONE, Kind.ENDED)
                break
        else:
            if self.chance.random() < 0.2:
                self.write(CLIENT, key, Kind.DEAD)
                return
        self.write(node, key, Kind.STARTED, Kind.DONE, Kind.ENDED)


def play(seed: int) -> Play:
    work = Play(random.Random(seed))  # noqa: S311 - a play to be repeated, no secret
    keys = [f"e{number}" for number in range(10)]
    for key in [*keys, "last"]:
        work.write(CLIENT, key, Kind.ACCEPTED)
    for key in keys:
        work.deal_with(key)
    return work


def judged(work: Play) -> SinkVerdict:
    work.chance.shuffle(work.events)
    return judge_sink(work.events)


@given(st.integers(0, 10_000))
def test_instances_that_do_right_are_cleared(seed: int) -> None:
    work = play(seed)
    work.deal_with("last")
    verdict = judged(work)
    assert verdict.is_clean
    assert verdict.overlaps == ()
    assert set(verdict.waits) == set(verdict.starts)
    assert min(verdict.waits.values()) > 0


def lose_in_silence(_: Play) -> None:
    pass


def lose_by_failing(work: Play) -> None:
    work.write("s0", "last", Kind.STARTED, Kind.ENDED)


def lose_by_kill(work: Play) -> None:
    work.write("s9", "last", Kind.STARTED)
    work.write("s9", "", Kind.KILLED)


@pytest.mark.parametrize("plant", [lose_in_silence, lose_by_failing, lose_by_kill])
@given(seed=st.integers(0, 10_000))
def test_an_event_that_is_lost_is_found(plant: Callable[[Play], None], seed: int) -> None:
    work = play(seed)
    plant(work)
    verdict = judged(work)
    assert verdict.lost == ("last",)
    assert not verdict.is_clean


def bury_what_is_done(work: Play) -> None:
    work.write("s0", "last", Kind.STARTED, Kind.DONE, Kind.ENDED)
    work.write(CLIENT, "last", Kind.DEAD)


def bury_twice(work: Play) -> None:
    work.write(CLIENT, "last", Kind.DEAD, Kind.DEAD)


def make_one_up(work: Play) -> None:
    work.write("s0", "last", Kind.STARTED, Kind.DONE, Kind.ENDED)
    work.write("s0", "nobody's", Kind.STARTED, Kind.DONE, Kind.ENDED)


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (bury_what_is_done, "done_and_dead"),
        (bury_twice, "dead_again"),
        (make_one_up, "strange"),
    ],
)
@given(seed=st.integers(0, 10_000))
def test_a_wrong_end_is_found(plant: Callable[[Play], None], found: str, seed: int) -> None:
    work = play(seed)
    plant(work)
    verdict = judged(work)
    assert verdict.lost == ()
    for name in ("done_and_dead", "dead_again", "strange"):
        culprit = "nobody's" if plant is make_one_up else "last"
        assert getattr(verdict, name) == ((culprit,) if name == found else ())
    assert not verdict.is_clean


@given(st.integers(0, 10_000))
def test_two_handlers_at_a_time_and_doing_again_are_found(seed: int) -> None:
    work = play(seed)
    work.write("s8", "last", Kind.STARTED)
    work.write("s9", "last", Kind.STARTED, Kind.DONE, Kind.ENDED)
    work.write("s8", "last", Kind.DONE, Kind.ENDED)
    before = judge_sink([event for event in work.events if event.key != "last"]).again
    verdict = judged(work)
    assert {overlap.key for overlap in verdict.overlaps} == {"last"}
    assert verdict.again == before + 1
    assert verdict.starts["last"] == 2


def test_recoveries_and_waits_are_those_of_the_clock() -> None:
    verdict = judge_sink(
        [
            Event(1, CLIENT, "a", Kind.ACCEPTED),
            Event(3, "s0", "a", Kind.STARTED),
            Event(4, "s0", "", Kind.KILLED),
            Event(9, "s1", "a", Kind.STARTED),
            Event(9.5, "s1", "a", Kind.DONE),
            Event(9.5, "s1", "a", Kind.ENDED),
        ]
    )
    assert verdict.waits == {"a": 2}
    assert verdict.recoveries == (5,)
