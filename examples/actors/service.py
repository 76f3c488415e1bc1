"""A small service as one supervision tree: the end of the tutorial's chapter on actors.

Run it with ``python -m examples.actors.service``. A counter of visits, a page
that asks it, and a reporter that crashes once, are started in order, restarted
and stopped in order. SIGTERM closes the tree: here it sends that to itself.
"""

import os
import signal
import sys

import attrs
import trio

from terzetto.actor import (
    Actor,
    Child,
    Context,
    Ref,
    Stop,
    Supervisor,
    Tree,
    open_tree,
    render,
    serve,
)


@attrs.define
class Visits:
    """State that outlives restarts: the factories below capture it."""

    total: int = 0
    reports: int = 0
    seconds_between_reports: float = 3600.0


@attrs.define
class Counter(Actor):
    """Counts visits."""

    visits: Visits

    async def add(self) -> int:
        """Count one visit, and return how many there were."""
        self.visits.total += 1
        return self.visits.total

    async def stopping(self, reason: Stop) -> None:
        """Say that this is the last one to stop."""
        print(f"counter stops, {reason.value}, at {self.visits.total} visits")


@attrs.define
class Reporter(Actor):
    """Reports now and then; the first report crashes."""

    visits: Visits

    async def started(self, ctx: Context["Reporter"]) -> None:
        """Begin to report."""
        ctx.every(self.visits.seconds_between_reports, Reporter.report)

    async def report(self) -> None:
        """Report, or crash."""
        self.visits.reports += 1
        if self.visits.reports == 1:
            raise RuntimeError("the first report fails")
        if self.visits.reports == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    async def stopping(self, reason: Stop) -> None:
        """Say why."""
        print(f"reporter stops, {reason.value}")


def tree(visits: Visits) -> Tree:
    """Describe the service: what it is made of, in order of start."""
    return Tree(
        name="shop",
        strategy="rest_for_one",
        children=(
            Child(lambda: Counter(visits), name="counter", restart="permanent"),
            Tree(
                name="background",
                children=(Child(lambda: Reporter(visits), name="reporter", grace=1.0),),
            ),
        ),
    )


async def look(top: Supervisor) -> None:
    """Use the service, and draw it."""
    counter: Ref[Counter] = top.get("counter", Counter)
    for _ in range(3):
        await counter.ask(Counter.add)
    print(render(top))


async def main() -> int:
    """Look at the tree in a block first; then run it as a process."""
    visits = Visits()
    async with open_tree(tree(visits)) as top:
        await look(top)
    visits.seconds_between_reports = 0.01
    return await serve(tree(visits))


if __name__ == "__main__":
    sys.exit(trio.run(main))
