"""What cannot be is refused where it is given, by an error that names it; nothing is written."""

from functools import partial
from typing import Any

import pytest

from terzetto.codec import json_codec
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis
from terzetto.streaming import OLDEST, Stream


def not_async(*arguments: object) -> None:
    pytest.fail("it was called")


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("handler", [None, 3, not_async, print, partial(not_async, 1)])
async def test_a_sink_does_not_begin_with_a_handler_that_would_fail_with_each_event(
    stream: Stream,
    handler: Any,  # noqa: ANN401 - what an untyped caller may give
    *,
    ordered: bool,
) -> None:
    await stream.add("a", b"")
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=1000) as sink:
        with pytest.raises(TypeError, match="a handler is an async function, not"):
            await sink.handle(handler, ordered=ordered)
        (event,) = await sink.read()
        assert event.deliveries == 1


async def test_a_typed_stream_makes_no_handler_of_a_sync_function(stream: Stream) -> None:
    wrong: Any = not_async
    with pytest.raises(TypeError, match="a handler is an async function, not"):
        stream.typed(json_codec(int)).handler(wrong)


@pytest.mark.parametrize("redis", ["redis://127.0.0.1:6379", None])
def test_a_stream_needs_a_client(redis: Any) -> None:  # noqa: ANN401 - as above
    with pytest.raises(TypeError, match="a stream needs a client"):
        Stream("s", redis)


async def test_what_is_no_event_is_not_acknowledged(stream: Stream) -> None:
    await stream.add_many([("a", b""), ("b", b"")])
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=1000) as sink:
        one, other = await sink.read()
        wrong: Any = other.id
        for events in ([wrong], [one, wrong]):
            with pytest.raises(TypeError, match="give an Event that was taken, not str"):
                await sink.ack(*events)
        assert await sink.ack(one, other) == 2


async def test_what_is_no_dead_letter_is_neither_replayed_nor_discarded(stream: Stream) -> None:
    await stream.add_many([("a", b""), ("b", b"")])
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=1000) as sink:
        for event in await sink.read():
            await sink.reject(event, "no use")
    letters = stream.dead_letters
    one, other = await letters.read()
    wrong: Any = other.id
    for act in (letters.replay, letters.discard):
        for given in ([wrong], [one, wrong]):
            with pytest.raises(TypeError, match="give a DeadLetter, as read"):
                await act(*given)
    assert await letters.count() == 2
    assert await letters.discard(one, other) == 2


@pytest.mark.parametrize(
    ("option", "value"), [("max_len", -1), ("ttl", -1), ("ttl", "60"), ("ttl", ""), ("ttl", False)]
)
async def test_a_stream_refuses_bounds_that_cannot_be(
    redis: Redis, option: str, value: object
) -> None:
    wrong: dict[str, Any] = {option: value}
    with pytest.raises(InvalidOptionError, match=f"^{option} is .*: give "):
        Stream("s", redis, **wrong)


async def test_zero_stands_for_no_bound(redis: Redis) -> None:
    stream = Stream("s", redis, max_len=0, ttl=0)
    await stream.add_many([("a", b"")] * 1500)
    assert await stream.length() == 1500
    assert await redis.execute("TTL", stream.key) == -1
