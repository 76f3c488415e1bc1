"""Every instance of a sink is killed with events in its hands: they come again, on each stream."""

from collections import Counter
from functools import partial

import pytest
import trio

import terzetto
from terzetto import streaming
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.testing import open_program
from tests.faults.fleet import scaled

pytestmark = pytest.mark.timeout(600)

GRACE = 1.0
EVENTS = 500  # of each stream
# Takes all events of a stream, and acknowledges none.
HOARDER = """
import sys, trio, terzetto
from terzetto import streaming

async def main(url, stream, count, grace):
    async with terzetto.connect(url) as redis:
        opened = streaming.Stream(stream, redis)
        async with opened.open_sink(
            "events", start=streaming.OLDEST, ack_grace_period=float(grace)
        ) as sink:
            seen = 0
            async for event in sink:
                seen += 1
                if seen == int(count):
                    print("all", flush=True)

trio.run(main, *sys.argv[1:])
"""


async def take_all(redis: Redis, name: str, count: int, seen: Counter[str]) -> None:
    stream = streaming.Stream(name, redis)
    async with stream.open_sink("events", start=streaming.OLDEST, ack_grace_period=GRACE) as sink:
        async for event in sink:
            await sink.ack(event)
            seen[event.id] += 1
            if len(seen) == count:
                return


async def test_all_that_was_pending_comes_again(server: EmbeddedServer) -> None:
    """Two streams with a sink of one name, 500 pending in each: 500 of 500, twice."""
    count = scaled(EVENTS)
    async with terzetto.connect(server.url) as redis:
        for name in ("one", "two"):
            stream = streaming.Stream(name, redis)
            for number in range(count):
                assert await stream.add("work", str(number).encode())
            async with open_program(HOARDER, server.url, name, str(count), str(GRACE)) as hoarder:
                assert await hoarder.read_line() == "all"
                await hoarder.kill()
        seen = {name: Counter[str]() for name in ("one", "two")}
        # An event is due a grace after its delivery; what is due is claimed within another.
        with trio.fail_after(2 * GRACE + 1):
            async with trio.open_nursery() as nursery:
                for name, ids in seen.items():
                    nursery.start_soon(partial(take_all, redis, name, count, ids))
        assert [len(ids) for ids in seen.values()] == [count, count]
        for name in seen:
            pending = await redis.execute("XPENDING", streaming.stream_key(name), "events")
            assert isinstance(pending, list)
            assert pending[0] == 0
