"""A producer and workers: jobs run where a worker is, and end when they are done.

Run it with ``python -m examples.pool.producer_worker``. In real life producer and
worker are programs of their own, on one Redis; here they share a process, each
with a client of its own. The producer joins as a client only, so it runs nothing.
"""

import trio

import terzetto
from terzetto import pool


async def resize(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
    """Pretend to resize an image; refuse what is none."""
    if not job.payload.startswith(b"image"):
        raise ValueError(f"{job.key} is no image")
    task_status.started()
    await trio.sleep(0.01)


async def main() -> None:
    """Send images to two workers, one of them broken."""
    async with (
        terzetto.connect("embedded://") as redis,
        pool.open_node("images", redis) as node,
        pool.open_node("images", redis, client_only=True) as producer,
    ):
        await node.add_worker(resize)
        await node.add_worker(resize)
        jobs = [(f"picture-{number}", b"image") for number in range(5)]
        outcomes = await producer.dispatch_many([*jobs, ("letter", b"text")])
        for key, error in outcomes.items():
            print(key, "started" if error is None else error)
        while await producer.job_keys():  # noqa: ASYNC110 - what is asked for is in Redis
            await trio.sleep(0.01)
        print("left:", await producer.job_keys())
        await node.shutdown()


if __name__ == "__main__":
    trio.run(main)
