"""What readers and sinks hold is bounded by their buffers, whatever waits for them."""

import tracemalloc
from contextlib import AbstractAsyncContextManager
from itertools import count

import pytest
import trio
import trio.testing

from terzetto.streaming import OLDEST, Reader, Sink, Stream

BUFFER = 40  # events
SIZE = 10_000  # bytes of a payload
BACKLOG = 2_000  # events, of 20 MB
TAKEN = 200


def opened(stream: Stream, kind: str) -> AbstractAsyncContextManager[Reader | Sink]:
    if kind == "reader":
        return stream.open_reader(start=OLDEST, buffer_size=BUFFER)
    return stream.open_sink("k", start=OLDEST, buffer_size=BUFFER, ack_grace_period=1)


@pytest.mark.parametrize("kind", ["reader", "sink"])
async def test_a_backlog_stays_on_the_server(stream: Stream, kind: str) -> None:
    backlog = Stream(stream.name, stream.redis, max_len=0)
    for _ in range(BACKLOG // 100):
        await backlog.add_many([("n", bytes(SIZE))] * 100)
    async with opened(backlog, kind) as taker:
        tracemalloc.start()
        try:
            with trio.fail_after(30):
                for number in count(1):
                    event = await anext(taker)
                    await trio.lowlevel.checkpoint()
                    if isinstance(taker, Sink):
                        taker.ack_nowait(event)
                    if number == TAKEN:
                        break
                await trio.testing.wait_all_tasks_blocked(0.05)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # The events of a full buffer, and the bytes that they were parsed from.
    assert peak < 5 * BUFFER * SIZE, f"{peak} bytes"
