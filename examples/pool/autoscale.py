"""Autoscaling by queue age: workers are added while jobs wait too long, and go when none does.

Run it with ``python -m examples.pool.autoscale``. Each worker has a few slots; a job that finds
them taken waits, and how long the oldest has waited says whether there are enough workers. In
real life the loop starts and stops processes or containers; here it adds and closes workers of
one node, which moves the jobs in the same way.
"""

from functools import partial

import attrs
import trio

import terzetto
from terzetto import pool

SLOTS = 4
TOO_LONG = 0.1  # seconds that a job may wait; a minute in real life
MOST = 4
LOOK_EVERY = 0.05


@attrs.define(eq=False)
class Queue:
    """What waits for a slot, and what is done."""

    waiting: dict[str, float] = attrs.field(factory=dict[str, float])
    done: set[str] = attrs.field(factory=set[str])

    @property
    def age(self) -> float:
        """How long the oldest job has waited, in seconds."""
        return max((trio.current_time() - since for since in self.waiting.values()), default=0)

    async def run(
        self, slots: trio.CapacityLimiter, job: pool.Job, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Wait for a slot, then do what is to be done."""
        self.waiting[job.key] = trio.current_time()
        try:
            await slots.acquire_on_behalf_of(job)
        finally:
            del self.waiting[job.key]
        try:
            task_status.started()
            await trio.sleep(0.05)
            self.done.add(job.key)
        finally:
            slots.release_on_behalf_of(job)


@attrs.define(eq=False)
class Scaler:
    """Adds and closes workers; `most` is how many there were at a time."""

    node: pool.Node
    queue: Queue
    most: int = 0

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep at least one worker, and as many as it takes."""
        await self.grow()
        task_status.started()
        while True:
            await trio.sleep(LOOK_EVERY)
            workers = self.node.workers
            if self.queue.age > TOO_LONG and len(workers) < MOST:
                await self.grow()
            elif not self.queue.waiting and len(workers) > 1:
                await workers[-1].close()

    async def grow(self) -> None:
        """Add a worker with slots of its own."""
        await self.node.add_worker(partial(self.queue.run, trio.CapacityLimiter(SLOTS)))
        self.most = max(self.most, len(self.node.workers))


async def main() -> None:
    """Let a burst of jobs come, and wait until it is worked off."""
    queue = Queue()
    keys = [f"job-{number}" for number in range(300)]
    async with (
        terzetto.connect("embedded://") as redis,
        pool.open_node("burst", redis) as node,
        trio.open_nursery() as nursery,
    ):
        scaler = Scaler(node, queue)
        await nursery.start(scaler.run)
        print("workers before the burst:", len(node.workers))
        outcomes = await node.dispatch_many((key, b"") for key in keys)
        print("refused:", sum(error is not None for error in outcomes.values()))
        while len(node.workers) > 1 or queue.done != set(keys):  # noqa: ASYNC110 - set by tasks
            await trio.sleep(LOOK_EVERY)
        print("workers were added:", scaler.most > 1)
        print("workers after it:", len(node.workers))
        print("done:", len(queue.done), "of", len(keys))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
