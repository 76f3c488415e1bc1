"""Who is alive, who owns what, and who may be buried, by the signs in the maps alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto.pool._assign import Owners, Pulse, read_list
from terzetto.pool._fleet import Fleet

SECOND = 1_000_000_000
WALL = 1_700_000_000 * SECOND


def fleet_of(*workers: str, now: float = 0.0, ttl: float = 10.0) -> Fleet:
    fleet = Fleet(ttl)
    watch(fleet, dict.fromkeys(workers, str(WALL)), now=now)
    return fleet


def watch(
    fleet: Fleet,
    signs: dict[str, str],
    *,
    now: float,
    locks: dict[str, str] | None = None,
    workers: dict[str, str] | None = None,
) -> bool:
    if workers is None:
        workers = {worker: str(number + 1) for number, worker in enumerate(sorted(signs))}
    return fleet.observe_workers(
        workers=workers, keepalive=signs, cleanup=locks or {}, now=now, wall_ns=WALL
    )


def test_a_worker_whose_sign_changes_stays_on_the_ring_whatever_its_clock_says() -> None:
    fleet = fleet_of("a")
    for step in range(1, 10):
        watch(fleet, {"a": str(WALL - 500 * SECOND + step)}, now=step * 9.0)
        assert fleet.is_active("a", step * 9.0)
        assert fleet.dead_workers(step * 9.0) == []


def test_a_sign_from_the_future_keeps_nobody_alive() -> None:
    fleet = Fleet(10.0)
    watch(fleet, {"a": str(WALL + 500 * SECOND)}, now=0.0)
    assert fleet.is_active("a", 9.0)
    assert not fleet.is_active("a", 10.5)
    assert fleet.dead_workers(10.5) == ["a"]


def test_an_old_sign_keeps_work_away_but_buries_nobody_before_a_ttl_of_silence() -> None:
    fleet = Fleet(10.0)
    watch(fleet, {"a": str(WALL - 500 * SECOND)}, now=0.0)
    assert not fleet.is_active("a", 0.0)
    assert fleet.dead_workers(9.0) == []
    assert fleet.dead_workers(10.5) == ["a"]


def test_after_an_outage_everybody_has_a_whole_ttl_again() -> None:
    fleet = fleet_of("a", "b")
    fleet.forgive(50.0)
    assert fleet.dead_workers(50.0) == []
    assert fleet.is_active("a", 59.0)
    assert fleet.dead_workers(60.5) == ["a", "b"]


def test_who_may_be_back_later_than_we_are_has_a_ttl_from_then() -> None:
    fleet = fleet_of("a", "b")
    fleet.forgive(52.0)
    watch(fleet, {"a": str(WALL + 1), "b": str(WALL)}, now=50.0)  # an old sign, heard late
    fleet.credit(1.0, 50.0)
    fleet.forgive(51.0)
    assert fleet.dead_workers(61.5) == []
    assert fleet.dead_workers(62.5) == ["a", "b"]


def test_time_in_which_we_could_not_listen_is_not_silence() -> None:
    fleet = fleet_of("a")
    fleet.credit(4.0, 9.0)
    assert fleet.dead_workers(13.5) == []
    assert fleet.dead_workers(14.5) == ["a"]
    fleet.credit(100.0, 15.0)
    assert fleet.dead_workers(25.5) == ["a"], "nobody is heard in the future"


def test_a_worker_without_a_sign_is_dead_only_after_a_ttl() -> None:
    fleet = Fleet(10.0)
    watch(fleet, {}, workers={"a": "1"}, now=0.0)
    assert fleet.ring(0.0) == ()
    assert fleet.dead_workers(5.0) == []
    assert fleet.dead_workers(10.5) == ["a"]


def test_a_leaving_worker_is_off_the_ring_and_a_number_that_is_none_too() -> None:
    fleet = Fleet(10.0)
    signs = dict.fromkeys("abc", str(WALL))
    watch(fleet, signs, workers={"a": "-", "b": "x1", "c": "5"}, now=0.0)
    assert [member.worker_id for member in fleet.ring(0.0)] == ["c"]
    assert fleet.worker_ids() == ["c", "b"]


def test_a_young_clean_up_lock_keeps_others_off_and_an_old_one_does_not() -> None:
    fleet = fleet_of("a")
    watch(fleet, {"a": str(WALL)}, locks={"a": str(WALL)}, now=10.5)
    assert fleet.dead_workers(11.0) == []
    assert fleet.dead_workers(21.0) == ["a"]


def test_only_a_change_of_the_map_of_workers_is_one() -> None:
    fleet = Fleet(10.0)
    assert watch(fleet, {"a": "1"}, now=0.0)
    assert not watch(fleet, {"a": "2"}, now=1.0)
    assert watch(fleet, {"a": "2"}, workers={"a": "-"}, now=2.0)


@pytest.mark.parametrize(
    ("stored", "items"),
    [
        ('["a","b"]', ["a", "b"]),
        ("a,,b", ["a", "b"]),
        ("{}", ["{}"]),
        ("[1]", ["[1]"]),
        ("", []),
        ("[" * 100_000, ["[" * 100_000]),
    ],
)
def test_stored_lists_are_read_as_scripts_do(stored: str, items: list[str]) -> None:
    assert read_list(stored) == items


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"), st.sets(st.sampled_from("uvwxyz"), min_size=1), max_size=3
        ),
        max_size=6,
    )
)
def test_owners_follow_the_map_of_jobs(states: list[dict[str, set[str]]]) -> None:
    owners = Owners()
    for state in states:
        owners.observe({worker: json.dumps(sorted(keys)) for worker, keys in state.items()})
        for key in "uvwxyz":
            assert owners.of(key) == {worker for worker, keys in state.items() if key in keys}
        assert owners.workers() == state.keys()
        assert all(owners.keys(worker) == keys for worker, keys in state.items())


_TEXTS = (
    *('["u"]', '["u","v"]', '["u", "v","w"]', '["u"] ', '["u"] ,"v"]', '["u"],"v"]', '["u"],"v"'),
    *('["u",1]', '["u","v",1]', "[]", "u", "u,v", '{"u":1}', '["u","u"]', '["u","v"],["w"]'),
)


@pytest.mark.parametrize("before", _TEXTS)
@pytest.mark.parametrize("after", _TEXTS)
def test_a_list_that_grew_is_read_as_one_that_is_new(before: str, after: str) -> None:
    grown, fresh = Owners(), Owners()
    for stored in (before, after):
        grown.observe({"a": stored})
    fresh.observe({"a": after})
    assert grown.keys("a") == fresh.keys("a")
    for key in {*read_list(before), *read_list(after)}:
        assert grown.of(key) == fresh.of(key)


@given(
    st.lists(st.tuples(st.floats(0.01, 4.0), st.booleans(), st.booleans()), min_size=1, max_size=30)
)
def test_nobody_is_buried_within_a_ttl_of_a_sign(steps: list[tuple[float, bool, bool]]) -> None:
    pulse = Pulse(5.0)
    now, last, value = 0.0, 0.0, 0
    pulse.observe({"a": "0"}, now=now, wall_ns=WALL)
    for wait, signs, forgives in steps:
        now += wait
        if signs:
            value, last = value + 1, now
            pulse.observe({"a": str(value)}, now=now, wall_ns=WALL)
        if forgives:
            last = now
            pulse.forgive(now)
        assert pulse.is_silent("a", now) == (now - last > 5.0)
        assert not (pulse.is_fresh("a", now) and pulse.is_silent("a", now))
