"""Two instances of one sink share the work; another sink gets all of it again.

Run it with ``python -m examples.streaming.many_sinks``; it starts a server of its own.
"""

from collections import Counter

import trio

import terzetto
from terzetto.streaming import OLDEST, Event, Stream

EVENTS = 60


async def main() -> None:
    """Let three instances of two sinks work side by side."""
    seen: Counter[str] = Counter()
    by_instance: Counter[str] = Counter()
    async with terzetto.connect("embedded://") as redis:
        orders = Stream("orders", redis)
        async with trio.open_nursery() as nursery:

            async def work(sink_name: str, instance: str) -> None:
                async def handler(_: Event) -> None:
                    await trio.sleep(0.005)
                    by_instance[instance] += 1
                    seen[sink_name] += 1
                    if seen.total() == 2 * EVENTS:
                        nursery.cancel_scope.cancel()

                async with orders.open_sink(sink_name, start=OLDEST, buffer_size=4) as sink:
                    await sink.handle(handler, concurrency=2)

            nursery.start_soon(work, "billing", "billing 1")
            nursery.start_soon(work, "billing", "billing 2")
            nursery.start_soon(work, "audit", "audit 1")
            await orders.add_many([("order.placed", b"")] * EVENTS)
    print("billing saw", seen["billing"], "events, audit", seen["audit"])
    print("both instances had work:", by_instance["billing 1"] > 0 < by_instance["billing 2"])


if __name__ == "__main__":
    trio.run(main)
