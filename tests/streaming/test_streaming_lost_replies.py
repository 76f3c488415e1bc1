"""Replies that are lost after the server has run the command, and connections that break."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from terzetto.redis import LinkLostError, connect
from terzetto.server import EmbeddedServer
from terzetto.streaming import OLDEST, Event, Reader, Sink, Stream
from terzetto.streaming._lanes import Lane
from terzetto.streaming._scripts import BURY, HAND_BACK
from terzetto.testing import Fault, Proxy, open_proxy

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]
GRACE = 1.0


@pytest.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[Proxy]:
    async with open_proxy(server.url) as opened:
        yield opened


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[Stream]:
    """Return the stream as it is behind the proxy."""
    async with connect(proxy.url) as client:
        yield Stream("s", client)


async def take(taker: Sink | Reader, count: int) -> list[Event]:
    taken: list[Event] = []
    with trio.fail_after(30):
        while len(taken) < count:
            taken.append(await taker.__anext__())
    return taken


async def test_an_acknowledgement_whose_reply_is_lost_is_made_once(
    proxy: Proxy, far: Stream, stream: Stream
) -> None:
    async with far.open_sink("k", start=OLDEST) as sink:
        await stream.add_many([("a", b""), ("b", b"")])
        events = await take(sink, 2)
        proxy.on("XACK", Fault.DROP_REPLY)
        with trio.fail_after(20):
            await sink.ack(events[0])
        proxy.on("XACK", Fault.CUT)
        with trio.fail_after(20):
            assert await sink.ack(events[1]) == 1
        (group,) = (await stream.info()).groups
        assert group.pending == 0


@pytest.mark.parametrize("kind", ["matcher", "handler", "ordered handler"])
async def test_a_dead_letter_whose_reply_is_lost_is_written_once_and_ends_no_loop(
    proxy: Proxy, far: Stream, stream: Stream, eventually: Eventually, kind: str
) -> None:
    done: list[str] = []

    def refuse(event: Event) -> bool:
        if event.name == "bad":
            raise ValueError
        return True

    async def handler(event: Event) -> None:
        refuse(event)
        done.append(event.name)

    matcher = refuse if kind == "matcher" else None
    async with (
        far.open_sink("k", start=OLDEST, max_deliveries=1, matcher=matcher) as sink,
        trio.open_nursery() as nursery,
    ):
        await stream.add_many([(name, b"", "t") for name in ("a", "bad", "b")])
        await stream.redis.execute("SCRIPT", "LOAD", BURY.source)
        rule = proxy.on("EVALSHA", Fault.DROP_REPLY, where=lambda words: b"dead.id" in words)
        nursery.start_soon(lambda: sink.handle(handler, ordered=kind == "ordered handler"))
        await rule.wait_hit()
        await stream.add("c", b"", topic="t")
        await eventually(lambda: sorted(done) == ["a", "b", "c"])

        async def settled() -> bool:
            (group,) = (await stream.info()).groups
            return group.pending == 0

        await eventually(settled)
        nursery.cancel_scope.cancel()
    (letter,) = await stream.dead_letters.read()
    assert (letter.name, letter.deliveries) == ("bad", 1)


async def test_without_acknowledgements_a_dead_letter_whose_reply_is_lost_is_not_written_again(
    proxy: Proxy, far: Stream, stream: Stream, eventually: Eventually
) -> None:
    done: list[str] = []

    async def handler(event: Event) -> None:
        if event.name == "bad":
            raise ValueError
        done.append(event.name)

    async with (
        far.open_sink("k", start=OLDEST, max_deliveries=1, no_ack=True) as sink,
        trio.open_nursery() as nursery,
    ):
        await stream.add_many([(name, b"", "t") for name in ("bad", "a")])
        await stream.redis.execute("SCRIPT", "LOAD", BURY.source)
        proxy.on("EVALSHA", Fault.DROP_REPLY, where=lambda words: b"dead.id" in words)
        nursery.start_soon(lambda: sink.handle(handler, ordered=True))
        await eventually(lambda: done == ["a"])
        nursery.cancel_scope.cancel()
    assert await stream.dead_letters.count() == 1


async def test_an_add_whose_reply_is_lost_says_so(
    proxy: Proxy, far: Stream, stream: Stream
) -> None:
    proxy.on("XADD", Fault.DROP_REPLY)
    with trio.fail_after(20), pytest.raises(LinkLostError) as caught:
        await far.add("a", b"")
    assert caught.value.may_have_run
    assert await stream.length() == 1
    with trio.fail_after(20):
        await far.add("b", b"")
    assert await stream.length() == 2


async def test_what_a_lost_reply_delivered_comes_again(
    proxy: Proxy, far: Stream, stream: Stream
) -> None:
    async with far.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink:
        await stream.add_many([(f"{n}", b"") for n in range(20)])
        proxy.on("XREADGROUP", Fault.DROP_REPLY)
        events = await take(sink, 20)
        assert {event.name: event.deliveries for event in events} == {f"{n}": 2 for n in range(20)}
        assert await sink.ack(*events) == 20


async def test_a_reader_sees_each_event_once_though_replies_are_lost(
    proxy: Proxy, far: Stream, stream: Stream
) -> None:
    async with far.open_reader(start=OLDEST, max_polled=5, block=0.05) as reader:
        await stream.add_many([(f"{n}", b"") for n in range(50)])
        for skip in (0, 2, 5):
            proxy.on("XREAD", Fault.DROP_REPLY, skip=skip)
        assert [event.name for event in await take(reader, 50)] == [f"{n}" for n in range(50)]
        assert reader.gaps == ()


@pytest.mark.parametrize("skip", range(5))
async def test_opening_goes_on_where_a_reply_was_lost(
    proxy: Proxy, far: Stream, stream: Stream, skip: int
) -> None:
    for command in ("EVALSHA", "EVAL"):
        proxy.on(command, Fault.DROP_REPLY, skip=skip)
    await stream.add("a", b"")
    with trio.fail_after(30):
        async with (
            far.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink,
            far.open_reader(start=OLDEST) as reader,
        ):
            assert [event.name for event in await take(reader, 1)] == ["a"]
            (event,) = await take(sink, 1)
            await sink.ack(event)
            listed = await stream.redis.execute("HGET", "map:stream:s:sinks:content", "k")
            assert listed == f'["{sink.consumer}"]'.encode()


async def test_connections_that_break_again_and_again_lose_nothing(
    proxy: Proxy, far: Stream, stream: Stream, eventually: Eventually
) -> None:
    done: set[str] = set()

    async def collect(sink: Sink) -> None:
        async for event in sink:
            done.add(event.name)
            if int(event.name) % 2:
                sink.ack_nowait(event)
            else:
                await sink.ack(event)

    async with (
        far.open_sink("k", start=OLDEST, ack_grace_period=GRACE, buffer_size=20) as one,
        far.open_sink("k", start=OLDEST, ack_grace_period=GRACE, buffer_size=20) as other,
        far.open_reader(start=OLDEST) as reader,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(collect, one)
        nursery.start_soon(collect, other)
        for start in range(0, 300, 20):
            await stream.add_many([(f"{n}", b"") for n in range(start, start + 20)])
            proxy.cut()
            await trio.sleep(0.05)
        seen = [event.name for event in await take(reader, 300)]

        async def settled() -> bool:
            (group,) = (await stream.info()).groups
            return group.pending == 0 and group.lag == 0

        await eventually(settled)
        nursery.cancel_scope.cancel()
    assert seen == [f"{n}" for n in range(300)]
    assert done == set(seen)


async def test_events_that_are_handed_back_as_their_stream_goes_are_sent_by_one_lane(
    proxy: Proxy, far: Stream, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    async with far.open_sink("k", start=OLDEST) as sink:
        intake = sink._intake  # pyright: ignore[reportPrivateUsage] - for a lane of another slot
        await stream.add("a", b"")
        (event,) = await take(sink, 1)
        rule = proxy.on("EVALSHA", Fault.HOLD, where=lambda words: HAND_BACK.sha.encode() in words)
        sink.hand_back_nowait(event)
        with trio.fail_after(20):
            await rule.wait_hit()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sink.remove_stream, far)
                while sink.streams:
                    await trio.lowlevel.checkpoint()
                # It is no lane's now, so that any may send what waits for it.
                await intake.flush(Lane(-1, "other"))
                rule.release()
        assert not intake.outbox.streams()
    assert [record.message for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("again", [True, False])
async def test_a_stream_whose_leaving_was_cancelled_is_left_by_the_next_call_or_the_close(
    proxy: Proxy, far: Stream, stream: Stream, eventually: Eventually, *, again: bool
) -> None:
    async with far.open_sink("k", start=OLDEST, ack_grace_period=60) as sink:
        await stream.add("a", b"")
        await take(sink, 1)
        await stream.add("b", b"")

        async def has_both() -> bool:
            (group,) = (await stream.info()).groups
            return group.pending == 2

        await eventually(has_both)
        rule = proxy.on("EVALSHA", Fault.HOLD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.remove_stream, far)
            await rule.wait_hit()
            nursery.cancel_scope.cancel()
        rule.release()
        assert sink.streams == ()
        if again:
            with trio.fail_after(20):
                await sink.remove_stream(far)
            await sink.remove_stream(far)
            listed = "map:stream:s:sinks:content"
            assert not await stream.redis.execute("HEXISTS", listed, "k")
    async with stream.open_sink("k", ack_grace_period=60) as other:  # what was left comes at once
        assert {event.name for event in await take(other, 2)} == {"a", "b"}
