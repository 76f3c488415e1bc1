"""The bench itself: its arithmetic, and that each way a contender can fail is told by name."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import pytest

from tests.bench.__main__ import choose_cases, load_cases
from tests.bench.harness import AsyncMeasure, Case, Contender, Figures, Line, Measure, Setting
from tests.bench.report import find_ratio, format_record, summarise
from tests.bench.runner import run_case

HERE = "tests.tooling.test_bench"


@asynccontextmanager
async def on_trio(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    async def measure() -> Figures:
        return {"rate": 200.0, "p50": 1.0}

    assert setting.name
    print("a contender may print what it likes")
    yield measure


@contextmanager
def plain(_setting: Setting) -> Generator[Measure]:
    yield lambda: {"rate": 50.0}


@contextmanager
def raising(_setting: Setting) -> Generator[Measure]:
    def measure() -> Figures:
        raise RuntimeError("out of luck")

    yield measure


@contextmanager
def killed(_setting: Setting) -> Generator[Measure]:
    def measure() -> Figures:
        signal.raise_signal(signal.SIGKILL)
        return {}

    yield measure


def make_case(*peers: Contender, ours: str = f"{HERE}:on_trio") -> Case:
    return Case(
        name="some.case",
        units={"rate": "things/s", "p50": "ms"},
        ours=Contender("terzetto", ours),
        peers=peers,
        goals={"plain": 3.0},
    )


def test_ratios_are_over_1_where_ours_is_ahead() -> None:
    assert find_ratio("things/s", 200.0, 100.0) == 2.0
    assert find_ratio("ms", 2.0, 6.0) == 3.0


def test_a_time_of_0_has_a_ratio() -> None:
    assert find_ratio("ms", 0.0, 0.0) == 1.0
    assert find_ratio("ms", 1.0, 0.0) == 0.0
    assert find_ratio("ms", 0.0, 1.0) == math.inf

    ours = Line(Contender("terzetto", ""), turns=[{"lag": 0.0}])
    peer = Line(Contender("plain", ""), turns=[{"lag": 1.0}])
    case = Case(name="c", units={"lag": "ms"}, ours=ours.contender, peers=[peer.contender])
    (record,) = summarise(case, [ours, peer])

    assert record["peers"][0].get("ratio", 0.0) is None
    assert "inf x" in format_record(record)
    assert "Infinity" not in json.dumps(record)


def test_medians_and_ratios_stand_in_the_records() -> None:
    ours = Line(Contender("terzetto", ""), turns=[{"rate": 9.0}, {"rate": 4.0}, {"rate": 5.0}])
    peer = Line(Contender("plain", ""), turns=[{"rate": 1.0}, {"rate": 3.0}, {"rate": 2.0}])
    case = Case(
        name="c", units={"rate": "x/s"}, ours=ours.contender, peers=[peer.contender], goals={}
    )

    (record,) = summarise(case, [ours, peer])

    assert (record["name"], record["unit"], record["median"]) == ("c", "x/s", 5.0)
    assert record["peers"][0].get("median") == 2.0
    assert record["peers"][0].get("ratios") == [9.0, 4 / 3, 2.5]
    assert record["peers"][0].get("ratio") == 2.5


def test_the_ratio_is_of_turns_of_one_round() -> None:
    # The machine is ten times slower in the last two rounds, for both.
    ours = Line(Contender("terzetto", ""), turns=[{"rate": 40.0}, {"rate": 4.0}, {"rate": 2.0}])
    peer = Line(Contender("plain", ""), turns=[{"rate": 10.0}, {"rate": 1.0}, {"rate": 1.0}])
    case = Case(name="c", units={"rate": "x/s"}, ours=ours.contender, peers=[peer.contender])

    (record,) = summarise(case, [ours, peer])

    assert record["peers"][0].get("ratio") == 4.0


def test_ours_that_failed_on_the_way_is_compared_as_far_as_it_came() -> None:
    ours = Line(Contender("terzetto", ""), turns=[{"rate": 40.0}], error="out of luck")
    peer = Line(Contender("plain", ""), turns=[{"rate": 10.0}, {"rate": 1.0}])
    case = Case(name="c", units={"rate": "x/s"}, ours=ours.contender, peers=[peer.contender])

    (record,) = summarise(case, [ours, peer])

    assert record["peers"][0].get("ratios") == [4.0]
    assert record["peers"][0].get("median") == 5.5


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat, which Linux has")
def test_the_share_of_others_is_that_of_other_groups() -> None:
    # In a group of its own: other tests may run in ours.
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_A_BUSY_PROCESS],
        start_new_session=True,
        capture_output=True,
        check=True,
    )
    beside_a_stranger, beside_ours = json.loads(done.stdout)

    assert beside_a_stranger < 0.3 < beside_ours


BESIDE_A_BUSY_PROCESS = """
import json, subprocess, sys
from tests.bench.bystanders import Bystanders
work = [sys.executable, "-c", "import time\\nwhile time.process_time() < 0.5: pass"]
own = []
for is_stranger in (True, False):
    with subprocess.Popen(work, stdout=subprocess.PIPE, start_new_session=is_stranger) as process:
        with Bystanders() as bystanders:
            process.stdout.read()  # until it has ended
    assert bystanders.share is not None
    own.append(bystanders.own)
print(json.dumps(own))
"""


async def test_contenders_take_their_turns_in_processes_of_their_own() -> None:
    case = make_case(Contender("plain", f"{HERE}:plain", loop="none", packages=["trio"]))

    lines = await run_case(case, rounds=2)

    assert [len(line.turns) for line in lines] == [2, 2]
    rate, p50 = summarise(case, lines)
    assert rate["median"] == 200.0
    assert rate["peers"][0].get("ratio") == 4.0
    assert rate["peers"][0].get("goal") == 3.0
    assert p50["name"] == "some.case.p50"
    assert p50["peers"] == []
    assert "(goal 3)" in format_record(rate)


async def test_a_long_case_has_one_turn_each() -> None:
    case = attrs.evolve(make_case(Contender("plain", f"{HERE}:plain", loop="none")), long=True)

    lines = await run_case(case, rounds=5)

    assert [len(line.turns) for line in lines] == [1, 1]


def test_words_choose_cases_but_a_long_one_by_its_whole_name() -> None:
    short = make_case()
    long = attrs.evolve(short, name="some.case.20000", long=True)

    assert choose_cases([short, long], [], []) == [short]
    assert choose_cases([short, long], ["other"], []) == []
    assert choose_cases([short, long], ["some"], []) == [short]
    assert choose_cases([short, attrs.evolve(long, long=False)], ["some.case"], []) == [short]
    assert choose_cases([short, long], ["some.case.20000"], []) == [long]


def test_a_case_is_measured_beside_the_peers_that_are_asked_for() -> None:
    plain, arq, saq = (Contender(name, "") for name in ("plain", "arq", "saq"))

    (chosen,) = choose_cases([make_case(plain, arq, saq)], [], ["ARQ", "saq"])

    assert chosen.peers == [arq, saq]


@pytest.mark.parametrize(
    ("contender", "told"),
    [
        (Contender("absent", "tests.bench.no_such_peer:run"), "missing: No module named"),
        (Contender("absent", f"{HERE}:plain", packages=["no-such-peer"]), "is not installed"),
        (Contender("raising", f"{HERE}:raising", loop="none"), "failed: RuntimeError: out of luck"),
        (Contender("killed", f"{HERE}:killed", loop="none"), "failed: its process ended with -9"),
    ],
)
async def test_a_peer_that_cannot_take_part_is_named(contender: Contender, told: str) -> None:
    lines = await run_case(make_case(contender), rounds=1)

    record, _ = summarise(make_case(contender), lines)

    assert record["median"] == 200.0
    assert "error" not in record
    assert contender.name in format_record(record)
    assert told in format_record(record)


async def test_ours_that_fails_is_an_error_of_the_case() -> None:
    case = make_case(ours=f"{HERE}:no_such_function")

    record, _ = summarise(case, await run_case(case, rounds=1))

    assert record["median"] is None
    assert "no_such_function" in record.get("error", "")


def test_the_names_of_all_cases_differ() -> None:
    names = [case.name for case in load_cases()]

    assert len(names) == len(set(names))
    assert {"actor.ask", "actor.tell", "redis.xadd.100tasks", "streaming.add.100tasks"} <= set(
        names
    )


async def test_a_case_without_its_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    case = attrs.evolve(make_case(), server=True)

    record, _ = summarise(case, await run_case(case, rounds=1))

    assert record.get("error") == "no redis-server on PATH"
