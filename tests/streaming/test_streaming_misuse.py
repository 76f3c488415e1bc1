"""What cannot be is refused where it is given, by an error that names it; nothing is written."""

from functools import partial
from typing import Any

import pytest

from terzetto.codec import json_codec
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
        with pytest.raises(TypeError, match="is no handler: give an async function"):
            await sink.handle(handler, ordered=ordered)
        (event,) = await sink.read()
        assert event.deliveries == 1


async def test_a_typed_stream_makes_no_handler_of_a_sync_function(stream: Stream) -> None:
    wrong: Any = not_async
    with pytest.raises(TypeError, match="is no handler: give an async function"):
        stream.typed(json_codec(int)).handler(wrong)
