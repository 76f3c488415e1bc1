"""Cron specs: golden vectors of robfig/cron v3.0.1, and what holds for every spec."""

import json
from datetime import MAXYEAR, UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TypedDict
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from terzetto._shared._cron import Crontab, Every, parse_schedule
from terzetto.errors import InvalidCronError, InvalidOptionError


class Row(TypedDict):
    spec: str
    zone: str
    next: dict[str, str | None]


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cron.json").read_text())
SCHEDULES: list[Row] = VECTORS["schedules"]
REFUSED: list[str] = VECTORS["refused"]
ZONES = ("UTC", "Europe/Paris", "America/Havana", "Asia/Kathmandu", "Australia/Lord_Howe")
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: f"{row['zone']} {row['spec']}")
def test_a_spec_is_due_when_go_says(row: Row) -> None:
    schedule = parse_schedule(row["spec"], zone=ZoneInfo(row["zone"]))
    found = {moment: schedule.next_after(datetime.fromisoformat(moment)) for moment in row["next"]}
    assert {
        moment: None if due is None else due.astimezone(UTC).isoformat()
        for moment, due in found.items()
    } == row["next"]


@pytest.mark.parametrize("spec", REFUSED)
def test_what_go_refuses_is_refused(spec: str) -> None:
    with pytest.raises(InvalidCronError):
        parse_schedule(spec)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("60 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("+5 * * * *", "minute"),
        ("*-5 * * * *", "minute"),
        ("0 0-24 * * *", "hour"),
        ("0 0 0 * *", "day of month"),
        ("0 0 1 SUN *", "month"),
        ("0 0 1 FEB-JAN *", "month"),
        ("0 0 * * 7", "day of week"),
        ("0 0 * * */0", "day of week"),
        ("0 0 * *", "fields"),
        ("0 0 0 * * *", "fields"),
        ("", "fields"),
        ("TZ=Europe/Paris", "fields"),
        ("@often", "descriptor"),
        ("@every soon", "duration"),
        ("@every -1h", "duration"),
        ("@every 0s", "duration"),
        ("TZ=Nowhere/Land * * * * *", "time zone"),
        ("TZ=Europe * * * * *", "time zone"),
        ("TZ=../etc/passwd * * * * *", "time zone"),
        ("TZ= * * * * *", "time zone"),
        ("9" * 5000 + " * * * *", "minute"),
        ("\u0665 * * * *", "minute"),
        ("0\u00a00 * * *", "fields"),
    ],
)
def test_a_bad_spec_is_refused_and_its_field_named(spec: str, field: str) -> None:
    with pytest.raises(InvalidCronError, match=field) as caught:
        parse_schedule(spec)
    assert caught.value.field == field
    assert caught.value.spec == spec


@pytest.mark.parametrize("bad", [None, 5, b"* * * * *"])
def test_what_is_no_text_is_refused(bad: object) -> None:
    with pytest.raises(TypeError, match="str"):
        parse_schedule(bad)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
    with pytest.raises(TypeError, match="tzinfo"):
        parse_schedule("* * * * *", zone="UTC")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test


def test_a_moment_without_a_zone_is_refused() -> None:
    for spec in ("* * * * *", "@every 1h"):
        with pytest.raises(InvalidOptionError, match="aware"):
            parse_schedule(spec).next_after(datetime(2024, 1, 1))  # noqa: DTZ001 - that is the test


def test_a_zone_in_the_spec_wins_over_the_one_beside_it() -> None:
    schedule = parse_schedule("TZ=Asia/Tokyo 0 9 * * *", zone=ZoneInfo("Europe/Paris"))
    due = schedule.next_after(datetime(2024, 1, 1, 12, tzinfo=UTC))
    assert due == datetime(2024, 1, 2, tzinfo=UTC)
    assert isinstance(schedule, Crontab)
    assert schedule.zone == ZoneInfo("Asia/Tokyo")
    assert schedule.spec == "0 9 * * *"


def test_a_skipped_time_does_not_come_and_a_repeated_one_comes_twice() -> None:
    nightly = parse_schedule("30 2 * * *", zone=ZoneInfo("Europe/Paris"))
    due = nightly.next_after(datetime(2024, 3, 30, 12, tzinfo=UTC))
    assert due == datetime(2024, 4, 1, 0, 30, tzinfo=UTC)
    first = nightly.next_after(datetime(2024, 10, 26, 12, tzinfo=UTC))
    assert first == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert first is not None
    assert nightly.next_after(first) == datetime(2024, 10, 27, 1, 30, tzinfo=UTC)


def test_any_zone_will_do() -> None:
    zone = timezone(timedelta(hours=5, minutes=45, seconds=7))
    due = parse_schedule("0 0 * * *", zone=zone).next_after(datetime(2024, 1, 1, tzinfo=UTC))
    assert due == datetime(2024, 1, 2, tzinfo=zone)


def test_the_calendar_ends() -> None:
    late = datetime(MAXYEAR, 12, 31, 23, 59, 59, tzinfo=UTC)
    for spec in ("* * * * *", "@every 1h"):
        assert parse_schedule(spec).next_after(late) is None


@attrs.frozen
class Given:
    """A field as text, and what it allows."""

    text: str
    values: frozenset[int]
    has_star: bool


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> Given:
    if draw(st.booleans()):
        return Given(draw(st.sampled_from("*?")), frozenset(range(low, high + 1)), has_star=True)
    texts: list[str] = []
    values: set[int] = set()
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, 9))
        match draw(st.sampled_from(["one", "range", "steps", "from", "star"])):
            case "one":
                texts.append(str(first))
                values.add(first)
            case "range":
                texts.append(f"{first}-{last}")
                values.update(range(first, last + 1))
            case "steps":
                texts.append(f"{first}-{last}/{step}")
                values.update(range(first, last + 1, step))
            case "from":
                texts.append(f"{first}/{step}")
                values.update(range(first, high + 1, step))
            case _:
                texts.append(f"*/{step + 1}")
                values.update(range(low, high + 1, step + 1))
    return Given(",".join(texts), frozenset(values), has_star=False)


FIELDS = st.tuples(fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 6))
MOMENTS = st.datetimes(
    datetime(1990, 1, 1),  # noqa: DTZ001 - strategies want it so
    datetime(2090, 1, 1),  # noqa: DTZ001 - likewise
    timezones=st.sampled_from([ZoneInfo(name) for name in ZONES]),
)


def matches(parts: tuple[Given, ...], moment: datetime) -> bool:
    minute, hour, day, month, weekday = parts
    by_day = moment.day in day.values
    by_weekday = moment.isoweekday() % 7 in weekday.values
    is_day = by_day and by_weekday if day.has_star or weekday.has_star else by_day or by_weekday
    return (
        is_day
        and moment.second == moment.microsecond == 0
        and moment.minute in minute.values
        and moment.hour in hour.values
        and moment.month in month.values
    )


@settings(max_examples=150)
@given(FIELDS, MOMENTS)
def test_the_next_time_is_later_and_matches_and_none_between_does(
    parts: tuple[Given, ...], moment: datetime
) -> None:
    zone = moment.tzinfo
    assert zone is not None
    schedule = parse_schedule(" ".join(part.text for part in parts), zone=zone)
    due = schedule.next_after(moment)
    start = moment.astimezone(UTC)
    if due is not None:
        assert due.tzinfo is UTC
        assert due > start
        assert matches(parts, due.astimezone(zone))
    end = start + timedelta(days=3) if due is None else due
    minute = start.replace(second=0, microsecond=0) + MINUTE
    for _ in range(3 * 24 * 60):
        if minute >= end:
            break
        assert not matches(parts, minute.astimezone(zone))
        minute += MINUTE


@settings(max_examples=50)
@given(FIELDS, MOMENTS, st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_later_moment_has_no_earlier_next_time(
    parts: tuple[Given, ...], moment: datetime, later_by: timedelta
) -> None:
    zone = moment.tzinfo
    assert zone is not None
    schedule = parse_schedule(" ".join(part.text for part in parts), zone=zone)
    first = schedule.next_after(moment)
    second = schedule.next_after(moment.astimezone(UTC) + later_by)
    if first is not None and second is not None:
        assert first <= second


@settings(max_examples=50)
@given(MOMENTS, st.integers(1, 10**6))
def test_every_counts_from_now_in_whole_seconds(moment: datetime, seconds: int) -> None:
    schedule = parse_schedule(f"@every {seconds}.9s")
    due = schedule.next_after(moment)
    start = moment.astimezone(UTC).replace(microsecond=0)
    assert due == start + timedelta(seconds=seconds)


@settings(max_examples=200)
@example("* * * * *")
@given(st.text(alphabet="0123456789*?/-,@ AJNUSevry=TZ\u0660", max_size=24))
def test_any_text_is_a_schedule_or_an_error(text: str) -> None:
    try:
        schedule = parse_schedule(text)
    except InvalidCronError as error:
        assert error.field in str(error)  # noqa: PT017 - either is fine
    else:
        assert isinstance(schedule, Crontab | Every)
