"""Many notifications become one mail: a group of tasks is aggregated.

Run it with ``python -m examples.tasks.digest``. A group is complete after five tasks, or
when nothing has joined it for a second.
"""

from collections.abc import Sequence

import trio

import terzetto
from terzetto import tasks

router = tasks.Router()
mails: list[str] = []


@router.task("email:digest")
async def send_digest(payload: bytes) -> None:
    """Send one mail."""
    await trio.lowlevel.checkpoint()
    mails.append(payload.decode())


async def aggregate(group: str, notes: Sequence[tasks.TaskMessage]) -> tasks.Task:
    """Make one task of the tasks of a group."""
    await trio.lowlevel.checkpoint()
    texts = [note.payload.decode() for note in notes]
    return tasks.Task("email:digest", f"{group}, {len(texts)} notes".encode())


async def main() -> None:
    """Notify two users."""
    grouping = tasks.Grouping(aggregate=aggregate, max_size=5, grace=1.0)
    async with (
        terzetto.connect("embedded://") as redis,
        tasks.open_server(redis, grouping=grouping) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        client = tasks.Client(redis)
        for number in range(7):
            await client.enqueue(tasks.Task("notify", b"note %d" % number), group="ann")
        await client.enqueue(tasks.Task("notify", b"welcome"), group="bob")
        while len(mails) < 3:  # noqa: ASYNC110 - filled by the task function
            await trio.sleep(0.01)
        await server.shutdown()
    for mail in sorted(mails):
        print(mail)


if __name__ == "__main__":
    trio.run(main)
