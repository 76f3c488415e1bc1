"""Judges a scenario by what its processes wrote down: which jobs were lost, which ran twice.

Pure. An execution is live from its start to its end, or until its process was
killed; while its process is paused, it is not executing. At the end of a
scenario a roll call asks every execution for an answer: code that ended without
a word is found out by its silence.

Processes also write down when the machine did not let them run (`Kind.STALLED`).
Such a stall is a pause that nobody ordered: no code is executed in it, it does not
count towards the time of a recovery, and a process that comes back from a long
one may find that its jobs have moved.
"""

import bisect
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import attrs

from tests.faults.record import Event, Kind


@attrs.frozen
class Execution:
    """One run of a job's code, in seconds of the monotonic clock; without the pauses."""

    key: str
    node: str
    spans: tuple[tuple[float, float], ...]

    @property
    def begin(self) -> float:
        """When it started."""
        return self.spans[0][0]

    @property
    def end(self) -> float:
        """When it ended; infinite if it has not."""
        return self.spans[-1][1]


@attrs.frozen
class Overlap:
    """A key that was executed twice at a time."""

    key: str
    nodes: tuple[str, str]
    seconds: float
    stalled: float
    """Seconds for which one of the two was stalled in it, or in the two leases before it."""


@attrs.frozen(kw_only=True)
class Verdict:
    """What came of the jobs."""

    lost: tuple[str, ...]
    """Keys that were accepted and are neither live nor stopped."""
    undead: tuple[str, ...]
    """Keys that were stopped, not accepted again, and are live."""
    overlaps: tuple[Overlap, ...]
    """Pairs of executions of a key that ran at the same time, the longest first."""
    recoveries: tuple[float, ...]
    """For each execution that a kill ended: seconds until its key was live elsewhere,
    without those in which the machine stalled any process; in order."""
    executions: int
    """How many there were."""

    @property
    def worst_overlap(self) -> float:
        """Seconds of the longest overlap; 0 if there is none."""
        return self.overlaps[0].seconds if self.overlaps else 0.0

    def overlaps_of_able(self, patience: float) -> tuple[Overlap, ...]:
        """Return the overlaps of processes that were not stalled for `patience` seconds before."""
        return tuple(overlap for overlap in self.overlaps if overlap.stalled < patience)

    def recovery(self, share: float) -> float:
        """Return the seconds within which that share of the recoveries was over."""
        if not self.recoveries:
            return 0.0
        return self.recoveries[max(0, math.ceil(share * len(self.recoveries)) - 1)]


def judge(
    events: Iterable[Event], *, roll_call: float | None = None, lease: float = 1.0
) -> Verdict:
    """Judge all that was written down.

    Args:
        events: in any order.
        roll_call: when a roll call began; executions that have not answered since
            count as ended at their last sign of life. None: there was none.
        lease: for how long a stall may have consequences, in seconds.
    """
    ordered = sorted(events, key=lambda event: event.at)
    executions = _executions(ordered, roll_call)
    live = {execution.key for execution in executions if execution.end == math.inf}
    last = _last_words(ordered)
    accepted = {key for key, kind in last.items() if kind is Kind.ACCEPTED}
    stopped = {key for key, kind in last.items() if kind is Kind.STOPPED}
    return Verdict(
        lost=tuple(sorted(accepted - live)),
        undead=tuple(sorted(stopped & live)),
        overlaps=_overlaps(executions, _stalls(ordered), lease),
        recoveries=_recoveries(ordered, executions),
        executions=len(executions),
    )


def _last_words(ordered: Sequence[Event]) -> dict[str, Kind]:
    """Return what was last said about each key by those who dispatch and stop."""
    said = (Kind.ACCEPTED, Kind.UNDECIDED, Kind.STOPPED)
    last: dict[str, Kind] = {}
    for event in ordered:
        # A dispatch that failed leaves an accepted job accepted.
        if event.kind in said and not (event.kind is Kind.UNDECIDED and event.key in last):
            last[event.key] = event.kind
    return last


@attrs.define
class _Running:
    """The executions that go on, by node and key: when each began, and its last sign of life."""

    pauses: dict[str, list[tuple[float, float]]]
    now: dict[tuple[str, str], list[tuple[float, float]]] = attrs.field(
        factory=lambda: defaultdict[tuple[str, str], list[tuple[float, float]]](list)
    )
    over: list[Execution] = attrs.field(factory=list[Execution])

    def take(self, event: Event) -> None:
        place = (event.node, event.key)
        if event.kind is Kind.STARTED:
            self.now[place].append((event.at, event.at))
        elif event.kind is Kind.ANSWERED:
            self.now[place] = [(begin, event.at) for begin, _ in self.now[place]]
        elif event.kind is Kind.ENDED:
            self.finish(*place, event.at, count=1)
        elif event.kind is Kind.KILLED:
            for node, key in self.now:
                if node == event.node:
                    self.finish(node, key, event.at)

    def finish(self, node: str, key: str, end: float, *, count: int | None = None) -> None:
        """Let the oldest `count` executions of a key on a node end; all without `count`."""
        runs = self.now[node, key]
        for begin, _ in runs[:count]:
            self.over.append(Execution(key, node, _without(self.pauses[node], begin, end)))
        del runs[:count]


def _executions(ordered: Sequence[Event], roll_call: float | None) -> list[Execution]:
    running = _Running(_pauses(ordered))
    for event in ordered:
        running.take(event)
    for (node, key), runs in running.now.items():
        for _, sign in list(runs):
            silent = roll_call is not None and sign < roll_call
            running.finish(node, key, sign if silent else math.inf, count=1)
    return running.over


def _pauses(ordered: Sequence[Event]) -> dict[str, list[tuple[float, float]]]:
    pauses: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in ordered:
        if event.kind is Kind.PAUSED:
            pauses[event.node].append((event.at, math.inf))
        elif event.kind is Kind.RESUMED and pauses[event.node]:
            pauses[event.node][-1] = (pauses[event.node][-1][0], event.at)
    for node, stalls in _stalls(ordered).items():
        pauses[node] = sorted([*pauses[node], *stalls])
    return pauses


def _stalls(ordered: Iterable[Event]) -> dict[str, list[tuple[float, float]]]:
    stalls: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in ordered:
        if event.kind is Kind.STALLED:
            stalls[event.node].append((event.at - float(event.key), event.at))
    return stalls


def _within(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """Return for how many seconds between `begin` and `end` any of the spans lasts."""
    total, reached = 0.0, begin
    for span in sorted(spans):
        start, stop = max(span[0], reached), min(span[1], end)
        if stop > start:
            total, reached = total + stop - start, stop
    return total


def _without(
    pauses: Sequence[tuple[float, float]], begin: float, end: float
) -> tuple[tuple[float, float], ...]:
    """Return what is left of a span of time without the pauses; at least its beginning."""
    spans: list[tuple[float, float]] = []
    for pause, resume in pauses:
        if resume <= begin or pause >= end:
            continue
        if pause > begin:
            spans.append((begin, pause))
        begin = min(resume, end)
    if begin < end or not spans:
        spans.append((begin, end))
    return tuple(spans)


def _overlaps(
    executions: Iterable[Execution], stalls: Mapping[str, list[tuple[float, float]]], lease: float
) -> tuple[Overlap, ...]:
    of_key: dict[str, list[Execution]] = defaultdict(list)
    for execution in executions:
        of_key[execution.key].append(execution)
    found: list[Overlap] = []
    for key, runs in of_key.items():
        for number, one in enumerate(runs):
            for other in runs[number + 1 :]:
                seconds = sum(
                    max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
                    for a in one.spans
                    for b in other.spans
                )
                if seconds > 0:
                    began = max(one.begin, other.begin)
                    stalled = max(
                        _within(stalls.get(node, ()), began - 2 * lease, began + seconds)
                        for node in (one.node, other.node)
                    )
                    nodes = (one.node, other.node)
                    found.append(Overlap(key, nodes, seconds, stalled))
    return tuple(sorted(found, key=lambda overlap: -overlap.seconds))


def _recoveries(ordered: Sequence[Event], executions: Iterable[Execution]) -> tuple[float, ...]:
    begins: dict[str, list[float]] = defaultdict(list)
    for execution in sorted(executions, key=lambda execution: execution.begin):
        begins[execution.key].append(execution.begin)
    stops: dict[str, list[float]] = defaultdict(list)
    for event in ordered:
        if event.kind is Kind.STOPPED:
            stops[event.key].append(event.at)
    kills = {(event.node, event.at) for event in ordered if event.kind is Kind.KILLED}
    stalls = [span for spans in _stalls(ordered).values() for span in spans]
    found: list[float] = []
    for execution in executions:
        if (execution.node, execution.end) not in kills:
            continue
        again = _next(begins[execution.key], execution.end)
        if again < _next(stops[execution.key], execution.end):
            found.append(again - execution.end - _within(stalls, execution.end, again))
    return tuple(sorted(found))


def _next(times: Sequence[float], after: float) -> float:
    position = bisect.bisect_left(times, after)
    return times[position] if position < len(times) else math.inf
