"""One sink reads several streams; one more joins while it runs.

Run it with ``python -m examples.streaming.many_streams``; it starts a server of its own.
"""

import trio

import terzetto
from terzetto.streaming import OLDEST, Stream


async def main() -> None:
    """Read the orders of three shops through one sink."""
    async with terzetto.connect("embedded://") as redis:
        berlin, paris, rome = (
            Stream(f"orders:{city}", redis) for city in ("berlin", "paris", "rome")
        )
        async with berlin.open_sink("warehouse", start=OLDEST) as sink:
            await sink.add_stream(paris)
            await berlin.add("order.placed", b"pretzel")
            await paris.add("order.placed", b"baguette")
            await rome.add("order.placed", b"focaccia")
            for _ in range(2):
                event = await anext(sink)
                await sink.ack(event)
            print("reads", ", ".join(sink.streams))
            await sink.add_stream(rome)
            event = await anext(sink)
            print("and now", event.stream, event.payload.decode())
            await sink.ack(event)
            await sink.remove_stream(paris)
            print("reads", ", ".join(sink.streams))


if __name__ == "__main__":
    trio.run(main)
