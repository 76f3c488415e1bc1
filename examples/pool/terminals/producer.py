"""A producer in a terminal of its own: ``python -m examples.pool.terminals.producer URL``.

It joins the pool to dispatch, notify and stop only, and runs no job itself. The calls are
the same whichever process the job is in.
"""

import sys

import trio

import terzetto
from terzetto import pool


async def main(url: str) -> None:
    """Start four jobs, notify one of them, refuse to start one twice, stop them."""
    async with (
        terzetto.connect(url) as redis,
        pool.open_node("example", redis, client_only=True) as node,
    ):
        keys = [f"job-{letter}" for letter in "abcd"]
        for key in keys:
            await node.dispatch(key, f"payload of {key}".encode())
        print("running:", *await node.job_keys())
        try:
            await node.dispatch("job-a", b"again")
        except pool.JobExistsError as error:
            print(error)
        await node.notify("job-b", b"hello")
        await trio.sleep(0.5)  # a job that is stopped at once may not read it any more
        for key in keys:
            await node.stop_job(key)
        while await node.job_keys():  # noqa: ASYNC110 - what is asked for is in Redis
            await trio.sleep(0.01)
        print("running:", *await node.job_keys())


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
