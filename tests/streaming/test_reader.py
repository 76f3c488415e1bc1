"""Readers: start positions, filters, several takers, several streams, and back-pressure."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing

from terzetto import rmap
from terzetto.actor import open_supervisor
from terzetto.errors import ClosedError, InvalidOptionError
from terzetto.redis import Redis
from terzetto.streaming import (
    NEWEST,
    OLDEST,
    Checkpoint,
    Event,
    Gap,
    Reader,
    Start,
    Stream,
    Subscription,
)

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]


async def take(taker: Reader | Subscription, count: int) -> list[Event]:
    """Take exactly `count` events."""
    taken: list[Event] = []
    with trio.fail_after(20):
        while len(taken) < count:
            taken.append(await taker.__anext__())
    return taken


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


async def test_newest_is_a_place_and_not_a_moment_of_each_poll(stream: Stream) -> None:
    await stream.add("before", b"")
    async with stream.open_reader() as reader:
        # Nobody takes yet, so nothing has been polled.
        await stream.add_many([("a", b""), ("b", b"")])
        assert names(await take(reader, 2)) == ["a", "b"]
        with trio.move_on_after(0.01):
            await reader.read()
        await stream.add("c", b"")
        assert names(await take(reader, 1)) == ["c"]


@pytest.mark.parametrize("start", [OLDEST, NEWEST])
async def test_nothing_is_read_before_somebody_takes(
    redis: Redis, stream: Stream, start: Start
) -> None:
    async with stream.open_reader(start=start) as reader:
        await stream.add("a", b"")
        await trio.sleep(0.5)  # that nothing is read has no event: the span is the test
        assert not await has_read(redis)
        assert names(await take(reader, 1)) == ["a"]
        assert await has_read(redis)


async def has_read(redis: Redis) -> bool:
    return b"cmdstat_xread:" in await redis.execute("INFO", "commandstats")


async def test_newest_of_a_stream_that_is_not_there_yet(stream: Stream) -> None:
    async with stream.open_reader() as reader:
        await stream.add("a", b"")
        assert names(await take(reader, 1)) == ["a"]


async def test_start_positions(redis: Redis, stream: Stream) -> None:
    for event_id in ("1000-0", "1000-1", "1001-0", "2000-0"):
        await redis.execute("XADD", stream.key, event_id, "n", event_id, "p", "")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    later = datetime.now(UTC) + timedelta(days=1)
    table: list[tuple[Start, list[str]]] = [
        (OLDEST, ["1000-0", "1000-1", "1001-0", "2000-0"]),
        ("1000-0", ["1000-1", "1001-0", "2000-0"]),
        ("1000", ["1000-1", "1001-0", "2000-0"]),
        (epoch + timedelta(seconds=1), ["1000-0", "1000-1", "1001-0", "2000-0"]),
        (epoch + timedelta(seconds=1, microseconds=999), ["1000-0", "1000-1", "1001-0", "2000-0"]),
        (epoch + timedelta(milliseconds=1001), ["1001-0", "2000-0"]),
        (epoch - timedelta(days=1), ["1000-0", "1000-1", "1001-0", "2000-0"]),
        (NEWEST, []),
        (later, []),
    ]
    last = "3000-0"
    await redis.execute("XADD", stream.key, last, "n", last, "p", "")
    for start, expected in table:
        async with stream.open_reader(start=start) as reader:
            if expected:
                assert names(await take(reader, len(expected) + 1)) == [*expected, last], start
            else:
                with trio.move_on_after(0.05):
                    pytest.fail(f"{start} gave {await reader.read()}")


async def test_filters(stream: Stream) -> None:
    await stream.add_many([("a", b"", "eu.west"), ("b", b"", "us"), ("c", b""), ("end", b"", "eu")])
    async with stream.open_reader(start=OLDEST, topic="us") as reader:
        assert names(await take(reader, 1)) == ["b"]
    async with stream.open_reader(start=OLDEST, topic_pattern=r"^eu\b") as reader:
        assert names(await take(reader, 2)) == ["a", "end"]
    async with stream.open_reader(start=OLDEST, matcher=lambda e: e.name in "bc") as reader:
        assert names(await take(reader, 2)) == ["b", "c"]
    async with stream.open_reader(start=OLDEST, topic="") as reader:
        assert names(await take(reader, 1)) == ["c"]


async def test_poison_and_what_makes_the_matcher_raise_are_skipped_and_counted(
    redis: Redis, stream: Stream
) -> None:
    def matcher(event: Event) -> bool:
        if event.name == "raise":
            raise ValueError(event.name)
        return True

    for fields in (["n", "x"], ["p", "x"], ["a", "b"], ["n", "raise", "p", ""]):
        await redis.execute("XADD", stream.key, "*", *fields)
    await redis.execute("XADD", stream.key, "*", "n", b"\xff", "p", "", "more", "fields")
    async with stream.open_reader(start=OLDEST, matcher=matcher) as reader:
        assert names(await take(reader, 1)) == ["\udcff"]
        assert reader.skipped == 4


async def test_takers_of_one_reader_are_independent(stream: Stream) -> None:
    async with stream.open_reader(start=OLDEST) as reader:
        with reader.subscribe() as one, reader.subscribe(buffer_size=1) as other:
            await stream.add_many([(f"{n}", b"") for n in range(3)])
            assert names(await take(one, 1)) == ["0"]
            assert names(await take(other, 3)) == ["0", "1", "2"]
            assert names(await take(one, 2)) == ["1", "2"]
        assert one.is_closed
        with pytest.raises(ClosedError):
            await one.read()
        with pytest.raises(InvalidOptionError), reader.subscribe(buffer_size=0):
            pass


async def test_tasks_that_take_from_one_taker_share_the_events(
    stream: Stream, eventually: Eventually
) -> None:
    await stream.add_many([(f"{n}", b"") for n in range(100)])
    taken: list[str] = []

    async def work(reader: Reader) -> None:
        async for event in reader:
            taken.append(event.name)
            await trio.lowlevel.checkpoint()

    async with (
        stream.open_reader(start=OLDEST, buffer_size=7) as reader,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(work, reader)
        await eventually(lambda: len(taken) == 100)
        nursery.cancel_scope.cancel()
    assert sorted(map(int, taken)) == list(range(100))


async def test_a_taker_that_does_not_take_stops_the_polling_and_nothing_else(
    redis: Redis, stream: Stream, eventually: Eventually
) -> None:
    await stream.add_many([(f"{n}", b"") for n in range(100)])
    async with stream.open_reader(start=OLDEST, buffer_size=10, max_polled=4) as reader:
        with reader.subscribe() as idle:
            await take(reader, 1)
            await eventually(lambda: idle.buffered >= 8)
            calls = await reads(redis)
            await trio.sleep(0.2)  # that nothing is read has no event: the span is the test
            assert idle.buffered <= 10
            assert await reads(redis) == calls
            with trio.fail_after(30):
                await reader.add_stream(Stream("other", redis))
        # The idle taker is gone, and the other goes on.
        assert names(await take(reader, 99)) == [f"{n}" for n in range(1, 100)]


async def reads(redis: Redis) -> int:
    stats = bytes(await redis.execute("INFO", "commandstats")).decode()
    for line in stats.splitlines():
        if line.startswith("cmdstat_xread:"):
            return int(line.split("calls=")[1].split(",")[0])
    return 0


async def test_streams_are_added_and_removed_while_reading(redis: Redis, stream: Stream) -> None:
    other = Stream("other", redis)
    await other.add("old", b"")
    async with stream.open_reader(block=0) as reader:
        async with trio.open_nursery() as nursery:
            got: list[Event] = []

            async def one() -> None:
                got.extend(await take(reader, 1))

            nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            # The poll waits for ever, and still the new stream is read at once.
            await reader.add_stream(other, start=OLDEST)
        assert names(got) == ["old"]
        await reader.add_stream(other, start=OLDEST)  # a second time changes nothing
        await other.add("new", b"")
        assert names(await take(reader, 1)) == ["new"]
        assert set(reader.streams) == {"s", "other"}
        await reader.remove_stream(other)
        await reader.remove_stream(other)
        await other.add("unseen", b"")
        await stream.add("seen", b"")
        assert names(await take(reader, 1)) == ["seen"]


async def test_a_reader_whose_streams_were_all_removed_waits_for_one(stream: Stream) -> None:
    async with stream.open_reader() as reader, trio.open_nursery() as nursery:
        await reader.remove_stream(stream)
        got: list[Event] = []

        async def one() -> None:
            got.extend(await take(reader, 1))

        nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()
        await reader.add_stream(stream, start=OLDEST)
        await stream.add("a", b"")
    assert names(got) == ["a"]


async def test_what_trimming_took_is_reported(redis: Redis, stream: Stream) -> None:
    gaps: list[int | None] = []
    async with stream.open_reader(
        buffer_size=4, on_gap=lambda gap: gaps.append(gap.missed)
    ) as reader:
        ids = await stream.add_many([(f"{n}", b"") for n in range(50)])
        first = await take(reader, 3)  # so a part is in the buffer, and the rest unread
        await redis.execute("XTRIM", stream.key, "MAXLEN", 10)
        events = first + await reader.read()
        seen = len(events)
        while events[-1].id != ids[-1]:
            events += await reader.read()
        assert len(events) == seen + 10 or len(events) == seen + 10 - len(first)
        assert reader.missed == 50 - len(events)
        assert gaps == [50 - len(events)]
        (gap,) = reader.gaps
        assert gap.after in ids
        assert gap.before == ids[40]
        assert reader.positions == {"s": ids[-1]}


async def test_a_reader_that_keeps_up_with_trimming_has_no_gaps(redis: Redis) -> None:
    stream = Stream("s", redis, max_len=100)
    async with stream.open_reader() as reader:
        for _ in range(10):
            await stream.add_many([("a", b"")] * 90)
            await take(reader, 90)
        assert reader.gaps == ()


async def test_a_stream_made_anew_is_read_from_its_start(redis: Redis, stream: Stream) -> None:
    async with stream.open_reader(block=0.05) as reader:
        future = "99999999999999-0"
        await redis.execute("XADD", stream.key, future, "n", "a", "p", "")
        assert names(await take(reader, 1)) == ["a"]
        await stream.destroy()
        await stream.add("b", b"")  # its id is below the cursor
        assert names(await take(reader, 1)) == ["b"]
        (gap,) = reader.gaps
        assert (gap.after, gap.missed) == (future, None)


@pytest.mark.parametrize("at_once", [1, 1000])
async def test_a_stream_that_lost_its_end_is_not_read_again(
    redis: Redis, stream: Stream, eventually: Eventually, at_once: int
) -> None:
    replica: bytes = b""
    # As when a replica takes over that had not heard of the last entries.
    for number in range(1, 6):
        await redis.execute("XADD", stream.key, f"{number}-0", "n", f"{number}", "p", "")
        if number == 3:
            replica = await redis.execute("DUMP", stream.key)
    async with stream.open_reader(start=OLDEST, block=0.05, max_polled=at_once) as reader:
        assert names(await take(reader, 5)) == ["1", "2", "3", "4", "5"]
        await redis.execute("RESTORE", stream.key, 0, replica, "REPLACE")
        await eventually(lambda: reader.positions[stream.name] == "3-0")
        await redis.execute("XADD", stream.key, "3-1", "n", "next", "p", "")
        assert names(await take(reader, 1)) == ["next"]
        assert reader.gaps == ()


async def test_a_checkpoint_is_where_the_next_reader_goes_on(
    redis: Redis, stream: Stream, eventually: Eventually
) -> None:
    await stream.add_many([(f"{n}", b"") for n in range(4)])
    async with rmap.join("checkpoints", redis) as places:
        checkpoint = Checkpoint(places, "projection")
        for expected in ("0", "1"):
            async with stream.open_reader(start=OLDEST, checkpoint=checkpoint) as reader:
                (event,) = await take(reader, 1)
                assert event.name == expected
                await reader.save(event)
                await take(reader, 1)  # taken, and not saved
            saved = event.id
            await eventually(lambda: places.get("projection/s") == saved)  # noqa: B023 - awaited here
    async with stream.open_reader(start=OLDEST) as reader:
        with pytest.raises(InvalidOptionError):
            await reader.save(event)


@pytest.mark.parametrize("start", [OLDEST, NEWEST])
async def test_a_stream_that_is_added_goes_on_at_its_place_in_the_checkpoint(
    redis: Redis, stream: Stream, eventually: Eventually, start: Start
) -> None:
    other = Stream("other", redis)
    async with rmap.join("checkpoints", redis) as places:
        checkpoint = Checkpoint(places, "projection")
        async with stream.open_reader(start=start, checkpoint=checkpoint) as reader:
            await reader.add_stream(other)
            await other.add_many([("a", b""), ("b", b"")])
            (event,) = await take(reader, 1)
            await reader.save(event)
        await eventually(lambda: places.get("projection/other") == event.id)
        await other.add("c", b"")
        async with stream.open_reader(start=start, checkpoint=checkpoint) as reader:
            await reader.add_stream(other)
            assert names(await take(reader, 2)) == ["b", "c"]
            await reader.remove_stream(other)
            await reader.add_stream(other, start=OLDEST)
            assert names(await take(reader, 3)) == ["a", "b", "c"]


async def test_a_closed_reader_ends_its_iterations(stream: Stream) -> None:
    async with stream.open_reader() as reader:
        await stream.add("a", b"")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, reader, 1)
    assert reader.is_closed
    assert [event async for event in reader] == []
    with pytest.raises(ClosedError):
        await reader.read()


async def test_a_reader_is_a_child_of_ones_own_tree(stream: Stream) -> None:
    async with open_supervisor() as top:
        reader = await top.spawn(stream.reader_child(start=OLDEST))
        await stream.add("a", b"")
        assert names(await take(reader, 1)) == ["a"]
    assert reader.is_closed


async def test_a_crash_restarts_the_reader_where_it_stopped(redis: Redis, stream: Stream) -> None:
    raised: list[Gap] = []

    def fail(gap: Gap) -> None:
        raised.append(gap)
        raise ValueError

    async with stream.open_reader(block=0.05, on_gap=fail) as reader:
        await redis.execute("XADD", stream.key, "99999999999999-0", "n", "a", "p", "")
        assert names(await take(reader, 1)) == ["a"]
        await stream.destroy()
        await stream.add_many([("b", b""), ("c", b"")])
        assert names(await take(reader, 2)) == ["b", "c"]
    assert len(raised) == 1


async def test_a_key_that_is_no_stream_is_an_error_at_once(redis: Redis, stream: Stream) -> None:
    await redis.execute("SET", stream.key, "text")
    with pytest.raises(Exception, match="WRONGTYPE"):
        async with stream.open_reader():
            pytest.fail("opened")
