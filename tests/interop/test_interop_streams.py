"""One stream, written and read by Go's Pulse and by us."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest
import trio

from terzetto.redis import Redis
from terzetto.rmap import content_key
from terzetto.streaming import OLDEST, Stream, stream_key
from tests.interop.gomap import PATIENCE, wait_for
from tests.interop.gopeer import Peer

EVENTS = [
    ("user.created", b"Ada", "eu.north"),
    ("user.created", b"", None),
    ("na\u00efve \U0001f600", bytes(range(256)), "us"),
    ("n", b"x" * 100_000, "eu.south"),
]


async def take(go: Peer, on: str, count: int, *, seconds: float = PATIENCE) -> list[dict[str, Any]]:
    """Return the next events that a reader or sink of the peer delivers; fewer when time is up."""
    events: list[dict[str, Any]] = await go.call("reader.take", on, number=count, seconds=seconds)
    return events


async def open_go_stream(go: Peer, name: str, **options: object) -> str:
    await go.call("stream.open", f"stream {name}", name=name, **options)
    return f"stream {name}"


async def open_go_reader(go: Peer, stream: str, **options: object) -> str:
    await go.call("reader.open", "reader", **{"in": stream, **options})
    return "reader"


def told(event: dict[str, Any]) -> tuple[Any, ...]:
    payload: str = event["payload"]
    return event["name"], payload.encode(errors="surrogateescape"), event["topic"] or None


async def test_go_reads_what_we_add(redis: Redis, go: Peer) -> None:
    reader = await open_go_reader(go, await open_go_stream(go, "s"), start="oldest")
    stream = Stream("s", redis)
    ids = [await stream.add(name, data, topic=topic) for name, data, topic in EVENTS]
    ids += await stream.add_many([("many", b"1"), ("many", b"2", "eu")])
    seen = await take(go, reader, len(ids))
    assert [event["id"] for event in seen] == ids
    assert [told(event) for event in seen] == [
        *EVENTS,
        ("many", b"1", None),
        ("many", b"2", "eu"),
    ]
    assert all(event["millis"] == int(event["id"].split("-")[0]) for event in seen)


async def test_we_read_what_go_adds(redis: Redis, go: Peer) -> None:
    theirs = await open_go_stream(go, "s")
    async with Stream("s", redis).open_reader() as reader:
        ids = [
            await go.call("stream.add", theirs, name=name, value=data, topic=topic or "")
            for name, data, topic in EVENTS
        ]
        with trio.fail_after(PATIENCE):
            seen = [await anext(reader) for _ in ids]
    assert [event.id for event in seen] == ids
    assert [(event.name, event.payload, event.topic or None) for event in seen] == EVENTS


async def test_a_go_reader_at_newest_misses_only_what_precedes_its_first_batch(
    redis: Redis, go: Peer
) -> None:
    # Go asks for "$" at each poll until the first batch, so what falls between two
    # polls is lost to it; from the first batch on nothing is.
    reader = await open_go_reader(go, await open_go_stream(go, "s"))
    stream = Stream("s", redis)
    first: list[dict[str, Any]] = []
    with trio.fail_after(PATIENCE):
        while not first:
            await stream.add("probe", b"")
            first = await take(go, reader, 1, seconds=0.2)
    ids = [await stream.add("after", b"") for _ in range(50)]
    seen: list[str] = []
    with trio.fail_after(PATIENCE):
        while len(seen) < len(ids):
            more = await take(go, reader, 1)
            seen += [event["id"] for event in more if event["name"] == "after"]
    assert seen == ids


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"topic": "eu"}, "b"),
        ({"topic_pattern": r"^e\w"}, "bcfg"),
        ({"topic_pattern": "u$"}, "bef"),
    ],
)
async def test_both_pick_the_same_topics(
    redis: Redis, go: Peer, options: dict[str, Any], expected: str
) -> None:
    stream = Stream("s", redis)
    topics = [None, "eu", "eu.north", "us", "menu", "es\neu", "end"]
    for name, topic in zip("abcdefg", topics, strict=True):
        await stream.add(name, b"", topic=topic)
    words = {"topic": options.get("topic", ""), "pattern": options.get("topic_pattern", "")}
    reader = await open_go_reader(go, await open_go_stream(go, "s"), start="oldest", **words)
    theirs = [event["name"] for event in await take(go, reader, len(expected))]
    async with stream.open_reader(start=OLDEST, block=0.1, **options) as mine:
        with trio.fail_after(PATIENCE):
            ours = [(await anext(mine)).name for _ in theirs]
    assert (theirs, ours) == (list(expected), list(expected))


@pytest.mark.parametrize(
    ("ours", "theirs", "begins"),
    [
        (OLDEST, {"start": "oldest"}, (0, 0)),
        ("2000-0", {"start": "2000-0"}, (2, 2)),
        # Ours is "on or after"; Pulse's is "after <ms>-0", and misses the first of its millisecond.
        (datetime.fromtimestamp(2, UTC), {"at": 2000}, (1, 2)),
        (datetime.fromtimestamp(2.5, UTC), {"at": 2500}, (2, 2)),
    ],
)
async def test_start_positions(
    redis: Redis, go: Peer, ours: Any, theirs: dict[str, Any], begins: tuple[int, int]
) -> None:
    ids = [f"{number}000-0" for number in (1, 2, 3, 4)]
    for event_id in ids:
        await redis.execute("XADD", stream_key("s"), event_id, "n", "x", "p", "")
    reader = await open_go_reader(go, await open_go_stream(go, "s"), **theirs)
    expected = ids[begins[1] :]
    assert [event["id"] for event in await take(go, reader, len(expected))] == expected
    async with Stream("s", redis).open_reader(start=ours) as mine:
        with trio.fail_after(PATIENCE):
            assert [(await anext(mine)).id for _ in ids[begins[0] :]] == ids[begins[0] :]


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("first", ["go", "ours"])
async def test_ttl(redis: Redis, go: Peer, first: str, *, sliding: bool) -> None:
    theirs = await open_go_stream(go, "s", ttl=100, sliding=sliding)
    stream = Stream("s", redis, ttl=50, sliding=sliding)
    for writer in ["go", "ours"] if first == "go" else ["ours", "go"]:
        if writer == "go":
            await go.call("stream.add", theirs, name="x", value=b"")
        else:
            await stream.add("x", b"")
    left = await redis.execute("TTL", stream_key("s"))
    assert isinstance(left, int)
    assert 0 < left <= 50 if (first == "ours") is not sliding else 50 < left <= 100


@pytest.mark.parametrize("destroyer", ["go", "ours"])
async def test_destroy(redis: Redis, go: Peer, destroyer: str) -> None:
    theirs = await open_go_stream(go, "s")
    stream = Stream("s", redis)
    reader = await open_go_reader(go, theirs, start="oldest")
    async with stream.open_reader(start=OLDEST) as mine:
        await go.call("sink.open", "sink", **{"in": theirs, "name": "shared"})
        await go.call("sink.close", "sink")
        assert await redis.execute("HEXISTS", content_key("stream:s:sinks"), "shared")
        removed = await stream.add("removed", b"")
        await stream.add("before", b"")
        with trio.fail_after(PATIENCE):
            assert [(await anext(mine)).name for _ in range(2)] == ["removed", "before"]
        assert [event["name"] for event in await take(go, reader, 2)] == ["removed", "before"]
        if destroyer == "go":
            await go.call("stream.remove", theirs, items=[removed])
            assert await stream.length() == 1
            await go.call("stream.destroy", theirs)
        else:
            await stream.destroy()
        assert not await redis.execute("EXISTS", stream_key("s"))
        # Of the consumers' map only its two own fields are left.
        fields = await redis.execute("HKEYS", content_key("stream:s:sinks"))
        assert isinstance(fields, list)
        assert sorted(map(str, cast("list[bytes]", fields))) == ["b'=kind'", "b'=rev'"]
        assert await stream.add("x", b"", only_if_exists=True) is None
        assert await go.call("stream.add", theirs, name="x", value=b"", flag=True) == ""
        await go.call("stream.add", theirs, name="by go", value=b"")
        await stream.add("by us", b"")
        with trio.fail_after(PATIENCE):
            assert [(await anext(mine)).name for _ in range(2)] == ["by go", "by us"]
        assert [event["name"] for event in await take(go, reader, 2)] == ["by go", "by us"]


async def test_go_trims_to_the_length_that_it_was_given(redis: Redis, go: Peer) -> None:
    # Trimming is approximate: whole nodes of 100 entries.
    theirs = await open_go_stream(go, "s", number=100)
    stream = Stream("s", redis, max_len=0)
    await stream.add_many([("x", b"")] * 1000)
    await go.call("stream.add", theirs, name="x", value=b"")

    async def is_trimmed() -> bool:
        return await stream.length() < 300

    await wait_for(is_trimmed, wanted=True)
