"""Functions that compute run in processes, and are killed when they are cancelled.

Run it with ``python -m examples.tasks.primes``. The event loop goes on meanwhile: the
leases of the tasks are renewed, and other tasks are served.
"""

import trio

import terzetto
from terzetto import tasks

router = tasks.Router()


@router.task("primes:count", run_in="process")
def count_primes(below: int) -> int:
    """Count the primes below a number, slowly."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below))


@router.task("primes:forever", run_in="process")
def never_end(_: bytes) -> None:
    """Compute until the process is killed."""
    while True:
        pass


async def main() -> None:
    """Count in two processes, and cancel a third computation."""
    async with (
        terzetto.connect("embedded://") as redis,
        tasks.open_server(redis, concurrency=3) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        client = tasks.Client(redis)
        endless = await client.enqueue(tasks.Task("primes:forever"), timeout=2, max_retry=0)
        handles = [
            await client.enqueue(tasks.Task("primes:count", below), retention=3600)
            for below in (100, 20_000)
        ]
        for handle in handles:
            print("primes:", (await handle.result() or b"").decode())
        try:
            await endless.result()
        except tasks.TaskFailedError as error:
            print(error.error)
        await server.shutdown()


if __name__ == "__main__":
    trio.run(main)
