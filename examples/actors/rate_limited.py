"""A rate-limited worker: so many messages in each interval, the rest waits in the mailbox.

Run it with ``python -m examples.actors.rate_limited``. Tokens are refilled by a
timer that arrives as a message. A caller takes a token before it calls; when
there is none, its question is kept and answered by a later refill, so no handler
waits and callers are served in order.
"""

from collections import deque

import attrs
import trio

from terzetto.actor import Actor, Context, Message, open_supervisor


@attrs.define
class Limiter(Actor):
    """Grants `limit` calls in each interval of `seconds`, in the order they were asked for."""

    limit: int
    seconds: float
    tokens: int = 0
    intervals: int = 0
    waiting: deque[Message] = attrs.field(factory=deque[Message])

    async def run(self, ctx: Context["Limiter"], inbox: trio.MemoryReceiveChannel[Message]) -> None:
        """Keep the questions that cannot be answered yet."""
        self.tokens = self.limit
        ctx.every(self.seconds, Limiter.refill)
        async for message in inbox:
            if message.method is Limiter.take:
                self.waiting.append(message)
            else:
                await message.handle(self)
            while self.tokens and self.waiting:
                asker = self.waiting.popleft()
                if asker.is_asked:  # it may have left meanwhile
                    self.tokens -= 1
                    asker.answer(self.intervals)

    async def take(self) -> int:
        """Return the number of the interval once there is a token; `run` answers instead."""
        return self.intervals

    async def refill(self) -> None:
        """Begin a new interval."""
        self.tokens = self.limit
        self.intervals += 1


async def main() -> None:
    """Let 10 callers through a limit of 4 calls in each 0.2 s."""
    async with open_supervisor() as top:
        limiter = await top.spawn(lambda: Limiter(limit=4, seconds=0.2), name="limiter")
        served: list[int] = []

        async def call() -> None:
            served.append(await limiter.ask(Limiter.take))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(call)
        for interval in range(3):
            print(f"interval {interval}: {served.count(interval)} calls")

        with trio.move_on_after(0.01) as impatient:
            for _ in range(10):
                await limiter.ask(Limiter.take)
        print(f"a caller that does not want to wait leaves: {impatient.cancelled_caught}")


if __name__ == "__main__":
    trio.run(main)
