"""A process with a node, a worker and a ticker, whose clock a test steps.

Arguments: URL, pool, TTL and grace in seconds, interval of the ticker. It says
"ready", "start KEY", "stop KEY" and "tick MICROSECONDS" as they happen, and
"clock SECONDS" for each line on its standard input; it leaves when that ends.
"""

import sys
import time

import trio

import terzetto
from terzetto import pool


def say(text: str) -> None:
    """Write a line that the test reads at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def run(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
    """Run until stopped."""
    say(f"start {job.key}")
    try:
        task_status.started()
        await trio.sleep_forever()
    finally:
        say(f"stop {job.key}")


async def say_ticks(node: pool.Node, interval: float) -> None:
    """Say when a tick comes."""
    async with node.open_ticker("t", interval) as ticker:
        async for tick in ticker:
            say(f"tick {round(tick.timestamp() * 1e6)}")


async def main(*arguments: str) -> None:
    """Take part until standard input ends."""
    url, name, ttl, grace, interval = arguments
    async with (
        terzetto.connect(url) as redis,
        pool.open_node(name, redis, worker_ttl=float(ttl), ack_grace_period=float(grace)) as node,
        trio.open_nursery() as nursery,
    ):
        await node.add_worker(run)
        nursery.start_soon(say_ticks, node, float(interval))
        say("ready")
        stdin = trio.lowlevel.FdStream(sys.stdin.fileno())
        while await stdin.receive_some():
            say(f"clock {time.time()}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
