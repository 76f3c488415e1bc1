"""A process of a scenario: one node with one worker, whose jobs write down that they live.

Arguments: URL, pool, name, file of events, TTL and grace in seconds. It says
"ready" once jobs may come, "rolled" when a roll call (a line on its standard
input) has been answered by every job, and leaves the pool when its input ends.
"""

import sys
from functools import partial
from pathlib import Path

import attrs
import trio
import trio.testing

import terzetto
from terzetto import pool
from tests.faults.record import Kind, Recorder, keep_time, say


@attrs.define
class Jobs:
    """The jobs that run here."""

    name: str
    recorder: Recorder
    roll_call: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until stopped."""
        write = partial(self.recorder.write, self.name, job.key)
        write(Kind.STARTED)
        try:
            task_status.started()
            while True:
                await self.roll_call.wait()
                write(Kind.ANSWERED)
        finally:
            write(Kind.ENDED)

    async def call_roll(self) -> None:
        """Ask all jobs for a sign of life; return when nobody else will answer."""
        roll_call, self.roll_call = self.roll_call, trio.Event()
        roll_call.set()
        # What was woken up runs before this task does, but for what is being cancelled.
        await trio.testing.wait_all_tasks_blocked()


async def main(*arguments: str) -> None:
    """Take part until standard input ends."""
    url, name_of_pool, name, events, ttl, grace = arguments
    recorder = Recorder(Path(events))
    jobs = Jobs(name, recorder)
    async with (
        terzetto.connect(url, max_backoff=float(ttl) / 4) as redis,
        pool.open_node(
            name_of_pool, redis, worker_ttl=float(ttl), ack_grace_period=float(grace)
        ) as node,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(keep_time, recorder, name)
        await node.add_worker(jobs.run)
        say("ready")
        stdin = trio.lowlevel.FdStream(sys.stdin.fileno())
        while await stdin.receive_some():
            await jobs.call_roll()
            say("rolled")
        nursery.cancel_scope.cancel()
    recorder.close()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
