"""Sinks: sharing, acknowledging, claims, handing back, and the membership that peers see."""

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from terzetto.actor import open_supervisor
from terzetto.errors import ClosedError
from terzetto.redis import Redis
from terzetto.streaming import OLDEST, Event, GroupInfo, Sink, Stream

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]
GRACE = 0.5


async def take(sink: Sink, count: int) -> list[Event]:
    """Take exactly `count` events."""
    taken: list[Event] = []
    with trio.fail_after(20):
        while len(taken) < count:
            taken.append(await anext(sink))
    return taken


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


async def group(stream: Stream, sink: str = "k") -> GroupInfo:
    return next(found for found in (await stream.info()).groups if found.name == sink)


async def pending(stream: Stream, sink: str = "k") -> int:
    return (await group(stream, sink)).pending


async def consumers(redis: Redis, stream: Stream, sink: str = "k") -> set[str]:
    found = await redis.execute("XINFO", "CONSUMERS", stream.key, sink)
    return {str(consumer[b"name"], "ascii") for consumer in found}


async def deliver_to_the_dead(redis: Redis, stream: Stream, consumer: str, count: int) -> None:
    """Deliver events to an instance of the sink that died, as far as anyone can see."""
    await redis.execute(
        "XREADGROUP", "GROUP", "k", consumer, "COUNT", count, "STREAMS", stream.key, ">"
    )


async def test_instances_share_the_events_and_acknowledge_them(stream: Stream) -> None:
    await stream.add_many([(f"{n}", b"") for n in range(200)])
    seen: list[str] = []
    mine: dict[str, int] = {}

    async def work(sink: Sink) -> None:
        async for event in sink:
            mine[sink.consumer] = mine.get(sink.consumer, 0) + 1
            assert (event.sink, event.stream, event.deliveries) == ("k", "s", 1)
            assert await sink.ack(event) == 1
            assert await sink.ack(event) == 0
            seen.append(event.name)
            if len(seen) == 200:
                nursery.cancel_scope.cancel()

    async with (
        stream.open_sink("k", start=OLDEST, buffer_size=10) as one,
        stream.open_sink("k", start=OLDEST, buffer_size=10) as other,
    ):
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, one)
                nursery.start_soon(work, other)
    assert sorted(map(int, seen)) == list(range(200))
    assert len(mine) == 2
    assert await pending(stream) == 0


async def test_each_sink_gets_every_event(stream: Stream) -> None:
    async with (
        stream.open_sink("one", start=OLDEST) as one,
        stream.open_sink("other", start=OLDEST) as other,
    ):
        await stream.add("a", b"")
        assert names(await take(one, 1)) == names(await take(other, 1)) == ["a"]


async def test_a_group_keeps_its_place_when_all_instances_are_gone(stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST) as sink:
        await stream.add("a", b"")
        await sink.ack(*await take(sink, 1))
    await stream.add("b", b"")
    async with stream.open_sink("k") as sink:  # the newest is the first creator's choice only
        assert names(await take(sink, 1)) == ["b"]


async def test_nothing_is_read_before_somebody_takes(stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink:
        await stream.add("a", b"")
        await trio.sleep(GRACE)  # that nothing is read has no event: the span is the test
        assert await pending(stream) == 0
        assert names(await take(sink, 1)) == ["a"]


async def test_what_is_not_acknowledged_comes_again(stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink:
        await stream.add("a", b"")
        (event,) = await take(sink, 1)
        for deliveries in (2, 3):
            (again,) = await take(sink, 1)
            assert (again.id, again.deliveries) == (event.id, deliveries)
        assert await sink.ack(event) == 1


async def test_what_the_dead_had_is_claimed_though_another_holds_the_lease(
    redis: Redis, stream: Stream
) -> None:
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink:
        await stream.add_many([(f"{n}", b"") for n in range(250)])
        await deliver_to_the_dead(redis, stream, "dead", 250)
        await redis.execute("SET", "sink:k:stalelease", "99999999999999")
        await redis.execute("SCRIPT", "FLUSH")
        events = await take(sink, 250)
        assert sorted(map(int, names(events))) == list(range(250))
        assert {event.deliveries for event in events} == {2}
        assert await sink.ack(*events) == 250


async def test_claims_leave_alone_what_others_hold_within_the_grace_period(
    redis: Redis, stream: Stream
) -> None:
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink:
        await stream.add_many([("held", b""), ("free", b"")])
        await deliver_to_the_dead(redis, stream, "peer", 2)
        first, second = await stream.info(), await redis.execute("XRANGE", stream.key, "-", "+")
        held, free = (entry[0] for entry in second)
        assert first.length == 2
        got: list[Event] = []

        async def collect() -> None:
            got.extend(await take(sink, 1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            with trio.fail_after(20):
                while not got:
                    # The peer renews its claim on one of the two.
                    await redis.execute("XCLAIM", stream.key, "k", "peer", 0, held, "JUSTID")
                    await trio.sleep(GRACE / 10)
        assert [event.id for event in got] == [str(free, "ascii")]


async def test_leaving_hands_back_at_once_and_keeps_the_keep_alive(
    redis: Redis, stream: Stream
) -> None:
    await stream.add_many([(f"{n}", b"") for n in range(10)])
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=1000) as sink:
        taken = await take(sink, 2)
        await sink.ack(taken[0])
        left = sink.consumer
    keepalives = await redis.execute("HGETALL", "map:sink:k:keepalive:content")
    assert left.encode() in keepalives, "or a Go peer would delete the consumer and what it has"
    async with stream.open_sink("k", ack_grace_period=1000) as sink:
        with trio.fail_after(30):
            events = {event.name: event.deliveries for event in await take(sink, 9)}
    # One was taken and not acknowledged; the others only waited in a buffer.
    assert events == {"1": 2, **{f"{n}": 1 for n in range(2, 10)}}


async def test_leaving_with_nothing_pending_leaves_nothing_behind(
    redis: Redis, stream: Stream
) -> None:
    for _ in range(20):
        async with stream.open_sink("k", start=OLDEST) as sink:
            await stream.add("a", b"")
            await sink.ack(*await take(sink, 1))
    assert await consumers(redis, stream) == set()
    assert await redis.execute("HKEYS", "map:sink:k:keepalive:content") == [b"=rev", b"=kind"]
    assert b"k" not in await redis.execute("HKEYS", "map:stream:s:sinks:content")
    assert await redis.execute("DBSIZE") == 3


async def test_members_are_what_go_peers_expect(
    redis: Redis, stream: Stream, eventually: Eventually
) -> None:
    async with stream.open_sink("k", ack_grace_period=GRACE) as sink:
        assert await consumers(redis, stream) == {sink.consumer}
        listed = await redis.execute("HGET", "map:stream:s:sinks:content", "k")
        assert listed == f'["{sink.consumer}"]'.encode()
        first = await redis.execute("HGET", "map:sink:k:keepalive:content", sink.consumer)

        async def renewed() -> bool:
            value = await redis.execute("HGET", "map:sink:k:keepalive:content", sink.consumer)
            return value not in (first, None)

        await eventually(renewed)  # though nobody takes anything


async def test_a_dead_consumer_is_deleted_only_when_nothing_is_pending(
    redis: Redis, stream: Stream, eventually: Eventually
) -> None:
    async def gone(name: str) -> bool:
        return name not in await consumers(redis, stream)

    async with stream.open_sink("k", start=OLDEST, ack_grace_period=0.2) as sink:
        await stream.add("a", b"")
        await deliver_to_the_dead(redis, stream, "dead", 1)
        await redis.execute("XGROUP", "CREATECONSUMER", stream.key, "k", "idle")
        # One wrote its time with a clock that is ahead by years: silent is silent.
        await redis.execute("HSET", "map:sink:k:keepalive:content", "idle", "9" * 19)
        await eventually(lambda: gone("idle"))
        assert await consumers(redis, stream) >= {"dead"}, "nobody has taken what it had"

        (event,) = await take(sink, 1)
        assert event.name == "a"
        await sink.ack(event)
        await eventually(lambda: gone("dead"))


async def test_events_that_the_filter_leaves_out_are_acknowledged(
    stream: Stream, eventually: Eventually
) -> None:
    async with stream.open_sink("k", start=OLDEST, topic="eu") as sink:
        await stream.add_many([("a", b"", "us"), ("b", b"", "eu"), ("c", b"")])
        (event,) = await take(sink, 1)
        assert event.name == "b"

        async def only_one() -> bool:
            return await pending(stream) == 1

        await eventually(only_one)


async def test_ack_nowait_rides_along_or_follows_soon(
    redis: Redis, stream: Stream, eventually: Eventually
) -> None:
    await stream.add_many([(f"{n}", b"") for n in range(100)])
    async with stream.open_sink("k", start=OLDEST, buffer_size=10) as sink:
        for event in await take(sink, 100):
            sink.ack_nowait(event)

        async def nothing() -> bool:
            return await pending(stream) == 0

        await eventually(nothing)
    stats = bytes(await redis.execute("INFO", "commandstats")).decode()
    (acks,) = (line for line in stats.splitlines() if line.startswith("cmdstat_xack:"))
    assert int(acks.split("calls=")[1].split(",")[0]) < 50


async def test_no_ack_takes_events_as_acknowledged(stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST, no_ack=True) as sink:
        await stream.add_many([("a", b""), ("b", b"")])
        assert names(await take(sink, 2)) == ["a", "b"]
        assert await pending(stream) == 0


async def test_extending_keeps_an_event_for_longer(stream: Stream) -> None:
    async with (
        stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as one,
        stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as other,
    ):
        await stream.add("a", b"")
        (event,) = await take(one, 1)
        with trio.move_on_after(3 * GRACE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take, other, 1)
                while True:
                    assert await one.extend(event)
                    await trio.sleep(GRACE / 5)
        (again,) = await take(other, 1)
        assert again.id == event.id
        assert not await one.extend(event)


async def test_a_stalled_taker_gives_its_buffer_to_another_instance(stream: Stream) -> None:
    async with (
        stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as stalled,
        stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as busy,
    ):
        await stream.add_many([(f"{n}", b"") for n in range(10)])
        (first,) = await take(stalled, 1)
        events = await take(busy, 9)
        assert {event.deliveries for event in events if event.id != first.id} == {1}


async def test_streams_are_added_and_removed_while_reading(redis: Redis, stream: Stream) -> None:
    other = Stream("other", redis)
    async with stream.open_sink("k", start=OLDEST, block=0) as sink:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, sink, 1)
            await sink.add_stream(other)
            await sink.add_stream(other)
            await other.add("a", b"")
        assert await consumers(redis, other) == {sink.consumer}
        assert await redis.execute("HEXISTS", "map:stream:other:sinks:content", "k")
        await sink.remove_stream(other)
        await sink.remove_stream(other)
        assert (await other.info()).groups[0].pending == 1, "an event is pending, so it stays"
        assert not await redis.execute("HEXISTS", "map:stream:other:sinks:content", "k")
        await sink.add_stream(other)
        (event,) = await take(sink, 1)
        await sink.ack(event)
        await sink.remove_stream(other)
        assert (await other.info()).groups == ()


async def test_a_stream_that_was_removed_does_not_come_back_with_a_restart(
    redis: Redis, stream: Stream, eventually: Eventually
) -> None:
    logged: list[str] = []

    def crash(record: logging.LogRecord) -> bool:
        logged.append(record.getMessage())
        if len(logged) == 1:
            raise RuntimeError("the logger is broken")
        return True

    logger = logging.getLogger("terzetto.streaming")
    other = Stream("other", redis)
    async with stream.open_sink("k", start=OLDEST) as sink, trio.open_nursery() as nursery:
        await sink.add_stream(other)
        await sink.remove_stream(stream)
        logger.addFilter(crash)
        try:
            nursery.start_soon(take, sink, 1)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await redis.execute("XGROUP", "DESTROY", other.key, "k")  # which is logged
            await eventually(lambda: len(logged) > 1)  # and once more after the restart
        finally:
            logger.removeFilter(crash)
        assert sink.streams == ("other",)
        assert (await stream.info()).groups == ()
        await other.add("a", b"")


async def test_a_closed_sink_ends_its_iterations(stream: Stream) -> None:
    async with stream.open_sink("k") as sink:
        pass
    assert sink.is_closed
    assert [event async for event in sink] == []
    with pytest.raises(ClosedError):
        await sink.read()


async def test_a_sink_is_a_child_of_ones_own_tree(stream: Stream) -> None:
    async with open_supervisor() as top:
        sink = await top.spawn(stream.sink_child("k", start=OLDEST))
        await stream.add("a", b"")
        assert names(await take(sink, 1)) == ["a"]
    assert sink.is_closed


async def test_who_takes_an_event_goes_on_a_turn_after_its_bytes_were_read(
    redis: Redis, stream: Stream
) -> None:
    """The reading loop, which is woken by the same bytes, does not have to go first."""
    steps: list[str] = []

    class Watch(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            steps.append(task.name)

        def after_io_wait(self, timeout: float) -> None:
            del timeout
            steps.append("turn")

    turns: list[int] = []
    all_taken = trio.Event()
    adder = Stream(stream.name, redis)
    async with stream.open_sink("k", start=OLDEST) as sink, trio.open_nursery() as nursery:

        async def take_all() -> None:
            async for event in sink:
                back = steps[::-1]
                read = next(n for n, name in enumerate(back) if "link" in name and "sink" in name)
                turns.append(back[:read].count("turn"))
                await sink.ack(event)
                if len(turns) == 20:
                    all_taken.set()

        nursery.start_soon(take_all)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(watch := Watch())
        for number in range(20):
            await adder.add(f"{number}", b"")
            await trio.testing.wait_all_tasks_blocked(0.01)  # the loop reads again
        with trio.fail_after(20):
            await all_taken.wait()
        trio.lowlevel.remove_instrument(watch)
        nursery.cancel_scope.cancel()
    assert turns == [1] * 20
