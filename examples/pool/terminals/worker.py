"""A worker in a terminal of its own: ``python -m examples.pool.terminals.worker URL NAME``.

It runs whatever the pool gives it, and says so, until Ctrl-C or SIGTERM; then its jobs
go to the workers that remain. Start it in as many terminals as you like.
"""

import signal
import sys

import trio

import terzetto
from terzetto import pool


async def work(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
    """Run one job until it is stopped; say what happens to it."""
    print("start", job.key, job.payload.decode(), flush=True)
    task_status.started()
    try:
        async for note in job.notifications:
            print("note", job.key, note.decode(), flush=True)
    finally:
        print("stop", job.key, flush=True)


async def main(url: str, name: str) -> None:
    """Serve the pool until a signal comes."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with terzetto.connect(url) as redis, pool.open_node("example", redis) as node:
            await node.add_worker(work)
            print("worker", name, "is ready", flush=True)
            async for _ in signals:
                break
        print("worker", name, "has left", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
