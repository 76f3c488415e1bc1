"""What stands in the maps of tickers and schedules: read as Go writes it, refused when broken."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto.errors import InvalidNameError, InvalidOptionError
from terzetto.pool._ticks import Entry, full_name, interval_of, read_entry

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "pulse.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("vector", VECTORS["ticker_value"])
def test_entries_are_written_and_read_as_go_does(vector: dict[str, Any]) -> None:
    entry = Entry(vector["time_ns"], vector["duration_ns"])
    assert entry.encode() == vector["value"]
    read = read_entry(vector["value"])
    assert read is not None
    assert read.encode() == vector["value"]


@pytest.mark.parametrize("vector", VECTORS["ticker_next"])
def test_the_next_entry_is_the_one_that_go_computes(vector: dict[str, Any]) -> None:
    entry = read_entry(vector["value"])
    assert entry is not None
    assert entry.following(vector["now_ns"]).encode() == vector["next"]


@given(
    due=st.integers(0, 2**61).map(lambda ns: ns // 1000 * 1000),
    interval=st.integers(1, 10**12),
    late=st.integers(-(10**12), 10**15),
)
def test_the_next_tick_is_a_whole_number_of_intervals_away_and_not_past(
    due: int, interval: int, late: int
) -> None:
    following = Entry(due, interval).following(due + late)
    assert following.due_ns >= due + late
    assert following.due_ns > due
    assert (following.due_ns - due) % interval == 0
    assert following.due_ns - max(due + late, due) <= interval


@pytest.mark.parametrize("value", ["", "1", "|1s", "1|", "x|1s", "1|0s", "1|-1s", "1|1", "1|1s|"])
def test_what_is_no_entry_is_none(value: str) -> None:
    assert read_entry(value) is None


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e12])
def test_bad_intervals_are_refused(seconds: float) -> None:
    with pytest.raises(InvalidOptionError):
        interval_of(seconds)


@pytest.mark.parametrize("name", ["", "a=b", "\udcff"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidNameError):
        full_name("pool", name)
