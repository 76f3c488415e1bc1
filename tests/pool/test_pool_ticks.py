"""What stands in the maps of tickers and schedules: read as Go writes it, refused when broken."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto._shared._durations import parse_duration
from terzetto.errors import InvalidCronError, InvalidNameError, InvalidOptionError
from terzetto.pool._ticks import Cadence, Entry, cadence_of, full_name, interval_of, read_entry

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


def unix_ns(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * 10**9


def test_an_entry_by_a_cron_spec_goes_on_by_it_and_can_be_read_by_go() -> None:
    cadence = cadence_of("30 2 * * *", ZoneInfo("Europe/Paris"))
    entry = cadence.first(unix_ns("2024-03-29T12:00:00+00:00"))
    assert entry.due_ns == unix_ns("2024-03-30T01:30:00+00:00")
    assert entry.encode() == "1711762200000000|47h0m0s|CRON_TZ=Europe/Paris 30 2 * * *"
    assert read_entry(entry.encode()) == entry
    after = entry.following(entry.due_ns + 1)
    assert after.due_ns == unix_ns("2024-04-01T00:30:00+00:00")  # 31 March has no 2:30
    assert entry.following(unix_ns("2024-05-01T12:00:00+00:00")).due_ns == unix_ns(
        "2024-05-02T00:30:00+00:00"
    )
    assert entry.following(unix_ns("2024-05-02T00:30:00+00:00")).due_ns == unix_ns(
        "2024-05-02T00:30:00+00:00"
    )


@given(now=st.integers(0, 2**60), late=st.integers(0, 10**16))
def test_cron_ticks_go_forward_and_leave_go_an_interval(now: int, late: int) -> None:
    entry = cadence_of("*/20 5 * * MON", ZoneInfo("Australia/Sydney")).first(now)
    assert entry.due_ns > now
    following = entry.following(entry.due_ns + late)
    assert following.due_ns > entry.due_ns
    assert following.due_ns >= entry.due_ns + late
    duration = following.encode().split("|")[1]
    assert parse_duration(duration) > 0


def test_who_shares_a_ticker_has_the_same_spec_and_zone() -> None:
    paris = cadence_of("0 3 * * *", ZoneInfo("Europe/Paris"))
    same = cadence_of("TZ=Europe/Paris 0 3 * * *", UTC)
    entry = same.first(0)
    assert paris.has(entry)
    assert not cadence_of("0 3 * * *", ZoneInfo("Europe/Berlin")).has(entry)
    assert not cadence_of("0 4 * * *", ZoneInfo("Europe/Paris")).has(entry)
    assert not cadence_of(86400, UTC).has(entry)
    assert not paris.has(cadence_of(86400, UTC).first(0))
    assert cadence_of("@every 1h30m", UTC) == Cadence(5400 * 10**9)


def test_cron_specs_that_no_ticker_can_have_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="never comes"):
        cadence_of("0 0 30 2 *", UTC)
    with pytest.raises(InvalidOptionError, match="no name"):
        cadence_of("0 0 * * *", timezone(timedelta(hours=2)))
    with pytest.raises(InvalidCronError, match="hour"):
        cadence_of("0 25 * * *", UTC)
    for when in (None, b"@daily", True):
        with pytest.raises(InvalidOptionError):
            cadence_of(when, UTC)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
    leap = cadence_of("0 0 29 2 *", UTC).first(unix_ns("2096-03-01T00:00:00+00:00"))
    assert leap.due_ns == unix_ns("2104-02-29T00:00:00+00:00")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "|1s",
        "1|",
        "x|1s",
        "1|0s",
        "1|-1s",
        "1|1",
        "1|1s|",
        "1|1s|often",
        "1|1s|@every 1h",
        "1|0s|CRON_TZ=UTC 0 0 * * *",
        "0|1s|CRON_TZ=UTC 0 0 30 2 *",
        "999999999999999999999|1s",
        "-99999999999999999999|1s",
    ],
)
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
