"""A pipeline with back-pressure: each stage waits for the next, and nothing piles up.

Run it with ``python -m examples.actors.pipeline``. Mailboxes hold two messages,
so a source of 1,000 lines is never more than a few lines ahead of the slowest
stage. Shutting down from the first stage on drains all of it.
"""

from collections.abc import AsyncGenerator

import attrs
import trio

from terzetto.actor import Actor, Ref, feed, open_supervisor

LINES = 1_000
MAILBOX = 2


@attrs.define
class Totals:
    """What the stages have done; it lives outside of them, so that restarts keep it."""

    read: int = 0
    summed: int = 0
    sum: int = 0
    furthest_ahead: int = 0


@attrs.define
class Summer(Actor):
    """The last stage, and the slowest."""

    totals: Totals

    async def add(self, number: int) -> None:
        """Add a number."""
        await trio.lowlevel.checkpoint()
        self.totals.summed += 1
        self.totals.sum += number


@attrs.define
class Parser(Actor):
    """The middle stage: turns lines into numbers, and drops what is none."""

    following: Ref[Summer]

    async def parse(self, line: str) -> None:
        """Pass on the number in `line`; wait until there is room for it."""
        if line.strip().isdigit():
            await self.following.tell(Summer.add, int(line))


async def lines(totals: Totals) -> AsyncGenerator[str]:
    """Produce lines as fast as they are taken."""
    for number in range(LINES):
        totals.read += 1
        totals.furthest_ahead = max(totals.furthest_ahead, totals.read - totals.summed)
        yield f"{number}\n"


async def main() -> None:
    """Run 1,000 lines through the pipeline."""
    totals = Totals()
    async with open_supervisor() as top:
        summer = await top.spawn(lambda: Summer(totals), name="summer", mailbox=MAILBOX)
        parser = await top.spawn(lambda: Parser(summer), name="parser", mailbox=MAILBOX)
        fed = await feed(parser, Parser.parse, lines(totals))
        await parser.shutdown()
        await summer.shutdown()
    print(f"fed {fed} lines, summed {totals.summed}: {totals.sum}")
    print(f"never more than 10 lines ahead: {totals.furthest_ahead <= 10}")


if __name__ == "__main__":
    trio.run(main)
