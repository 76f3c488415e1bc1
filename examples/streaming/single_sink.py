"""One sink deals with each event once, over two runs of its program.

Run it with ``python -m examples.streaming.single_sink``; it starts a server of its own.
"""

import trio

import terzetto
from terzetto.redis import Redis
from terzetto.streaming import OLDEST, Stream


async def run_once(redis: Redis, count: int) -> None:
    """Stand for a run of a program that deals with some events and ends."""
    orders = Stream("orders", redis)
    async with orders.open_sink("billing", start=OLDEST) as sink:
        for _ in range(count):
            event = await anext(sink)
            print("bill", event.payload.decode())
            await sink.ack(event)


async def main() -> None:
    """Run twice: the sink's place is in Redis."""
    async with terzetto.connect("embedded://") as redis:
        await Stream("orders", redis).add_many([("order.placed", b"%d" % n) for n in range(5)])
        print("first run")
        await run_once(redis, 2)
        print("second run")
        await run_once(redis, 3)


if __name__ == "__main__":
    trio.run(main)
