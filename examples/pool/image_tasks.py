"""Asynchronous image tasks: queue them, go on, and find the thumbnails in a replicated map.

Run it with ``python -m examples.pool.image_tasks``. A task that nobody can carry out is refused
at the dispatcher; one that crashes is tried again, then put aside as a dead letter, and
dispatched again once the cause is mended.
"""

import attrs
import trio

import terzetto
from terzetto import pool, rmap
from terzetto.codec import json_codec


@attrs.frozen
class ImageTask:
    """What a job is to do: shrink a picture to a width."""

    picture: str
    width: int


task_codec = json_codec(ImageTask)


def shrink(pixels: bytes, width: int) -> bytes:
    """Return a grey line of pixels at a width, each the mean of those it stands for."""
    span = len(pixels) / width
    parts = [pixels[round(i * span) : round((i + 1) * span)] for i in range(width)]
    return bytes(sum(part) // len(part) for part in parts)


@attrs.define(eq=False)
class Thumbnailer:
    """Has the pictures, and puts thumbnails into a map that every process has a copy of."""

    pictures: dict[str, bytes]
    thumbnails: rmap.Map

    async def run(self, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        """Carry out one task; what is raised before it has started refuses it."""
        task = task_codec.decode(job.payload)
        if task.width < 1:
            raise ValueError(f"no picture is {task.width} wide")
        task_status.started()  # the producer goes on from here
        pixels = self.pictures[task.picture]
        thumbnail = await trio.to_thread.run_sync(shrink, pixels, task.width)
        await self.thumbnails.set(job.key, thumbnail.hex())


async def main() -> None:
    """Queue tasks, two of which cannot work, and mend one of these."""
    pictures = {f"picture-{number}": bytes(range(number, number + 64)) for number in range(3)}
    async with (
        terzetto.connect("embedded://") as redis,
        rmap.join("thumbnails", redis) as thumbnails,
        pool.open_node("images", redis) as node,
        pool.open_node("images", redis, client_only=True) as producer,
    ):
        thumbnailer = Thumbnailer(pictures, thumbnails)
        await node.add_worker(thumbnailer.run, max_restarts=1, backoff=0.01)
        tasks = {f"task-{name[-1]}": ImageTask(name, 4) for name in [*pictures, "picture-9"]}
        tasks["task-x"] = ImageTask("picture-0", 0)
        outcomes = await producer.dispatch_many(
            (key, task_codec.encode(task)) for key, task in tasks.items()
        )
        for key, error in outcomes.items():
            print(key, "queued" if error is None else error)
        await thumbnails.wait_for(lambda found: len(found) == 3)
        for key in sorted(thumbnails):
            print(key, thumbnails[key])
        while not (letters := await producer.dead_letters()):  # noqa: ASYNC110 - it is in Redis
            await trio.sleep(0.01)
        print("dead letter:", letters[0].key, letters[0].error)
        pictures["picture-9"] = bytes(64)
        await producer.retry_dead_letter("task-9")
        await thumbnails.wait_for(lambda found: "task-9" in found)
        print("mended:", thumbnails["task-9"], await producer.dead_letters())
        await node.shutdown()


if __name__ == "__main__":
    trio.run(main)
