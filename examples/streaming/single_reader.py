"""One reader follows a stream from its start.

Run it with ``python -m examples.streaming.single_reader``; it starts a server of its own.
"""

import trio

import terzetto
from terzetto.streaming import OLDEST, Stream


async def main() -> None:
    """Add a few events and read them."""
    async with terzetto.connect("embedded://") as redis:
        orders = Stream("orders", redis)
        await orders.add("order.placed", b"book")
        async with orders.open_reader(start=OLDEST) as reader:
            await orders.add("order.paid", b"book")
            await orders.add("order.sent", b"book")
            for _ in range(3):
                event = await anext(reader)
                print(event.name, event.payload.decode())


if __name__ == "__main__":
    trio.run(main)
