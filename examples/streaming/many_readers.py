"""Several readers get every event, each at its own speed.

Run it with ``python -m examples.streaming.many_readers``; it starts a server of its own.
"""

import trio

import terzetto
from terzetto.streaming import OLDEST, Stream

PRICES = [3, 1, 4, 1, 5, 9, 2, 6]


async def add_up(prices: Stream, totals: dict[str, int]) -> None:
    """Work out the sum."""
    async with prices.open_reader(start=OLDEST) as reader:
        for _ in PRICES:
            totals["sum"] = totals.get("sum", 0) + int((await anext(reader)).payload)


async def find_greatest(prices: Stream, totals: dict[str, int]) -> None:
    """Work out the greatest, and take one's time."""
    async with prices.open_reader(start=OLDEST) as reader:
        for _ in PRICES:
            totals["greatest"] = max(totals.get("greatest", 0), int((await anext(reader)).payload))
            await trio.sleep(0.01)


async def main() -> None:
    """Start both, then add the events."""
    totals: dict[str, int] = {}
    async with terzetto.connect("embedded://") as redis:
        prices = Stream("prices", redis)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add_up, prices, totals)
            nursery.start_soon(find_greatest, prices, totals)
            await prices.add_many([("price", b"%d" % price) for price in PRICES])
    print("sum", totals["sum"])
    print("greatest", totals["greatest"])


if __name__ == "__main__":
    trio.run(main)
