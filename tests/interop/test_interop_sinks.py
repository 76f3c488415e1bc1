"""One sink, with instances in Go's Pulse and in ours; either may die."""

import time
from pathlib import Path
from typing import Any

import pytest
import trio

from terzetto.redis import Redis
from terzetto.rmap import join
from terzetto.server import EmbeddedServer
from terzetto.streaming import OLDEST, Sink, Stream, stream_key
from terzetto.testing import open_program
from tests.interop.gomap import PATIENCE, wait_for
from tests.interop.gopeer import Peer

GRACE = 1.0  # seconds; all instances of a sink need the same
SINK = "shared"


async def open_go_sink(go: Peer, **options: object) -> None:
    await go.call("stream.open", "stream", name="s")
    words = {"name": SINK, "start": "oldest", "grace": GRACE, **options}
    await go.call("sink.open", "sink", **{"in": "stream", **words})


async def pending(redis: Redis) -> int:
    summary: Any = await redis.execute("XPENDING", stream_key("s"), SINK)
    return int(summary[0])


async def acknowledge_in_go(go: Peer, seen: list[str]) -> None:
    while True:
        events: list[dict[str, Any]] = await go.call("sink.take", "sink", number=1, seconds=1)
        ids = [event["id"] for event in events]
        await go.call("sink.ack", "sink", items=ids)
        seen += ids


async def acknowledge_here(sink: Sink, seen: list[str]) -> None:
    async for event in sink:
        await sink.ack(event)
        seen.append(event.id)


async def test_each_event_goes_to_one_side(redis: Redis, go: Peer) -> None:
    stream = Stream("s", redis, max_len=0)
    await open_go_sink(go, number=5, grace=20)
    ids: list[str | None] = []
    theirs: list[str] = []
    ours: list[str] = []
    async with (
        stream.open_sink(SINK, max_polled=5, ack_grace_period=20) as sink,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(acknowledge_in_go, go, theirs)
        nursery.start_soon(acknowledge_here, sink, ours)
        with trio.fail_after(PATIENCE):
            while min(len(theirs), len(ours)) < 20 or len(ids) < 100:
                ids += await stream.add_many([("x", b"")])

        async def count() -> int:
            return len(theirs) + len(ours)

        await wait_for(count, len(ids))
        nursery.cancel_scope.cancel()
    assert set(theirs + ours) == set(ids)
    assert await pending(redis) == 0


async def test_what_a_killed_go_instance_held_comes_to_us(redis: Redis, go: Peer) -> None:
    stream = Stream("s", redis)
    ids = await stream.add_many([("x", b"")] * 50)
    await open_go_sink(go)
    assert len(await go.call("sink.take", "sink", number=50, seconds=PATIENCE)) == 50
    async with stream.open_sink(SINK, ack_grace_period=GRACE, block=0.2) as sink:
        await go.kill()
        seen: list[str] = []
        with trio.fail_after(PATIENCE):
            while len(seen) < len(ids):
                event = await anext(sink)
                assert event.deliveries > 1
                await sink.ack(event)
                seen.append(event.id)
    assert set(seen) == set(ids)
    assert await pending(redis) == 0


async def test_what_a_killed_instance_of_ours_held_comes_to_go(
    redis: Redis, go: Peer, server: EmbeddedServer
) -> None:
    # Go deletes a consumer whose keep-alive is older than two grace periods, with all it
    # holds, but claims first what has been idle for one. A process that kept its
    # keep-alive up until it died has read nothing later than that, so nothing is lost.
    stream = Stream("s", redis)
    program = Path(__file__).with_name("sink_program.py")
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = (server.url, "s", SINK, str(GRACE))
    async with open_program(program, *arguments, environment=environment) as ours:
        assert await ours.read_line() == "ready"
        ids = await stream.add_many([("x", b"")] * 50)
        with trio.fail_after(PATIENCE):
            assert [await ours.read_line() for _ in ids] == ids
        await ours.kill()
    await open_go_sink(go)
    seen: set[str] = set()
    with trio.fail_after(PATIENCE):
        while len(seen) < len(ids):
            events = await go.call("sink.take", "sink", number=1, seconds=PATIENCE)
            seen |= {event["id"] for event in events}
            await go.call("sink.ack", "sink", items=[event["id"] for event in events])
    assert seen == set(ids)


@pytest.mark.parametrize("side", ["go", "ours"])
async def test_go_loses_what_a_silent_consumer_was_just_given_and_we_do_not(
    redis: Redis, go: Peer, side: str
) -> None:
    # What Redis delivers to a consumer that is silent for two grace periods (paused, or
    # cut off while its blocked read stays open) is not idle long enough to be claimed
    # when Go deletes that consumer: the bound is what was delivered in its last grace period.
    stream = Stream("s", redis)
    await redis.execute("XGROUP", "CREATE", stream_key("s"), SINK, "0", "MKSTREAM")
    event_id = await stream.add("x", b"")
    async with join(f"sink:{SINK}:keepalive", redis) as alive:
        await alive.set_and_wait("silent", str(time.time_ns() - round(30 * GRACE * 1e9)))
    read = ("XREADGROUP", "GROUP", SINK, "silent", "COUNT", "1", "STREAMS", stream_key("s"), ">")
    assert await redis.execute(*read)
    assert await pending(redis) == 1
    if side == "go":
        await open_go_sink(go)

        async def is_gone() -> int:
            return await pending(redis)

        await wait_for(is_gone, 0)
        assert await go.call("sink.take", "sink", number=1, seconds=2 * GRACE) == []
    else:
        async with stream.open_sink(SINK, ack_grace_period=GRACE, block=0.2) as sink:
            with trio.fail_after(PATIENCE):
                event = await anext(sink)
                await sink.ack(event)
        assert event.id == event_id


async def take_in_go(go: Peer, count: int) -> list[dict[str, Any]]:
    """Take and acknowledge so many events in Go; fewer when time is up."""
    events: list[dict[str, Any]] = await go.call(
        "sink.take", "sink", number=count, seconds=PATIENCE
    )
    await go.call("sink.ack", "sink", items=[event["id"] for event in events])
    return events


@pytest.mark.parametrize("killed", ["go", "ours"])
async def test_without_acknowledgements_an_event_comes_once_and_dies_with_who_had_it(
    redis: Redis, go: Peer, server: EmbeddedServer, killed: str
) -> None:
    # A group of both: nothing is ever pending, so what an instance had taken in goes with it.
    stream = Stream("s", redis)
    await open_go_sink(go, flag=True, number=5)
    seen: list[str] = []
    async with stream.open_sink(
        SINK, no_ack=True, ack_grace_period=GRACE, max_polled=5, buffer_size=5
    ) as sink:
        ids = await stream.add_many([("x", b"")] * 10)
        while len(seen) < len(ids):
            taken = await go.call("sink.take", "sink", number=5, seconds=0.2)
            seen += [event["id"] for event in taken]
            with trio.move_on_after(0.2):
                seen.append((await anext(sink)).id)
        assert sorted(seen) == sorted(map(str, ids))
        assert await pending(redis) == 0
        if killed == "go":
            await go.kill()
            again = await stream.add_many([("x", b"")] * 10)
            with trio.fail_after(PATIENCE):
                assert [(await anext(sink)).id for _ in again] == again
    if killed == "ours":
        again = await stream.add_many([("x", b"")] * 10)
        taken = await go.call("sink.take", "sink", number=10, seconds=PATIENCE)
        assert [event["id"] for event in taken] == again
    assert await pending(redis) == 0


async def test_several_streams_are_shared_and_go_and_come(redis: Redis, go: Peer) -> None:
    one, two = Stream("s", redis), Stream("t", redis)
    await open_go_sink(go, number=1)
    await go.call("stream.open", "other", name="t")
    await go.call("sink.add", "sink", **{"in": "other"})
    async with one.open_sink(SINK, start=OLDEST, ack_grace_period=GRACE, max_polled=1) as sink:
        await sink.add_stream(two)
        ours: list[str] = []
        theirs: list[str] = []
        ids: list[str | None] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(acknowledge_in_go, go, theirs)
            nursery.start_soon(acknowledge_here, sink, ours)
            with trio.fail_after(PATIENCE):
                while min(len(theirs), len(ours)) < 10:
                    ids += [await stream.add("x", b"") for stream in (one, two)]

            async def count() -> int:
                return len(theirs) + len(ours)

            await wait_for(count, len(ids))
            nursery.cancel_scope.cancel()
        assert sorted(theirs + ours) == sorted(map(str, ids))
        # Each side leaves one stream, and the other side goes on with it. What Go's read of
        # that moment still brings, and Go drops, comes to us by a claim.
        await go.call("sink.remove", "sink", **{"in": "other"})
        await sink.remove_stream(one)
        mine = [await two.add("x", b"") for _ in range(5)]
        gos = [await one.add("x", b"") for _ in range(5)]
        held: set[tuple[str, str | None]] = set()
        with trio.fail_after(PATIENCE):
            while len(held) < len(mine):
                event = await anext(sink)
                held.add((event.stream, event.id))
                await sink.ack(event)
        assert held == {("t", each) for each in mine}
        taken = await take_in_go(go, 5)
        assert [(event["stream"], event["id"]) for event in taken] == [("s", each) for each in gos]
        # The last to leave takes the group along.
        await sink.remove_stream(two)
        assert await redis.execute("XINFO", "GROUPS", two.key) == []


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [({"topic": "eu"}, {"topic": "eu"}), ({"topic_pattern": "^e"}, {"pattern": "^e"})],
)
async def test_both_sides_filter_alike_and_go_leaves_the_rest_pending_until_we_clear_it(
    redis: Redis, go: Peer, ours: dict[str, str], theirs: dict[str, str]
) -> None:
    # Pulse acknowledges nothing that its filter drops: it comes round by claims for ever.
    # An instance of ours that gets such an event by a claim acknowledges it.
    stream = Stream("s", redis)
    await open_go_sink(go, **theirs)
    wanted = [await stream.add("x", b"", topic="eu") for _ in range(5)]
    unwanted = [await stream.add("x", b"", topic=topic) for topic in ("us", None, "menu")]
    assert [event["id"] for event in await take_in_go(go, 5)] == wanted
    assert await pending(redis) == len(unwanted)
    topic, pattern = ours.get("topic"), ours.get("topic_pattern")
    async with stream.open_sink(
        SINK, ack_grace_period=GRACE, block=0.2, topic=topic, topic_pattern=pattern
    ) as sink:
        await go.kill()
        async with trio.open_nursery() as nursery:
            seen: list[str] = []
            nursery.start_soon(acknowledge_here, sink, seen)
            more = [await stream.add("x", b"", topic=topic) for topic in ("eu", "us", "eu")]

            async def count() -> int:
                return len(seen) + 100 * await pending(redis)

            await wait_for(count, 2)
            nursery.cancel_scope.cancel()
    assert set(seen) == {more[0], more[2]}


async def test_a_closing_instance_of_ours_hands_over_to_go_at_once(redis: Redis, go: Peer) -> None:
    stream = Stream("s", redis)
    ids = await stream.add_many([("x", b"")] * 20)
    async with stream.open_sink(SINK, start=OLDEST, ack_grace_period=60) as sink:
        with trio.fail_after(PATIENCE):
            held = [await anext(sink) for _ in ids]
        await open_go_sink(go, grace=60)
        assert await go.call("sink.take", "sink", number=1, seconds=0.1) == []
        assert await sink.ack(*held[:5]) == 5
    seen: set[str] = set()
    with trio.fail_after(PATIENCE):
        while len(seen) < 15:
            events = await go.call("sink.take", "sink", number=1, seconds=PATIENCE)
            seen |= {event["id"] for event in events}
            await go.call("sink.ack", "sink", items=[event["id"] for event in events])
    assert seen == set(ids[5:])
