"""Enqueue tasks into three queues, each of which lives on a node of its own.

$ python -m examples.cluster.client
"""

import trio

import terzetto
from examples.cluster.queues import EACH, QUEUES, URL
from terzetto.tasks import Client, Task


async def main() -> None:
    """Enqueue."""
    async with terzetto.connect(URL) as redis:
        client = Client(redis)
        for queue in QUEUES:
            await client.enqueue_many(
                [Task(f"{queue}:send", {"number": number}) for number in range(EACH)], queue=queue
            )
            print(f"enqueued {EACH} tasks to {queue}")


if __name__ == "__main__":
    trio.run(main)
