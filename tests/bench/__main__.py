"""The command behind `nox -s bench`: choose cases, run them, print and write what they say.

Usage: ``nox -s bench -- [WORD ...] [--beside PEER ...] [--list] [--rounds N] [--json FILE]``.
Words choose the cases whose names contain one of them, or the one whose whole name it is; a
case that takes minutes a turn is chosen by its whole name only. Exits with 1 if ours fails
in a case; a peer that is missing or fails is named and does no harm.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from tests.bench.bystanders import Bystanders
from tests.bench.harness import Case, Contender
from tests.bench.report import Record, format_record, summarise
from tests.bench.runner import run_case


def load_cases() -> list[Case]:
    """Return the cases of every `cases_<room>.py` beside this module."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py"))
    return [case for name in names for case in importlib.import_module(f"tests.bench.{name}").CASES]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Measure against peers.")
    parser.add_argument("words", nargs="*", help="cases whose names contain one of these")
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="PEER",
        help="measure beside those peers alone whose names contain this (may be repeated)",
    )
    parser.add_argument("--list", action="store_true", help="name the cases and leave")
    parser.add_argument("--rounds", type=int, default=5, help="turns that count, per contender")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args(arguments)


def choose_cases(cases: Sequence[Case], words: Sequence[str], beside: Sequence[str]) -> list[Case]:
    """Return the cases that `words` name, with only those peers that `beside` does, if any."""
    names = {case.name for case in cases}
    parts = [word for word in words if word not in names]
    chosen = [
        case
        for case in cases
        if case.name in words
        or (not case.long and (not words or any(part in case.name for part in parts)))
    ]
    if not beside:
        return chosen
    return [attrs.evolve(case, peers=find_peers(case, beside)) for case in chosen]


def find_peers(case: Case, words: Sequence[str]) -> list[Contender]:
    """Return the peers of `case` whose names contain one of `words`, in any case of letters."""
    return [peer for peer in case.peers if any(word.lower() in peer.name.lower() for word in words)]


async def run_all(cases: Sequence[Case], rounds: int) -> list[Record]:
    """Run the cases one after the other, and print what each says when it ends."""
    records: list[Record] = []
    for case in cases:
        with Bystanders() as bystanders:
            lines = await run_case(case, rounds)
        for record in summarise(case, lines):
            record["bystanders"] = bystanders.share
            print(format_record(record), flush=True)
            records.append(record)
        if bystanders.share is not None:
            print(f"  others took {bystanders.share:.0%} of the machine's CPU", flush=True)
    return records


def main(arguments: Sequence[str]) -> int:
    """Do what the command line asks for; return the exit code."""
    options = parse(arguments)
    if options.list:
        print("\n".join(case.name for case in load_cases()))
        return 0
    cases = choose_cases(load_cases(), options.words, options.beside)
    if not cases:
        print("no case has such a name; --list names them all", file=sys.stderr)
        return 2
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, "
        f"medians of {options.rounds} rounds; x, of each round, is over 1 where Terzetto is ahead"
    )
    records = trio.run(run_all, cases, options.rounds)
    if options.json is not None:
        options.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    return 1 if any("error" in record for record in records) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
