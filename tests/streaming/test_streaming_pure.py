"""The pure parts: entries, ids, start positions, filters, claims, gaps."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto.errors import InvalidNameError, InvalidOptionError
from terzetto.streaming import NEWEST, OLDEST, Event, InvalidPatternError
from terzetto.streaming._claims import Dues, Liveness, idle_for_retry_ms, retry_delay
from terzetto.streaming._event import Entry, Poison, decode_entries, decode_entry, encode_entry
from terzetto.streaming._filters import make_filter
from terzetto.streaming._gap import Cursor, Edges, Gap
from terzetto.streaming._names import check_event_name, check_sink_name, check_stream_name
from terzetto.streaming._options import check_count, check_seconds, whole_seconds
from terzetto.streaming._outbox import Outbox
from terzetto.streaming._pace import Pace
from terzetto.streaming._positions import after_start, created_at, id_before, parse_id

any_bytes = st.binary(max_size=40)
any_text = st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape"))


def event(topic: str = "", name: str = "n") -> Event:
    return Event(id="1-0", stream="s", name=name, payload=b"", topic=topic)


@given(name=any_text.filter(bool), payload=any_bytes, topic=any_text)
def test_an_entry_comes_back_as_the_event_it_was(name: str, payload: bytes, topic: str) -> None:
    decoded = decode_entry("s", b"17-3", encode_entry(name, payload, topic))
    assert decoded == Event(id="17-3", stream="s", name=name, payload=payload, topic=topic)


@given(fields=st.lists(any_bytes, max_size=9))
def test_any_fields_decode_to_an_event_or_to_poison(fields: list[bytes]) -> None:
    decoded = decode_entry("s", b"1-1", fields)
    pairs = dict(zip(fields[::2], fields[1::2], strict=False))
    assert isinstance(decoded, Event) == (b"n" in pairs and b"p" in pairs)


pairs_of_fields = st.lists(
    st.tuples(st.sampled_from([b"n", b"p", b"t", b"x"]), any_bytes), max_size=4
).map(lambda pairs: [part for pair in pairs for part in pair])


@given(entries=st.lists(st.none() | pairs_of_fields, max_size=6))
def test_many_entries_decode_as_each_of_them(entries: list[list[bytes] | None]) -> None:
    numbered: list[Entry] = [(b"1-%d" % number, fields) for number, fields in enumerate(entries)]
    each = [decode_entry("s", *entry, sink="k") for entry in numbered]
    events, poison = decode_entries("s", numbered, sink="k")
    assert events == [one for one in each if isinstance(one, Event)]
    assert poison == [one for one in each if isinstance(one, Poison)]
    assert all(type(one) is Event for one in events)


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ([b"p", b""], "'n'"),
        ([b"n", b"x"], "'p'"),
        ([], "'n' and 'p'"),
        (None, "'n' and 'p'"),
    ],
)
def test_poison_says_what_is_missing(fields: list[bytes] | None, missing: str) -> None:
    decoded = decode_entry("s", b"1-1", fields)
    assert isinstance(decoded, Poison)
    assert missing in decoded.why


def test_more_fields_and_names_that_are_not_utf_8_are_no_poison() -> None:
    decoded = decode_entry("s", b"1-1", [b"x", b"y", b"n", b"\xff", b"p", b"", b"n", b"\xfe"])
    assert isinstance(decoded, Event)
    assert decoded.name == "\udcfe"


def test_the_topic_is_left_out_when_there_is_none() -> None:
    assert encode_entry("a", b"b", None) == encode_entry("a", b"b", "") == [b"n", b"a", b"p", b"b"]
    assert encode_entry("a", b"b", "t") == [b"n", b"a", b"p", b"b", b"t", b"t"]


ids = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@given(pair=ids)
def test_the_id_before_is_the_greatest_below(pair: tuple[int, int]) -> None:
    ms, sequence = parse_id(id_before(f"{pair[0]}-{pair[1]}"))
    number = pair[0] * 2**64 + pair[1]
    assert ms * 2**64 + sequence == max(number - 1, 0)


@pytest.mark.parametrize(
    "text", ["", "-", "1-", "-1", "a", "1-a", "1-2-3", "+1", " 1", "\uff11-0", "1.5", f"{2**64}-0"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidOptionError):
        after_start(text)


def test_start_positions() -> None:
    moment = datetime(2024, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
    ms = 1_714_564_800_123
    assert after_start(OLDEST) == "0-0"
    assert after_start(NEWEST) is None
    assert after_start("5") == "5-0"
    assert after_start(moment) == f"{ms - 1}-{2**64 - 1}"
    assert after_start(moment.astimezone(timezone(timedelta(hours=5)))) == after_start(moment)
    assert after_start(datetime(1969, 1, 1, tzinfo=UTC)) == "0-0"
    assert created_at(f"{ms}-7") == moment.replace(microsecond=123_000)
    assert created_at(f"{2**63}-0").year == 9999


@pytest.mark.parametrize("start", [datetime(2024, 1, 1), 5, None, b"1-0"])  # noqa: DTZ001 - a naive one is the case
def test_starts_that_are_none_are_refused(start: object) -> None:
    with pytest.raises((InvalidOptionError, TypeError)):
        after_start(start)  # type: ignore[arg-type]  # what an untyped caller may pass


def test_the_topic_wins_over_the_pattern_and_both_need_the_matcher() -> None:
    select = make_filter("eu", "^us", lambda found: found.name == "n")
    assert select is not None
    assert select(event("eu"))
    assert not select(event("us"))
    assert not select(event("eu", name="other"))


@pytest.mark.parametrize(
    ("pattern", "topic", "found"),
    [
        ("eu", "a.eu.b", True),
        ("^eu$", "eu\n", False),
        (r"\d", "٣", False),
        ("[[:alpha:]]", "x", True),
        (r"\pL", "ж", True),
        ("^$", "", True),
        ("(a*)*b", "a" * 10_000, False),
    ],
)
def test_patterns_are_those_of_re2(pattern: str, topic: str, *, found: bool) -> None:
    select = make_filter(None, pattern, None)
    assert select is not None
    assert select(event(topic)) is found
    assert select(event(topic)) is found, "the remembered verdict is the same"


@pytest.mark.parametrize(
    ("pattern", "position"),
    [
        ("ab**", 2),
        ("x[z-a]", 2),
        ("é(?=a)", 1),
        (r"a(b)\1", 4),
        ("ab(c", 4),
        ("ж)", 2),
        ("ab\\", 3),
    ],
)
def test_a_bad_pattern_fails_with_the_place(pattern: str, position: int) -> None:
    with pytest.raises(InvalidPatternError) as caught:
        make_filter("the topic makes it idle", pattern, None)
    assert caught.value.position == position
    assert f"position {position}: " in str(caught.value)
    assert ": ;" not in str(caught.value), "it says what the fault is"


@pytest.mark.parametrize(
    "arguments", [(b"eu", None, None), (None, b"eu", None), (None, None, "eu")]
)
def test_filters_of_the_wrong_type_are_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        make_filter(*arguments)  # type: ignore[arg-type]  # what an untyped caller may pass


@given(deliveries=st.integers(-5, 10**6), grace=st.floats(0.01, 1000), base=st.floats(0, 100))
def test_an_event_that_failed_rests_for_a_grace_period_at_most(
    deliveries: int, grace: float, base: float
) -> None:
    delay = retry_delay(deliveries, grace, base)
    assert 0 <= delay <= grace
    assert delay <= retry_delay(deliveries + 1, grace, base)
    assert 0 <= idle_for_retry_ms(deliveries, grace, base) <= round(grace * 1000)


def test_each_of_the_times_that_are_due_has_its_look() -> None:
    dues = Dues()
    assert dues.next == math.inf
    for at in (3.0, 1.0, 2.0, 1.0):
        dues.add(at)
    looks: list[float] = []
    while dues.next < math.inf:
        looks.append(dues.next)
        dues.reach(looks[-1])
    assert looks == [pytest.approx(at, abs=0.01) for at in (1.0, 2.0, 3.0)]
    assert all(look > at for look, at in zip(looks, (1.0, 2.0, 3.0), strict=True))


@given(times=st.lists(st.floats(0, 1), max_size=300))
def test_however_many_times_are_due_there_are_two_hundred_looks_a_second_at_most(
    times: list[float],
) -> None:
    dues = Dues()
    for at in times:
        dues.add(at)
    looks = 0
    while dues.next < math.inf:
        assert dues.next <= 1.01
        dues.reach(dues.next)
        looks += 1
    assert looks <= 202
    assert bool(looks) is bool(times)


def test_who_shows_no_change_for_two_periods_is_dead_whatever_its_clock_says() -> None:
    liveness = Liveness(grace=1.0)
    liveness.observe(["a", "b", "c"], {"a": b"99999", "b": b"1"}, now=10.0)
    assert liveness.dead(11.9) == []
    liveness.observe(["a", "b", "c"], {"a": b"99999", "b": b"2"}, now=11.9)
    assert liveness.dead(12.0) == ["a", "c"]
    liveness.forgive(12.0)
    assert liveness.dead(13.0) == []
    liveness.observe(["b"], {"b": b"3"}, now=13.0)
    assert liveness.dead(99.0) == ["b"], "the others were forgotten"


def test_a_gap_is_counted_by_the_numbers_of_entries() -> None:
    cursor = Cursor(stream="s", last_id="5-0", number=5)
    edges = Edges(exists=True, first_id="9-0", last_id="12-0", added=12, length=4)
    assert cursor.gap(["9-0", "10-0"], edges) == Gap(
        stream="s", after="5-0", before="9-0", missed=3
    )


@pytest.mark.parametrize(
    ("number", "first", "length", "is_gap"),
    [
        (8, "9-0", 4, False),  # it was next
        (5, "7-0", 6, False),  # an older one is there still
        (5, "11-0", 2, True),  # trimmed on, beyond the batch, since it was read
        (None, "9-0", 4, True),  # begun at an id
    ],
)
def test_gaps_that_are_none_or_cannot_be_counted(
    number: int | None, first: str, length: int, *, is_gap: bool
) -> None:
    cursor = Cursor(stream="s", last_id="5-0", number=number)
    gap = cursor.gap(
        ["9-0", "10-0"],
        Edges(exists=True, first_id=first, last_id="12-0", added=12, length=length),
    )
    assert (gap is not None) is is_gap
    assert gap is None or gap.missed is None


def test_a_loop_sends_twenty_commands_a_second_at_most_into_an_error() -> None:
    pace = Pace()
    waits = [pace.failed() for _ in range(100)]
    assert min(waits) >= 0.05
    assert max(waits) <= 3.0
    pace.worked()
    assert pace.failed() < 0.1


@pytest.mark.parametrize("name", ["", "a b", "a*", "x" * 500, "\0"])
def test_names_that_no_stream_can_have(name: str) -> None:
    with pytest.raises(InvalidNameError):
        check_stream_name(name)


def test_names_at_the_limits() -> None:
    assert check_stream_name("x" * 499)
    assert check_sink_name("x" * 497)
    for name in ("x" * 498, "a=b", ""):
        with pytest.raises(InvalidNameError):
            check_sink_name(name)
    with pytest.raises(InvalidNameError):
        check_event_name("")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e12])
def test_durations_that_are_none(value: float) -> None:
    with pytest.raises(InvalidOptionError):
        check_seconds("block", value, zero=True)
    with pytest.raises(InvalidOptionError):
        whole_seconds("ttl", value)


def test_whole_seconds_and_counts() -> None:
    assert [whole_seconds("ttl", value) for value in (None, 0, 0.2, 1.9)] == [0, 0, 1, 1]
    for value in (0, -1, 1.5):
        with pytest.raises(InvalidOptionError):
            check_count("max_polled", value)  # type: ignore[arg-type]  # 1.5 is what an untyped caller may pass


def test_who_takes_returns_from_the_outbox_has_them_alone_and_puts_back_what_was_not_sent() -> None:
    outbox = Outbox()
    first, second, third, fourth = [event(name=str(number)) for number in range(4)]
    for each, idle_ms in ((first, 5), (second, 5), (third, 7)):
        outbox.hand_back(each, idle_ms)
    taken = outbox.take_returned("s", 9)
    assert taken == [(first, 5), (second, 5)]
    assert outbox.take_returned("s", 9) == [(third, 7)]
    assert outbox.take_returned("s", 9) == []
    assert outbox.streams() == set()
    outbox.hand_back(fourth, 5)
    outbox.put_back_returned("s", taken)
    assert outbox.take_returned("s", 2) == taken
    assert outbox.take_returned("s", 2) == [(fourth, 5)]
