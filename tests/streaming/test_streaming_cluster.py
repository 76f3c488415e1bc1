"""Streams on a cluster: those that are read together share a slot."""

import pytest
import trio

from terzetto.errors import InvalidOptionError
from terzetto.redis import connect
from terzetto.server import open_cluster
from terzetto.streaming import OLDEST, Reader, Sink, Stream


async def take(taker: Reader | Sink, count: int) -> set[str]:
    with trio.fail_after(30):
        return {(await anext(taker)).name for _ in range(count)}


async def test_streams_that_are_read_together_share_a_slot() -> None:
    async with open_cluster() as cluster, connect(cluster.url) as redis:
        first, second = Stream("{a}1", redis), Stream("{a}2", redis)
        others = [Stream(f"{{{tag}}}1", redis) for tag in "bcd"]
        async with (
            first.open_reader(start=OLDEST) as reader,
            first.open_sink("{k}", start=OLDEST) as sink,
        ):
            for taker in (reader, sink):
                for other in others:
                    with pytest.raises(InvalidOptionError, match="another slot of the cluster"):
                        await taker.add_stream(other)
                assert taker.streams == (first.name,)
                await taker.add_stream(second)
            await first.add("one", b"")
            await second.add("two", b"")
            assert await take(reader, 2) == {"one", "two"}
            assert await take(sink, 2) == {"one", "two"}
            # The link stays where it was opened, also when the first stream is gone.
            for taker in (reader, sink):
                await taker.remove_stream(first)
                await taker.remove_stream(second)
                with pytest.raises(InvalidOptionError, match="another slot of the cluster"):
                    await taker.add_stream(others[0])
                await taker.add_stream(second)
            await second.add("three", b"")
            assert "three" in await take(reader, 2)
