"""What becomes of each event of a pool's stream: routed, held, answered, sent again, given up."""

import pytest

from terzetto.pool import MalformedBodyError
from terzetto.pool._codec import JobBody, encode_job, encode_job_key, encode_notification
from terzetto.pool._fleet import Fleet
from terzetto.pool._routes import Deliver, PoolEvent, Routes, Verdict, decide, read_event

NOW_MS = 1_700_000_000_000
WALL = NOW_MS * 1_000_000


def start(key: str = "k", *, requeued: bool = False, age: float = 0.0) -> PoolEvent:
    body = encode_job(JobBody(key, "node", b"", 1, requeued))
    return read_event(f"{NOW_MS - round(age * 1000)}-0", "j", body)


def stop(key: str = "k") -> PoolEvent:
    return read_event(f"{NOW_MS}-1", "s", encode_job_key(key))


def fleet(*workers: str, jobs: dict[str, str] | None = None) -> Fleet:
    known = Fleet(10.0)
    known.observe_jobs(jobs or {})
    known.observe_workers(
        workers={worker: str(number) for number, worker in enumerate(workers)},
        keepalive=dict.fromkeys(workers, str(WALL)),
        cleanup={},
        now=0.0,
        wall_ns=WALL,
    )
    return known


def verdict(event: PoolEvent, known: Fleet) -> Deliver | Verdict:
    return decide(event, known, now=1.0, server_ms=NOW_MS)


def test_events_are_read_and_others_refused() -> None:
    assert start("a").job == JobBody("a", "node", b"", 1, requeued=False, event_id=f"{NOW_MS}-0")
    assert stop("b").key == "b"
    assert read_event("1-0", "n", encode_notification("c", b"x")).key == "c"
    with pytest.raises(MalformedBodyError):
        read_event("1-0", "zz", b"")
    with pytest.raises(MalformedBodyError):
        read_event("1-0", "s", b"\xff\xff\xff\xffk")


def test_a_start_goes_by_hash_and_waits_while_nobody_is_there() -> None:
    assert verdict(start(), fleet()) is Verdict.HOLD
    assert verdict(start(), fleet("a")) == Deliver("a")


def test_a_start_that_was_delivered_before_goes_to_its_owner() -> None:
    known = fleet("a", "b", jobs={"a": '["k"]'})
    assert verdict(start(), known) == Deliver("a")
    known = fleet("a", "b", jobs={"b": '["k"]'})
    assert verdict(start(), known) == Deliver("b")


def test_a_start_that_was_sent_again_goes_by_hash_even_if_an_owner_is_still_shown() -> None:
    places = {
        verdict(start(requeued=True), fleet("a", "b", jobs={owner: '["k"]'})) for owner in "ab"
    }
    assert len(places) == 1


def test_a_start_older_than_two_minutes_is_given_up() -> None:
    assert verdict(start(age=119), fleet("a")) == Deliver("a")
    assert verdict(start(age=121), fleet("a")) is Verdict.DROP


def test_stops_go_to_the_owner_and_not_by_hash() -> None:
    for owner in "ab":
        assert verdict(stop(), fleet("a", "b", jobs={owner: '["k"]'})) == Deliver(owner)
    assert verdict(stop(), fleet("a", "b")) is Verdict.ASK_PAYLOAD
    assert verdict(stop(), fleet("a", "b", jobs={"a": '["k"]', "b": '["k"]'})) is Verdict.HOLD
    assert verdict(stop(), fleet("a", jobs={"gone": '["k"]'})) is Verdict.ASK_PAYLOAD


def test_an_answer_that_overtakes_its_question_is_kept() -> None:
    routes = Routes()
    event = start()
    assert routes.arrive(event, 0.0)
    assert routes.answered("w", "9-0", "boom") is None
    assert routes.deliver_there(event.event_id, "w", "9-0") == "boom"


def test_an_answer_finds_its_event_once() -> None:
    routes = Routes()
    event = start()
    routes.arrive(event, 0.0)
    assert routes.deliver_there(event.event_id, "w", "9-0") is None
    assert routes.answered("other", "9-0", "") is None
    assert routes.answered("w", "9-0", "") == event.event_id
    assert routes.end(event.event_id) is not None
    assert routes.end(event.event_id) is None
    assert routes.answered("w", "9-0", "") is None
    assert len(routes) == 0


def test_a_slow_start_here_is_not_delivered_again_and_one_elsewhere_is() -> None:
    routes = Routes()
    event = start()
    routes.arrive(event, 0.0)
    routes.deliver_here(event.event_id, "w")
    assert not routes.arrive(event, 5.0)
    routes.hold(event.event_id, 5.0)
    assert routes.arrive(event, 5.0)
    routes.deliver_there(event.event_id, "w", "9-0")
    assert routes.arrive(event, 10.0)
    assert routes.answered("w", "9-0", "") is None


def test_held_events_back_off_and_hurry_when_the_fleet_changes() -> None:
    routes = Routes()
    event = start()
    routes.arrive(event, 0.0)
    waits: list[float] = []
    now = 0.0
    for _ in range(10):
        routes.hold(event.event_id, now)
        due = routes.next_due()
        assert due is not None
        waits.append(due - now)
        now = due + 0.001
        assert routes.due(now) == [event]
        assert routes.due(now) == []
    assert waits == pytest.approx(sorted(waits))
    assert waits[-1] == pytest.approx(1.0)
    routes.hold(event.event_id, now)
    assert routes.due(now - 0.5) == []
    routes.hurry(now - 0.5)
    assert routes.due(now - 0.5) == [event]
    routes.hold(event.event_id, now)
    assert routes.due(1000.0) == []
    assert len(routes) == 0


def test_what_is_with_a_worker_that_has_gone_is_routed_afresh() -> None:
    routes = Routes()
    event = start()
    routes.arrive(event, 0.0)
    routes.deliver_there(event.event_id, "w", "9-0")
    routes.strand(fleet("w"), 1.0)
    assert routes.due(1.0) == []
    routes.strand(fleet("other"), 1.0)
    assert routes.due(1.0) == [event]


def test_an_event_that_is_being_sent_is_not_taken_up_again() -> None:
    routes = Routes()
    event = start()
    routes.arrive(event, 0.0)
    routes.hurry(1.0)
    assert routes.next_due() is None
    assert routes.due(1.0) == []
