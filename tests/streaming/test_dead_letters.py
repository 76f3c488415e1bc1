"""Poison, failing handlers, delivery limits and dead letters; handler loops."""

import math
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from terzetto.codec import json_codec
from terzetto.errors import InvalidOptionError, InvalidPayloadError
from terzetto.redis import Redis
from terzetto.streaming import OLDEST, DeadLetter, Event, ReplayError, Sink, Stream

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]
GRACE = 0.5


class OwnError(Exception):
    """What a handler of the application raises."""


async def take(sink: Sink, count: int) -> list[Event]:
    taken: list[Event] = []
    with trio.fail_after(20):
        while len(taken) < count:
            taken.append(await anext(sink))
    return taken


async def pending(stream: Stream) -> int:
    return sum(group.pending for group in (await stream.info()).groups)


def letters_are(stream: Stream, count: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await stream.dead_letters.count() == count

    return check


@pytest.mark.parametrize("no_ack", [False, True])
async def test_poison_is_dead_once_and_the_loop_lives_on(
    redis: Redis, stream: Stream, eventually: Eventually, *, no_ack: bool
) -> None:
    def matcher(event: Event) -> bool:
        if event.name == "raise":
            raise OwnError
        return True

    poison = [["n", "x", "t", "y"], ["p", "x"], ["a", "b"], ["n", "raise", "p", "z"]]
    ids = [str(await redis.execute("XADD", stream.key, "*", *fields), "ascii") for fields in poison]
    await stream.add("good", b"")
    async with stream.open_sink(
        "k", start=OLDEST, matcher=matcher, ack_grace_period=GRACE, no_ack=no_ack
    ) as sink:
        (event,) = await take(sink, 1)
        assert event.name == "good"
        await eventually(letters_are(stream, 4))
        await sink.ack(event)
        assert await pending(stream) == 0
        assert sink.buried == 4
    letters = await stream.dead_letters.read()
    assert sorted(letter.event_id for letter in letters) == ids
    first = next(letter for letter in letters if letter.event_id == ids[0])
    assert (first.name, first.payload, first.topic) == ("x", b"", "y")
    assert first.is_poison
    assert first.sink == "k"
    assert first.deliveries == 1
    assert "'p'" in first.why
    third = next(letter for letter in letters if letter.event_id == ids[2])
    assert third.fields == {b"a": b"b"}
    last = next(letter for letter in letters if letter.event_id == ids[3])
    assert not last.is_poison
    assert "OwnError" in last.why


async def test_an_event_that_is_never_acknowledged_ends_at_the_limit(
    stream: Stream, eventually: Eventually
) -> None:
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=0.2, max_deliveries=2) as sink:
        await stream.add("a", b"body", topic="t")
        events = await take(sink, 2)
        assert [event.deliveries for event in events] == [1, 2]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, sink, 1)  # claims are for takers
            await eventually(letters_are(stream, 1))
            nursery.cancel_scope.cancel()
    (letter,) = await stream.dead_letters.read()
    assert (letter.name, letter.payload, letter.topic) == ("a", b"body", "t")
    assert letter.deliveries == 2
    assert "not acknowledged" in letter.why
    assert letter.buried_at >= events[0].created_at


async def test_dead_letters_are_read_in_pages_replayed_and_discarded(
    redis: Redis, stream: Stream
) -> None:
    async with stream.open_sink("k", start=OLDEST) as sink:
        await stream.add_many([(f"{n}", b"%d" % n, "t") for n in range(5)])
        for event in await take(sink, 5):
            await sink.reject(event, "no good")
        first = await stream.dead_letters.read(limit=2)
        rest = await stream.dead_letters.read(after=first[-1].id)
        assert [letter.name for letter in (*first, *rest)] == ["0", "1", "2", "3", "4"]
        ids = await stream.dead_letters.replay(*first)
        assert await stream.dead_letters.replay(*first) == [], "they are gone"
        again = await take(sink, 2)
        assert [event.id for event in again] == ids
        assert [(event.name, event.payload, event.topic) for event in again] == [
            ("0", b"0", "t"),
            ("1", b"1", "t"),
        ]
        assert await stream.dead_letters.discard(*rest) == 3
        assert await stream.dead_letters.discard() == 0
        assert await stream.dead_letters.count() == 0
    with pytest.raises(InvalidOptionError):
        await stream.dead_letters.read(after="x")
    poison: DeadLetter
    await redis.execute("XADD", stream.dead_letters.key, "*", "n", "", "p", "", "dead.poison", "1")
    (poison,) = await stream.dead_letters.read()
    with pytest.raises(ReplayError):
        await stream.dead_letters.replay(poison)
    assert await stream.dead_letters.count() == 1


async def test_rejecting_what_another_has_by_now_does_nothing(redis: Redis, stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST) as sink:
        await stream.add("a", b"")
        (event,) = await take(sink, 1)
        await redis.execute("XCLAIM", stream.key, "k", "peer", 0, event.id)
        await sink.reject(event, "no good")
        assert await stream.dead_letters.count() == 0
        assert await pending(stream) == 1


async def test_processing_acknowledges_on_success(stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink:
        await stream.add("a", b"")
        (event,) = await take(sink, 1)
        again: list[Event] = []

        async def take_more() -> None:
            again.extend(await take(sink, 1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_more)
            async with sink.process(event):
                await trio.sleep(3 * GRACE)  # the claim is renewed meanwhile
                assert await pending(stream) == 1
            assert await pending(stream) == 0
            nursery.cancel_scope.cancel()
        assert again == []


async def test_processing_hands_back_on_failure_with_growing_rests(stream: Stream) -> None:
    async with stream.open_sink(
        "k", start=OLDEST, ack_grace_period=2, retry_base=0.2, max_deliveries=3
    ) as sink:
        await stream.add("a", b"")
        rests: list[float] = []
        for deliveries in (1, 2, 3):
            start = trio.current_time()
            (event,) = await take(sink, 1)
            rests.append(trio.current_time() - start)
            assert event.deliveries == deliveries
            with pytest.raises(OwnError):
                async with sink.process(event):
                    raise OwnError("bad")
        assert rests[1] > 0.15
        assert rests[2] > 0.35
        (letter,) = await stream.dead_letters.read()
        assert letter.deliveries == 3
        assert "OwnError: bad" in letter.why
        assert await pending(stream) == 0


async def test_processing_that_is_cancelled_hands_back_at_once(stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=1000) as sink:
        await stream.add("a", b"")
        (event,) = await take(sink, 1)
        with trio.move_on_after(0.01):
            async with sink.process(event):
                await trio.sleep_forever()
        (again,) = await take(sink, 1)
        assert again.id == event.id


async def test_handing_back_by_hand(stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=100) as sink:
        await stream.add("a", b"")
        for delay in (0.0, 0.2):
            (event,) = await take(sink, 1)
            for wrong in (-1, math.nan, math.inf, "1"):
                with pytest.raises(InvalidOptionError, match="delay is"):
                    sink.hand_back_nowait(event, delay=wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - what an untyped caller may pass
            sink.hand_back_nowait(event, delay=delay)
        start = trio.current_time()
        (event,) = await take(sink, 1)
        assert trio.current_time() - start > 0.15
        assert event.deliveries == 3


async def test_a_handler_loop_outlives_handlers_that_raise(
    stream: Stream, eventually: Eventually
) -> None:
    running = most = 0
    done: list[str] = []

    async def handler(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.001)
        running -= 1
        if event.name == "bad":
            raise OwnError
        done.append(event.name)

    async with stream.open_sink(
        "k", start=OLDEST, ack_grace_period=GRACE, max_deliveries=2, retry_base=0.01
    ) as sink:
        await stream.add_many([("bad" if n % 10 == 0 else f"{n}", b"") for n in range(100)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: sink.handle(handler, concurrency=4))
            await eventually(lambda: len(done) == 90)
            await eventually(letters_are(stream, 10))
            nursery.cancel_scope.cancel()
    assert most == 4
    assert await pending(stream) == 0
    with pytest.raises(InvalidOptionError):
        await sink.handle(handler, concurrency=0)


async def test_an_ordered_loop_keeps_each_topic_in_order_and_others_go_on(
    stream: Stream, eventually: Eventually
) -> None:
    done: dict[str, list[int]] = {}
    failures = 0
    gate = trio.Event()

    async def handler(event: Event) -> None:
        nonlocal failures
        if event.topic == "slow":
            await gate.wait()
        await trio.lowlevel.checkpoint()
        number = int(event.name)
        if event.topic == "fails" and number == 3 and failures < 2:
            failures += 1
            raise OwnError
        done.setdefault(event.topic, []).append(number)

    topics = ["slow", "fails", "a", "b"]
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=5, retry_base=0.01) as sink:
        await stream.add_many([(f"{n // 4}", b"", topics[n % 4]) for n in range(40)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: sink.handle(handler, concurrency=3, ordered=True))
            # As many as may be held at a time come by before the slow topic is done.
            await eventually(lambda: len(done.get("fails", [])) > 3)
            assert "slow" not in done
            gate.set()
            await eventually(lambda: sum(map(len, done.values())) == 40)

            async def settled() -> bool:
                return await pending(stream) == 0

            await eventually(settled)
            nursery.cancel_scope.cancel()
    assert done == {topic: list(range(10)) for topic in topics}


async def test_a_poisoned_topic_ends_at_the_limit_and_goes_on(
    stream: Stream, eventually: Eventually
) -> None:
    done: list[str] = []

    async def handler(event: Event) -> None:
        if event.name == "bad":
            raise OwnError
        done.append(event.name)

    async with (
        stream.open_sink("k", start=OLDEST, max_deliveries=3, retry_base=0.01) as sink,
        trio.open_nursery() as nursery,
    ):
        await stream.add_many([("a", b"", "t"), ("bad", b"", "t"), ("b", b"", "t")])
        nursery.start_soon(lambda: sink.handle(handler, ordered=True))
        await eventually(lambda: done == ["a", "b"])
        await eventually(letters_are(stream, 1))
        nursery.cancel_scope.cancel()
    (letter,) = await stream.dead_letters.read()
    assert letter.deliveries == 3


@pytest.mark.parametrize("ordered", [False, True])
async def test_closing_lets_handlers_finish_and_hands_the_rest_back(
    stream: Stream, eventually: Eventually, *, ordered: bool
) -> None:
    started: list[str] = []
    finished: list[str] = []
    gate = trio.Event()

    async def handler(event: Event) -> None:
        started.append(event.name)
        await gate.wait()
        finished.append(event.name)

    await stream.add_many([(f"{n}", b"", f"{n}") for n in range(20)])
    async with (
        trio.open_nursery() as nursery,
        stream.open_sink("k", start=OLDEST, ack_grace_period=1000) as sink,
    ):
        nursery.start_soon(lambda: sink.handle(handler, concurrency=3, ordered=ordered))
        await eventually(lambda: len(started) == 3)
        nursery.start_soon(open_gate_when_closing, sink, gate)
    assert sorted(finished) == sorted(started)
    assert len(finished) == 3
    assert await pending(stream) <= 17
    async with stream.open_sink("k", ack_grace_period=1000) as sink:
        names = {event.name for event in await take(sink, 17)}
    assert names == {f"{n}" for n in range(20)} - set(finished)


async def open_gate_when_closing(sink: Sink, gate: trio.Event) -> None:
    while not sink.is_closed:  # noqa: ASYNC110 - the state has no event for outsiders
        await trio.sleep(0.01)
    gate.set()


@pytest.mark.parametrize("ordered", [False, True])
async def test_cancelling_a_handler_loop_hands_back_what_it_held(
    stream: Stream, eventually: Eventually, *, ordered: bool
) -> None:
    started: list[str] = []

    async def handler(event: Event) -> None:
        started.append(event.name)
        await trio.sleep_forever()

    async with stream.open_sink("k", start=OLDEST, ack_grace_period=1000) as sink:
        await stream.add_many([(f"{n}", b"", "t") for n in range(10)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: sink.handle(handler, concurrency=2, ordered=ordered))
            await eventually(lambda: len(started) == (1 if ordered else 2))
            nursery.cancel_scope.cancel()
        assert {event.name for event in await take(sink, 10)} == {f"{n}" for n in range(10)}


@attrs.frozen
class Order:
    item: str
    count: int


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_codec_makes_values_and_what_it_cannot_read_is_dead_at_once(
    stream: Stream, eventually: Eventually, *, ordered: bool
) -> None:
    orders = stream.typed(json_codec(Order))
    done: list[tuple[str, Order]] = []

    async def handler(event: Event, order: Order) -> None:
        done.append((event.name, order))

    await orders.add("a", Order("book", 1), topic="t")
    await stream.add("bad", b'{"item": 5}', topic="t")
    await orders.add_many([("b", Order("pen", 2), "t")])
    async with (
        stream.open_sink("k", start=OLDEST) as sink,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(lambda: sink.handle(orders.handler(handler), ordered=ordered))
        await eventually(lambda: len(done) == 2)
        await eventually(letters_are(stream, 1))
        nursery.cancel_scope.cancel()
    assert dict(done) == {"a": Order("book", 1), "b": Order("pen", 2)}
    (letter,) = await stream.dead_letters.read()
    assert (letter.name, letter.deliveries) == ("bad", 1)
    assert "UnreadablePayloadError" in letter.why
    with pytest.raises(InvalidPayloadError):
        await orders.add("c", object())  # type: ignore[arg-type]  # what an untyped caller may pass
