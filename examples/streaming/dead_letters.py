"""A tour of dead letters: a failing event, poison, replay and discard.

Run it with ``python -m examples.streaming.dead_letters``; it starts a server of its own.
"""

import logging

import trio

import terzetto
from terzetto.streaming import OLDEST, Event, ReplayError, Sink, Stream

shop_is_open = False


async def deliver(event: Event) -> None:
    """Deliver an order, which fails for as long as the shop is closed."""
    if event.payload == b"flowers" and not shop_is_open:
        raise ConnectionError("the flower shop is closed")
    print("delivered", event.payload.decode())


async def work(orders: Stream, sink: Sink) -> None:
    """Deal with events until none is left."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.handle, deliver)
        while any(  # noqa: ASYNC110 - what is left is on the server, which says nothing of itself
            group.pending or group.lag for group in (await orders.info()).groups
        ):
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def main() -> None:
    """Let things go wrong, then mend them."""
    global shop_is_open  # noqa: PLW0603 - the world outside changes
    logging.getLogger("terzetto").setLevel(logging.ERROR)
    async with terzetto.connect("embedded://") as redis:
        orders = Stream("orders", redis)
        await orders.add("order", b"book")
        await orders.add("order", b"flowers")
        await redis.execute("XADD", orders.key, "*", "written", "by hand")  # no event at all
        async with orders.open_sink(
            "delivery", start=OLDEST, max_deliveries=3, retry_base=0.01
        ) as sink:
            await work(orders, sink)
            letters = await orders.dead_letters.read()
            for letter in sorted(letters, key=lambda letter: letter.event_id):
                print("dead:", letter.payload.decode() or letter.fields, "-", letter.why)

            shop_is_open = True
            for letter in letters:
                try:
                    await orders.dead_letters.replay(letter)
                except ReplayError:
                    print(
                        "discarded", await orders.dead_letters.discard(letter), "that is no event"
                    )
            await work(orders, sink)
        print("dead letters left:", await orders.dead_letters.count())


if __name__ == "__main__":
    trio.run(main)
