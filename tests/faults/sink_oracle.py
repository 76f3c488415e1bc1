"""Judges a scenario of sinks by what its processes wrote down: which events were lost.

Pure. An event that was added (`ACCEPTED`) has to be dealt with (`DONE`) or to be a
dead letter (`DEAD`), one of the two, and a dead letter once. A handler's run is an
execution as in `oracle.py`, from `STARTED` to `ENDED` or to its process' kill.
Delivery is at least once, so an event may be dealt with again: what was done and
not acknowledged when its process was killed, cut off or paused for too long.
"""

from collections import Counter
from collections.abc import Iterable

import attrs

from tests.faults.oracle import Overlap, judge
from tests.faults.record import Event, Kind


@attrs.frozen(kw_only=True)
class SinkVerdict:
    """What came of the events."""

    lost: tuple[str, ...]
    """Events that were added and are neither done nor dead."""
    strange: tuple[str, ...]
    """Events that were handled and that nobody added."""
    done_and_dead: tuple[str, ...]
    """Events that are dead letters though a handler has dealt with them."""
    dead_again: tuple[str, ...]
    """Events that are dead letters more than once."""
    again: int
    """How many times an event was dealt with that had been dealt with before."""
    starts: Counter[str]
    """How often a handler began to deal with each event."""
    overlaps: tuple[Overlap, ...]
    """Pairs of handlers that dealt with an event at the same time, the longest first."""
    recoveries: tuple[float, ...]
    """For each handler that a kill ended: seconds until its event was with another."""
    waits: dict[str, float]
    """For each event that was handled: seconds from its being added until then."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, made up, or dead without need."""
        return not (self.lost or self.strange or self.done_and_dead or self.dead_again)


def judge_sink(events: Iterable[Event]) -> SinkVerdict:
    """Judge all that was written down, in any order, when nothing is pending any more."""
    ordered = sorted(events, key=lambda event: event.at)
    added: dict[str, float] = {}
    begun: dict[str, float] = {}
    for event in ordered:
        if event.kind is Kind.ACCEPTED:
            added.setdefault(event.key, event.at)
        elif event.kind is Kind.STARTED:
            begun.setdefault(event.key, event.at)
    done = Counter(event.key for event in ordered if event.kind is Kind.DONE)
    dead = Counter(event.key for event in ordered if event.kind is Kind.DEAD)
    executed = judge(ordered)
    return SinkVerdict(
        lost=tuple(sorted(set(added) - set(done) - set(dead))),
        strange=tuple(sorted({*begun, *done, *dead} - set(added))),
        done_and_dead=tuple(sorted(set(done) & set(dead))),
        dead_again=tuple(sorted(key for key, times in dead.items() if times > 1)),
        again=sum(done.values()) - len(done),
        starts=Counter(event.key for event in ordered if event.kind is Kind.STARTED),
        overlaps=executed.overlaps,
        recoveries=executed.recoveries,
        waits={key: at - added[key] for key, at in begun.items() if key in added},
    )
