"""What goes wrong around readers and sinks: groups and servers that go, and outages."""

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing

from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.streaming import OLDEST, Event, Reader, Sink, Stream

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]
GRACE = 0.5


async def take(taker: Sink | Reader, count: int) -> list[Event]:
    taken: list[Event] = []
    with trio.fail_after(30):
        while len(taken) < count:
            taken.append(await taker.__anext__())
    return taken


async def calls(redis: Redis, command: str) -> int:
    stats = bytes(await redis.execute("INFO", "commandstats")).decode()
    for line in stats.splitlines():
        if line.startswith(f"cmdstat_{command}:"):
            return int(line.split("calls=")[1].split(",")[0])
    return 0


async def test_a_group_that_went_with_its_stream_begins_anew(redis: Redis, stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST) as sink:
        await stream.add("a", b"")
        await sink.ack(*await take(sink, 1))
        for name in ("b", "c"):
            await stream.destroy()
            await stream.add(name, b"")
            (event,) = await take(sink, 1)
            assert event.name == name
            assert await sink.ack(event) == 1
        await redis.execute("FLUSHALL")
        await redis.execute("SCRIPT", "FLUSH")
        await stream.add("d", b"")
        (event,) = await take(sink, 1)
        assert event.name == "d"
        listed = await redis.execute("HGET", "map:stream:s:sinks:content", "k")
        assert listed == f'["{sink.consumer}"]'.encode()


async def test_a_group_that_was_destroyed_goes_on_after_the_last_id_known(
    redis: Redis, stream: Stream
) -> None:
    async with stream.open_sink("k", start=OLDEST) as sink:
        await stream.add("a", b"")
        await sink.ack(*await take(sink, 1))
        await redis.execute("XGROUP", "DESTROY", stream.key, "k")
        await stream.add("b", b"")
        (event,) = await take(sink, 1)
        assert event.name == "b"


async def test_a_group_that_cannot_be_made_is_no_hot_loop(redis: Redis, stream: Stream) -> None:
    async with stream.open_sink("k", start=OLDEST) as sink, trio.open_nursery() as nursery:
        nursery.start_soon(take, sink, 1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await redis.execute("DEL", stream.key)
        await redis.execute("SET", stream.key, "no stream")
        before = await calls(redis, "xreadgroup")
        await trio.sleep(1)  # a rate is what is promised: the span is the test
        assert await calls(redis, "xreadgroup") - before <= 20
        await redis.execute("DEL", stream.key)
        await stream.add("a", b"")


async def test_an_outage_longer_than_the_grace_period_loses_nothing(
    server: EmbeddedServer, redis: Redis, stream: Stream
) -> None:
    async with (
        stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink,
        stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as peer,
        stream.open_reader(start=OLDEST) as reader,
    ):
        await stream.add_many([(f"{n}", b"") for n in range(10)])
        first = await take(sink, 1)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await trio.sleep(3 * GRACE)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        got = {event.name for event in first}
        assert await sink.ack(*first) == 1
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:

                async def collect(taker: Sink) -> None:
                    async for event in taker:
                        got.add(event.name)
                        await taker.ack(event)
                        if len(got) == 10:
                            nursery.cancel_scope.cancel()

                nursery.start_soon(collect, sink)
                nursery.start_soon(collect, peer)
        assert [event.name for event in await take(reader, 10)] == [f"{n}" for n in range(10)]
        # A peer may have taken it for dead: then it goes on under a new name.
        listed = await redis.execute("HGET", "map:stream:s:sinks:content", "k")
        assert sink.consumer.encode() in listed


async def test_a_sinks_block_can_be_left_during_an_outage(
    server: EmbeddedServer, redis: Redis, stream: Stream
) -> None:
    with trio.fail_after(20):
        async with stream.open_sink("k", start=OLDEST, close_grace=0.1) as sink:
            await stream.add("a", b"")
            await take(sink, 1)
            os.kill(server.pid, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGCONT)
    assert sink.is_closed
    assert await redis.execute("PING")


async def test_the_end_of_the_link_ends_the_iterations(server: EmbeddedServer) -> None:
    async with trio.open_nursery() as nursery:
        left = trio.Event()
        ended: list[str] = []

        async def use() -> None:
            async with connect(server.url) as redis:
                stream = Stream("s", redis)
                async with stream.open_reader() as reader, stream.open_sink("k") as sink:
                    nursery.start_soon(iterate, reader, "reader")
                    nursery.start_soon(iterate, sink, "sink")
                    await trio.testing.wait_all_tasks_blocked(0.05)
            left.set()

        async def iterate(taker: Reader | Sink, name: str) -> None:
            async for _ in taker:
                pytest.fail("an event out of nothing")
            ended.append(name)

        with trio.fail_after(20):
            nursery.start_soon(use)
            await left.wait()
    assert sorted(ended) == ["reader", "sink"]


CALLS: dict[str, Callable[[Stream, Reader, Sink, Event], Awaitable[object]]] = {
    "add": lambda stream, _r, _s, _e: stream.add("a", b""),
    "add_many": lambda stream, _r, _s, _e: stream.add_many([("a", b"")]),
    "remove": lambda stream, _r, _s, _e: stream.remove("1-0"),
    "destroy": lambda stream, _r, _s, _e: stream.destroy(),
    "length": lambda stream, _r, _s, _e: stream.length(),
    "info": lambda stream, _r, _s, _e: stream.info(),
    "letters": lambda stream, _r, _s, _e: stream.dead_letters.read(),
    "count": lambda stream, _r, _s, _e: stream.dead_letters.count(),
    "open_reader": lambda stream, _r, _s, _e: enter(stream.open_reader()),
    "open_sink": lambda stream, _r, _s, _e: enter(stream.open_sink("other", close_grace=0)),
    "reader.add_stream": lambda stream, r, _s, _e: r.add_stream(Stream("x", stream.redis)),
    "sink.add_stream": lambda stream, _r, s, _e: s.add_stream(Stream("x", stream.redis)),
    "sink.remove_stream": lambda stream, _r, s, _e: s.remove_stream(stream),
    "ack": lambda _stream, _r, s, e: s.ack(e),
    "extend": lambda _stream, _r, s, e: s.extend(e),
    "reject": lambda _stream, _r, s, e: s.reject(e, "no good"),
    "process": lambda _stream, _r, s, e: enter(s.process(e)),
}
TAKES: dict[str, Callable[[Stream, Reader, Sink, Event], Awaitable[object]]] = {
    "reader.read": lambda _stream, r, _s, _e: r.read(),
    "reader.next": lambda _stream, r, _s, _e: anext(r),
    "sink.read": lambda _stream, _r, s, _e: s.read(),
    "sink.next": lambda _stream, _r, s, _e: anext(s),
    "handle": lambda _stream, _r, s, _e: s.handle(reject_all),
    "handle in order": lambda _stream, _r, s, _e: s.handle(reject_all, ordered=True),
}


async def enter(block: AbstractAsyncContextManager[object]) -> None:
    async with block:
        pass


async def reject_all(_: Event) -> None:
    raise ValueError


@pytest.mark.parametrize("name", [*CALLS, *TAKES])
async def test_every_await_can_be_cancelled_and_the_next_one_works(
    redis: Redis, stream: Stream, name: str
) -> None:
    call = {**CALLS, **TAKES}[name]
    async with (
        stream.open_reader() as reader,
        stream.open_sink("k", start=OLDEST, close_grace=0) as sink,
    ):
        await stream.add("taken", b"")
        (event,) = await take(sink, 1)
        await take(reader, 1)
        with trio.CancelScope() as at_once:
            at_once.cancel()
            await call(stream, reader, sink, event)
        assert at_once.cancelled_caught
        with trio.move_on_after(0.001):
            await call(stream, reader, sink, event)
    other = Stream("other", redis)
    async with other.open_sink("k", start=OLDEST) as sink:
        await other.add("after", b"")
        (event,) = await take(sink, 1)
        assert await sink.ack(event) == 1


@pytest.mark.parametrize("name", [*CALLS, *TAKES])
async def test_every_await_waits_for_a_server_that_does_not_answer(
    server: EmbeddedServer, stream: Stream, name: str
) -> None:
    call = {**CALLS, **TAKES}[name]
    async with (
        stream.open_reader(block=0.05) as reader,
        stream.open_sink("k", start=OLDEST, block=0.05, close_grace=0) as sink,
    ):
        await stream.add("taken", b"")
        (event,) = await take(sink, 1)
        await take(reader, 1)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with trio.move_on_after(0.3) as patience:
                await call(stream, reader, sink, event)
            assert patience.cancelled_caught
        finally:
            os.kill(server.pid, signal.SIGCONT)
