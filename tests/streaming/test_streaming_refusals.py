"""Writes that the server refuses for a while: short of memory or replicas, or read-only."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.streaming import OLDEST, Event, Stream

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]


@pytest.fixture
async def operator(server: EmbeddedServer) -> AsyncIterator[Redis]:
    """Return a link of its own, for those who change the server's settings."""
    async with connect(server.url) as client:
        yield client


async def refuse_writes(operator: Redis) -> None:
    await operator.execute("CONFIG", "RESETSTAT")
    await operator.execute("CONFIG", "SET", "min-replicas-to-write", 1)


async def allow_writes(operator: Redis) -> None:
    await operator.execute("CONFIG", "SET", "min-replicas-to-write", 0)


async def failed_calls(operator: Redis, command: str) -> int:
    """Return how many calls of a command were refused, or failed."""
    stats = bytes(await operator.execute("INFO", "commandstats")).decode()
    found = re.search(rf"cmdstat_{command}:(\S+)", stats)
    counts = dict(pair.split("=") for pair in found[1].split(",")) if found else {}
    return int(counts.get("rejected_calls", 0)) + int(counts.get("failed_calls", 0))


async def pending(stream: Stream) -> int:
    (group,) = (await stream.info()).groups
    return group.pending


@pytest.mark.parametrize("command", ["xack", "xadd"])
@pytest.mark.parametrize("ordered", [False, True])
async def test_a_handler_loop_goes_on_where_the_server_refuses_what_becomes_of_an_event(
    operator: Redis, stream: Stream, eventually: Eventually, command: str, *, ordered: bool
) -> None:
    done: list[str] = []

    async def handler(event: Event) -> None:
        done.append(event.name)
        if event.name == "a":
            await refuse_writes(operator)
            if command == "xadd":
                raise ValueError

    async def was_refused() -> bool:
        return await failed_calls(operator, command) > 0

    async def settled() -> bool:
        return await pending(stream) == 0

    limit = 1 if command == "xadd" else None
    async with (
        stream.open_sink(
            "k", start=OLDEST, max_deliveries=limit, ack_grace_period=1, block=0.05
        ) as sink,
        trio.open_nursery() as nursery,
    ):
        await stream.add_many([("a", b"", "t"), ("b", b"", "t")])
        nursery.start_soon(lambda: sink.handle(handler, ordered=ordered, concurrency=1))
        await eventually(was_refused)
        await allow_writes(operator)
        await eventually(lambda: "b" in done)
        await eventually(settled)
        nursery.cancel_scope.cancel()
    assert await stream.dead_letters.count() == (1 if command == "xadd" else 0)


async def test_what_cannot_be_buried_in_order_is_overtaken_by_nothing_of_its_topic(
    operator: Redis, stream: Stream, eventually: Eventually
) -> None:
    done: list[str] = []

    async def handler(event: Event) -> None:
        done.append(event.name)
        if event.name == "a":
            await refuse_writes(operator)
            raise ValueError

    async def was_refused_again() -> bool:
        return await failed_calls(operator, "xadd") > 2

    async with (
        stream.open_sink("k", start=OLDEST, max_deliveries=1) as sink,
        trio.open_nursery() as nursery,
    ):
        await stream.add_many([("a", b"", "t"), ("b", b"", "t")])
        nursery.start_soon(lambda: sink.handle(handler, ordered=True))
        await eventually(was_refused_again)
        assert done == ["a"]
        await allow_writes(operator)
        await eventually(lambda: done == ["a", "b"])
        nursery.cancel_scope.cancel()
    (letter,) = await stream.dead_letters.read()
    assert letter.name == "a"


@pytest.mark.parametrize(("block", "way"), [(0.05, "the next read"), (30, "the claims' loop")])
async def test_acknowledgements_that_the_server_refuses_are_made_again(
    operator: Redis, stream: Stream, eventually: Eventually, block: float, way: str
) -> None:
    async def was_refused() -> bool:
        return await failed_calls(operator, "xack") > 0

    async def settled() -> bool:
        return await pending(stream) == 0

    async with stream.open_sink(
        "k", start=OLDEST, max_deliveries=1, block=block, ack_grace_period=60
    ) as sink:
        await stream.add("a", b"")
        with trio.fail_after(20):
            event = await anext(sink)
        await refuse_writes(operator)
        sink.ack_nowait(event)
        await eventually(was_refused)
        await allow_writes(operator)
        await eventually(settled)
    assert await stream.dead_letters.count() == 0, way


async def test_acknowledgements_that_would_be_refused_for_ever_do_not_pile_up(
    operator: Redis, stream: Stream, eventually: Eventually
) -> None:
    async def was_refused() -> bool:
        return await failed_calls(operator, "xack") > 0

    async with stream.open_sink("k", start=OLDEST, ack_grace_period=60) as sink:
        outbox = sink._intake.outbox  # pyright: ignore[reportPrivateUsage] - what waits in it
        await stream.add("a", b"")
        with trio.fail_after(20):
            event = await anext(sink)
        await operator.execute("CONFIG", "RESETSTAT")
        await operator.execute("DEL", stream.key)
        await operator.execute("SET", stream.key, "no stream")
        sink.ack_nowait(event)
        await eventually(was_refused)
        await eventually(lambda: not outbox.streams())
        await operator.execute("DEL", stream.key)


@pytest.mark.parametrize("closing", [False, True])
async def test_an_acknowledgement_of_a_stream_that_was_removed_is_sent(
    stream: Stream, eventually: Eventually, *, closing: bool
) -> None:
    async def settled() -> bool:
        return await pending(stream) == 0

    grace = 1000 if closing else 0.5
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=grace) as sink:
        await stream.add("a", b"")
        with trio.fail_after(20):
            event = await anext(sink)
        await sink.remove_stream(stream)
        sink.ack_nowait(event)
        if not closing:
            await eventually(settled)
    assert await settled()
