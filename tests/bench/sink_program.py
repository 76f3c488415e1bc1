"""One of the two processes that share a backlog: a sink, or a loop by hand on redis.asyncio.

Arguments: "terzetto" or "redis", the URL and the stream's name. It takes lines in
threes: the name of a group, whereupon it says "ready"; "go", whereupon it takes
and acknowledges; "stop", whereupon it says "over".
"""

import asyncio
import sys
from typing import Any, cast

import redis.asyncio
import trio

from terzetto.redis import connect
from terzetto.streaming import Sink, Stream, stream_key

AT_ONCE = 100


def say(word: str) -> None:
    """Write a line that the other side reads at once."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


async def take(sink: Sink) -> None:
    """Take and acknowledge for ever."""
    while True:
        for event in await sink.read():
            sink.ack_nowait(event)


async def share(url: str, name: str) -> None:
    """Take part in sinks."""
    async with connect(url) as client:
        while group := (await trio.to_thread.run_sync(sys.stdin.readline)).strip():
            async with Stream(name, client, max_len=0).open_sink(group) as sink:
                say("ready")
                await trio.to_thread.run_sync(sys.stdin.readline)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(take, sink)
                    await trio.to_thread.run_sync(sys.stdin.readline)
                    nursery.cancel_scope.cancel()
            say("over")


async def share_by_hand(url: str, name: str) -> None:
    """Take part in groups."""
    key = stream_key(name)
    async with cast("Any", redis.asyncio).Redis.from_url(url) as client:

        async def loop(group: str, consumer: str) -> None:
            while True:
                reply = await client.xreadgroup(
                    group, consumer, {key: ">"}, count=AT_ONCE, block=5000
                )
                if not reply:
                    continue
                found: Any = next(iter(reply.values())) if hasattr(reply, "values") else reply[0][1]
                entries = found if isinstance(found[0], tuple) else found[0]
                await client.xack(key, group, *[event_id for event_id, _ in entries])

        while group := (await asyncio.to_thread(sys.stdin.readline)).strip():
            say("ready")
            await asyncio.to_thread(sys.stdin.readline)
            task = asyncio.create_task(loop(group, f"consumer of {id(client)}"))
            await asyncio.to_thread(sys.stdin.readline)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            say("over")


if __name__ == "__main__":
    _, how, place, stream_name = sys.argv
    if how == "terzetto":
        trio.run(share, place, stream_name)
    else:
        asyncio.run(share_by_hand(place, stream_name))
