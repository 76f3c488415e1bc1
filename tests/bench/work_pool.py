"""A process with a worker, for the bench to dispatch to, or to kill.

Arguments: URL, pool, TTL and grace in seconds.
"""

import sys

import trio

import terzetto
from terzetto import pool


class Idle:
    """A handler whose jobs do nothing."""

    async def start(self, _: pool.Job) -> None:
        """Start at once."""

    async def stop(self, _: str) -> None:
        """Stop at once."""


async def main(*arguments: str) -> None:
    """Take part until killed."""
    url, name, ttl, grace = arguments
    async with (
        terzetto.connect(url) as redis,
        pool.open_node(name, redis, worker_ttl=float(ttl), ack_grace_period=float(grace)) as node,
    ):
        await node.add_worker(Idle())
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
