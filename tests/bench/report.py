"""What the turns' figures say: medians and ratios, as records for JSON and as a table.

Pure. A ratio is over 1 where ours is ahead, whichever way the unit points. It is the
median of the rounds' ratios, not the ratio of the medians: in a round all take their
turns one after the other, so a machine that was slow in that round was slow for both.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import NotRequired, TypedDict

from tests.bench.harness import Case, Line


class PeerRecord(TypedDict):
    """A peer in the JSON: its median and how far ours is ahead, or why there is none.

    `ratios` are those of the rounds, in their order, and `ratio` is their median; each
    is `None` if only ours is 0.
    """

    name: str
    versions: dict[str, str]
    median: NotRequired[float]
    ratio: NotRequired[float | None]
    ratios: NotRequired[list[float | None]]
    goal: NotRequired[float]
    turns: NotRequired[list[float]]
    missing: NotRequired[str]
    error: NotRequired[str]


class Record(TypedDict):
    """One figure of a case in the JSON; `median` and `turns` are ours.

    `bystanders` is the share of the machine's CPU that went to others meanwhile.
    """

    name: str
    unit: str
    median: float | None
    turns: list[float]
    bystanders: NotRequired[float | None]
    error: NotRequired[str]
    peers: list[PeerRecord]


def is_better_high(unit: str) -> bool:
    """Return whether more of `unit` is better: rates are, times and sizes are not."""
    return unit.endswith("/s")


def find_ratio(unit: str, ours: float, theirs: float) -> float:
    """Return how many times ours is better than theirs: 1 if both are 0, infinite if one is."""
    better, worse = (ours, theirs) if is_better_high(unit) else (theirs, ours)
    if worse == 0:
        return 1.0 if better == 0 else math.inf
    return better / worse


def finite(ratio: float) -> float | None:
    """Return a ratio as JSON can have it."""
    return ratio if math.isfinite(ratio) else None


def describe_peer(case: Case, figure: str, ours: Line, line: Line) -> PeerRecord | None:
    """Return a peer's record for one figure, `None` if it has no such figure and need not."""
    record = PeerRecord(name=line.contender.name, versions=dict(line.versions))
    if line.missing:
        record["missing"] = line.missing
    elif line.error:
        record["error"] = line.error
    else:
        turns = [turn[figure] for turn in line.turns if figure in turn]
        if not turns:
            return None
        record["turns"] = turns
        record["median"] = median(turns)
        ratios = [
            find_ratio(case.units[figure], mine[figure], theirs[figure])
            for mine, theirs in zip(ours.turns, line.turns, strict=False)  # ours may have failed
            if figure in theirs
        ]
        if ratios:
            record["ratio"] = finite(median(ratios))
            record["ratios"] = [finite(ratio) for ratio in ratios]
    is_own = figure == next(iter(case.units))
    goal = case.goals.get(line.contender.name if is_own else f"{line.contender.name} {figure}")
    if goal is not None:
        record["goal"] = goal
    return record


def summarise(case: Case, lines: Sequence[Line]) -> list[Record]:
    """Return a record for each figure of `case`; `lines` are ours first, then the peers."""
    ours, *peers = lines
    records: list[Record] = []
    for number, (figure, unit) in enumerate(case.units.items()):
        turns = [turn[figure] for turn in ours.turns]
        found = [describe_peer(case, figure, ours, line) for line in peers]
        record = Record(
            name=case.name if number == 0 else f"{case.name}.{figure}",
            unit=unit,
            median=median(turns) if turns else None,
            turns=turns,
            peers=[peer for peer in found if peer is not None],
        )
        if ours.missing or ours.error:
            record["error"] = ours.missing or ours.error
        records.append(record)
    return records


def format_number(value: float) -> str:
    """Return `value` short, with three or four figures that say something."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_record(record: Record) -> str:
    """Return the lines of a table for one record: ours, then each peer."""
    ours = "failed" if record["median"] is None else format_number(record["median"])
    rows = [f"{record['name']:<44}{ours:>12} {record['unit']}"]
    if "error" in record:
        rows.append(f"  failed: {last_line(record['error'])}")
    for peer in record["peers"]:
        name = " ".join([peer["name"], *(f"{key} {it}" for key, it in peer["versions"].items())])
        if "median" in peer:
            row = f"  {name:<42}{format_number(peer['median']):>12} {record['unit']:<12}"
            if "ratio" in peer:
                ratio = math.inf if peer["ratio"] is None else peer["ratio"]
                row += f"{ratio:>8.2f} x"
        elif "missing" in peer:
            row = f"  {name:<42}     missing: {peer['missing']}"
        else:
            row = f"  {name:<42}      failed: {last_line(peer.get('error', ''))}"
        if "goal" in peer:
            row += f"  (goal {peer['goal']:g})"
        rows.append(row)
    return "\n".join(rows)


def last_line(text: str) -> str:
    """Return what a traceback says in the end."""
    return text.strip().rpartition("\n")[2]
