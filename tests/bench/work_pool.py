"""A process with a worker, for the bench to kill. Arguments: URL, pool, TTL in seconds."""

import sys

import trio

import terzetto
from terzetto import pool


async def run(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
    """Run until stopped."""
    task_status.started()
    await trio.sleep_forever()


async def main(*arguments: str) -> None:
    """Take part until killed."""
    url, name, ttl = arguments
    async with (
        terzetto.connect(url) as redis,
        pool.open_node(name, redis, worker_ttl=float(ttl), ack_grace_period=float(ttl)) as node,
    ):
        await node.add_worker(run)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
