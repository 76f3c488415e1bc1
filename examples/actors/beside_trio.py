"""Actors beside plain trio code: one actor in a nursery of yours, and channels at its edges.

Run it with ``python -m examples.actors.beside_trio``. No supervisor is needed:
`run_actor` runs in any nursery, its crash is the nursery's, and cancelling the
nursery closes it. Code that knows trio's channels only is given one.
"""

import attrs
import trio

from terzetto.actor import Actor, Context, Ref, Stop, as_channel, run_actor


@attrs.define
class Scores(Actor):
    """Keeps scores, and publishes each new leader on a plain trio channel."""

    leaders: trio.MemorySendChannel[str]
    points: dict[str, int] = attrs.field(factory=dict[str, int])
    leader: str = ""
    ctx: Context["Scores"] | None = None

    async def add(self, entry: tuple[str, int]) -> None:
        """Add points to a player."""
        player, points = entry
        self.points[player] = self.points.get(player, 0) + points
        best = max(self.points, key=lambda name: self.points[name])
        if best != self.leader:
            self.leader = best
            self.leaders.send_nowait(best)

    async def table(self) -> list[tuple[str, int]]:
        """Return all scores, the best first."""
        return sorted(self.points.items(), key=lambda item: -item[1])

    async def stopping(self, reason: Stop) -> None:
        """End the channel, so that its reader ends too."""
        self.leaders.close()


async def play(scores: trio.abc.SendChannel[tuple[str, int]]) -> None:
    """Produce scores; knows trio's channels, and nothing of actors."""
    async with scores:
        for player, points in [("ann", 3), ("bob", 5), ("ann", 1), ("cleo", 9), ("ann", 2)]:
            await scores.send((player, points))


async def announce(leaders: trio.MemoryReceiveChannel[str]) -> None:
    """Print every new leader; plain trio as well."""
    async for player in leaders:
        print(f"{player} leads")


async def main() -> None:
    """Run an actor between a producer and a consumer that know nothing of it."""
    send, receive = trio.open_memory_channel[str](10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce, receive)
        scores: Ref[Scores] = await nursery.start(run_actor, lambda: Scores(send))
        await play(as_channel(scores, Scores.add))
        table = await scores.ask(Scores.table)
        await scores.shutdown()
    print(table)


if __name__ == "__main__":
    trio.run(main)
