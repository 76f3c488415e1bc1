"""What went wrong in streams, here or in the originals, each under the name of what it was."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from terzetto.errors import ClosedError
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.streaming import OLDEST, Event, Reader, Sink, Stream, Subscription

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]
GRACE = 0.5


async def take(taker: Sink | Reader | Subscription, count: int) -> list[Event]:
    taken: list[Event] = []
    with trio.fail_after(30):
        while len(taken) < count:
            taken.append(await taker.__anext__())
    return taken


class OwnError(Exception):
    """What a handler of these tests raises."""


async def test_an_event_that_rests_makes_no_other_late(stream: Stream) -> None:
    # Claims look around every half second at the least, and when a rest is over.
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=20) as sink:
        for _ in range(20):  # a machine that stalls has another try; a look that is missing has not
            await stream.add_many([("a", b""), ("b", b"")])
            first, second = await take(sink, 2)
            sink.hand_back_nowait(first, delay=0.02)
            sink.hand_back_nowait(second, delay=0.04)
            began = trio.current_time()
            again = await take(sink, 2)
            assert [event.id for event in again] == [first.id, second.id]
            await sink.ack(*again)
            if trio.current_time() - began < 0.2:
                return
    pytest.fail("it came with the next look that was due anyway")


async def test_what_was_held_of_a_stream_that_is_gone_is_nobodys(stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST, max_deliveries=1) as sink:
        await stream.add_many([("a", b""), ("b", b"")])
        event, other = await take(sink, 2)
        await stream.destroy()
        assert await sink.ack(event) == 0
        assert not await sink.extend(event)
        await sink.reject(event, "no good")
        with pytest.raises(OwnError):
            async with sink.process(event):
                raise OwnError
        sink.hand_back_nowait(other)
        await stream.add("c", b"")
        (event,) = await take(sink, 1)
        assert (event.name, await sink.ack(event)) == ("c", 1)
        assert await stream.dead_letters.count() == 0


async def test_scripts_that_the_server_forgot_are_there_again(redis: Redis, stream: Stream) -> None:
    async def forget() -> None:
        await redis.execute("SCRIPT", "FLUSH")

    async with stream.open_sink("k", start=OLDEST) as sink:
        await stream.add_many([(f"{n}", b"") for n in range(3)])
        bad, slow, failed = await take(sink, 3)
        await forget()
        await sink.reject(bad, "no good")
        await forget()
        assert await sink.extend(slow)
        await forget()
        sink.hand_back_nowait(failed)
        (again,) = await take(sink, 1)  # by a hand-back and a claim
        assert (again.id, again.deliveries) == (failed.id, 2)
        await sink.ack(slow, again)
        (letter,) = await stream.dead_letters.read()
        await forget()
        (event_id,) = await stream.dead_letters.replay(letter)
        (replayed,) = await take(sink, 1)
        assert replayed.id == event_id
        await forget()
    await forget()
    async with stream.open_sink("k") as sink, stream.open_reader(start=OLDEST) as reader:
        (again,) = await take(sink, 1)
        assert again.id == event_id, "leaving handed it back"
        assert len(await take(reader, 4)) == 4


async def test_a_full_buffer_stalls_neither_the_keep_alive_nor_the_close(
    redis: Redis, stream: Stream, eventually: Eventually
) -> None:
    await stream.add_many([(f"{n}", b"") for n in range(10)])

    async def keep_alive() -> bytes | None:
        shown: bytes | None = await redis.execute(
            "HGET", "map:sink:k:keepalive:content", sink.consumer
        )
        return shown

    async with stream.open_sink("k", start=OLDEST, buffer_size=2, ack_grace_period=GRACE) as sink:
        await take(sink, 1)  # and nothing more is taken
        seen = {await keep_alive()}

        async def shown_again() -> bool:
            seen.add(await keep_alive())
            return len(seen) > 3

        await eventually(shown_again)
        began = trio.current_time()
    assert trio.current_time() - began < 5, "its `close_grace` was waited for"
    assert None not in seen


async def test_what_the_dead_wrote_of_themselves_does_not_pile_up(
    redis: Redis, stream: Stream, eventually: Eventually
) -> None:
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=0.05) as sink:
        for number in range(20):
            await redis.execute("XGROUP", "CREATECONSUMER", stream.key, "k", f"dead-{number}")
            await redis.execute("HSET", "map:sink:k:keepalive:content", f"dead-{number}", "1")
        listed = '["{}"]'.format('","'.join([sink.consumer, *(f"dead-{n}" for n in range(20))]))
        await redis.execute("HSET", "map:stream:s:sinks:content", "k", listed)

        async def only_the_living_are_left() -> bool:
            shown = await redis.execute("HKEYS", "map:sink:k:keepalive:content")
            members = await redis.execute("HGET", "map:stream:s:sinks:content", "k")
            consumers = await redis.execute("XINFO", "CONSUMERS", stream.key, "k")
            own = sink.consumer
            return (
                {bytes(name) for name in shown if not name.startswith(b"=")} == {own.encode()}
                and members == f'["{own}"]'.encode()
                and [consumer[b"name"] for consumer in consumers] == [own.encode()]
            )

        await eventually(only_the_living_are_left)


@pytest.mark.parametrize("kind", ["reader", "sink", "claims"])
async def test_a_backlog_of_big_events_does_not_end_the_link_for_ever(
    server: EmbeddedServer, redis: Redis, kind: str
) -> None:
    filled = Stream("s", redis, max_len=0)
    ids = [await filled.add("big", bytes(300_000)) for _ in range(40)]
    async with connect(server.url, max_reply_bytes=2_000_000) as narrow:
        stream = Stream("s", narrow, max_len=0)
        if kind == "reader":
            async with stream.open_reader(start=OLDEST) as reader:
                assert [event.id for event in await take(reader, 40)] == ids
        else:
            async with stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink:
                if kind == "claims":
                    await redis.execute(
                        "XREADGROUP", "GROUP", "k", "dead", "STREAMS", stream.key, ">"
                    )
                got: set[str] = set()
                while len(got) < 40:
                    for event in await sink.read():
                        await sink.ack(event)
                        got.add(event.id)
                assert got == set(ids)
        assert narrow.statistics().connections == 1, "the link that all share has held"


async def test_an_event_that_no_reply_can_hold_stops_readers_and_not_the_newer_events_of_sinks(
    server: EmbeddedServer, redis: Redis, eventually: Eventually
) -> None:
    filled = Stream("s", redis, max_len=0)
    await filled.add("old", b"")
    big = await filled.add("big", bytes(3_000_000))
    assert big is not None
    async with connect(server.url, max_reply_bytes=2_000_000) as narrow:
        stream = Stream("s", narrow, max_len=0)
        async with stream.open_reader(start=OLDEST, max_polled=1) as reader:
            await filled.add("new", b"")
            assert [event.name for event in await take(reader, 1)] == ["old"]
            with trio.move_on_after(0) as scope:
                await anext(reader)
            assert scope.cancelled_caught, "it does not go past what it cannot read"
            await redis.execute("XDEL", stream.key, big)
            assert [event.name for event in await take(reader, 1)] == ["new"]
        await redis.execute("DEL", stream.key)
        async with stream.open_sink("k", max_polled=1, ack_grace_period=GRACE) as sink:
            await filled.add("big", bytes(3_000_000))
            await filled.add("new", b"")
            (event,) = await take(sink, 1)
            assert event.name == "new"
            await sink.ack(event)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take, sink, 1)
                await eventually(lambda: narrow.statistics().connections > 1)  # a claim met it
                nursery.cancel_scope.cancel()
            (group,) = (await filled.info()).groups
            assert group.pending == 1, "it stays, for whoever can read it"


@pytest.mark.parametrize(
    ("count", "size", "most"),
    # One of each stream comes when half of the buffer is free, be that more than there is room for.
    [(5, 20, 20), (15, 20, 10 + 15), (5, 3, 1 + 5)],
)
async def test_many_streams_overfill_a_buffer_by_one_of_each_at_most(
    redis: Redis, eventually: Eventually, count: int, size: int, most: int
) -> None:
    first, *others = streams = [Stream(f"s{n}", redis) for n in range(count)]
    for stream in streams:
        await stream.add_many([("a", b"")] * 50)
    async with (
        first.open_reader(start=OLDEST, buffer_size=size) as reader,
        first.open_sink("k", start=OLDEST, buffer_size=size) as sink,
    ):
        for stream in others:
            await reader.add_stream(stream)
            await sink.add_stream(stream)
        engine: Any = sink._intake  # pyright: ignore[reportPrivateUsage] - its buffer
        with reader.subscribe() as idle:
            takers: tuple[Subscription | Sink, ...] = (idle, sink)

            def waiting() -> list[int]:
                return [idle.buffered, len(engine.buffer)]

            for taker in takers:
                await take(taker, 1)  # and no more, so that its buffer fills
            taken = [1, 1]
            for _ in range(3):
                await eventually(lambda: min(waiting()) > size // 2)
                await trio.sleep(0.1)  # that nothing more comes has no event: the span is the test
                assert max(waiting()) <= most
                for place, taker in enumerate(takers):
                    more = waiting()[place] - size // 2  # until half of the buffer is free
                    taken[place] += len(await take(taker, more))
            for place, taker in enumerate(takers):
                await take(taker, 50 * count - taken[place])


@pytest.mark.parametrize("kind", ["reader", "sink"])
async def test_a_stream_that_several_tasks_add_at_once_is_read_once_and_can_be_removed(
    redis: Redis, stream: Stream, kind: str
) -> None:
    other = Stream("other", redis)
    async with (
        stream.open_reader(start=OLDEST, block=0.05) as reader,
        stream.open_sink("k", start=OLDEST, block=0.05) as sink,
    ):
        taker: Reader | Sink = reader if kind == "reader" else sink
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(taker.add_stream, other)
        assert list(taker.streams) == ["s", "other"]
        await other.add("a", b"")
        assert [event.name for event in await take(taker, 1)] == ["a"]
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(taker.remove_stream, other)
        assert list(taker.streams) == ["s"]
        await stream.add("b", b"")
        assert [event.name for event in await take(taker, 1)] == ["b"]


@pytest.mark.parametrize("kind", ["reader", "sink"])
async def test_a_stream_is_what_the_last_of_those_made_of_it_who_add_and_remove_it_at_once(
    redis: Redis, stream: Stream, kind: str
) -> None:
    other = Stream("other", redis)
    listed = "map:stream:other:sinks:content"
    async with (
        stream.open_reader(start=OLDEST, block=0.05) as reader,
        stream.open_sink("k", start=OLDEST, block=0.05) as sink,
    ):
        taker: Reader | Sink = reader if kind == "reader" else sink

        for last in (True, False, True):
            calls = [taker.remove_stream, taker.add_stream]
            async with trio.open_nursery() as nursery:
                for call in (calls if last else calls[::-1]) * 2:
                    nursery.start_soon(call, other)
                    await trio.lowlevel.checkpoint()
            assert taker.streams == (("s", "other") if last else ("s",))
            if kind == "sink":
                assert await redis.execute("HEXISTS", listed, "k") == int(last)
        third = Stream("third", redis)
        async with trio.open_nursery() as nursery:  # also when they wait for another stream
            for call, changed in (
                (taker.add_stream, third),
                (taker.remove_stream, other),
                (taker.add_stream, other),
            ):
                nursery.start_soon(call, changed)
                await trio.lowlevel.checkpoint()
        assert taker.streams == ("s", "third", "other")
        await other.add("a", b"")
        assert [event.name for event in await take(taker, 1)] == ["a"]


async def test_a_reader_or_sink_that_is_closed_takes_no_more_streams(
    redis: Redis, stream: Stream
) -> None:
    async with stream.open_reader() as reader, stream.open_sink("k") as sink:
        pass
    other = Stream("other", redis)
    for closed in (reader, sink):
        with pytest.raises(ClosedError):
            await closed.add_stream(other)
        await closed.add_stream(stream)  # which it has: nothing to do
    assert not await redis.execute("EXISTS", other.key), "nor a group for it"


async def test_what_is_no_handler_is_refused_before_an_event_is_taken(stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST) as sink:
        await stream.add("a", b"")
        with pytest.raises(TypeError, match="a handler is an async function"):
            await sink.handle(None)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - what an untyped caller may pass
        (event,) = await take(sink, 1)
        assert event.deliveries == 1
