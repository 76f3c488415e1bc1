"""Fan-in: many sensors write streams of their own, one projection adds them up.

The projection keeps its places in a replicated map and goes on there after a restart.
Run it with ``python -m examples.streaming.fan_in``; it starts a server of its own.
"""

import trio

import terzetto
from terzetto import rmap
from terzetto.redis import Redis
from terzetto.streaming import OLDEST, Checkpoint, Stream

SENSORS = ("north", "south", "west")


async def project(redis: Redis, places: rmap.Map, totals: dict[str, int], count: int) -> None:
    """Stand for a run of the projection that deals with so many events."""
    streams = [Stream(f"sensor:{name}", redis) for name in SENSORS]
    checkpoint = Checkpoint(places, "totals")
    async with streams[0].open_reader(start=OLDEST, checkpoint=checkpoint) as reader:
        for stream in streams[1:]:
            await reader.add_stream(stream, start=checkpoint.load(stream.name) or OLDEST)
        for _ in range(count):
            event = await anext(reader)
            totals[event.stream] = totals.get(event.stream, 0) + int(event.payload)
            await reader.save(event)


async def main() -> None:
    """Run the projection twice."""
    totals: dict[str, int] = {}
    async with terzetto.connect("embedded://") as redis, rmap.join("places", redis) as places:
        for number, name in enumerate(SENSORS, start=1):
            await Stream(f"sensor:{name}", redis).add_many([("reading", b"%d" % number)] * 10)
        await project(redis, places, totals, 12)
        print("after the first run:", sum(totals.values()) > 0)
        await project(redis, places, totals, 18)
    print("in the end:", dict(sorted(totals.items())))


if __name__ == "__main__":
    trio.run(main)
