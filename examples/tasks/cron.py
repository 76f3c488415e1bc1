"""Two schedulers with the same entries, as in a service of several processes: one task a tick.

Run it with ``python -m examples.tasks.cron``. It ends after the third tick.
"""

import trio

import terzetto
from terzetto import tasks

router = tasks.Router()
ENTRIES = [
    tasks.Periodic("@every 1s", tasks.Task("report:refresh")),
    tasks.Periodic("TZ=Europe/Berlin 30 7 * * MON-FRI", tasks.Task("report:mail"), queue="low"),
]
ran: list[str] = []


@router.task("report:")
async def report(_: bytes, ctx: tasks.TaskContext) -> None:
    """Note which report was asked for."""
    await trio.lowlevel.checkpoint()
    ran.append(ctx.type)


async def main() -> None:
    """Run two schedulers and a server."""
    async with (
        terzetto.connect("embedded://") as redis,
        tasks.open_server(redis, queues={"default": 2, "low": 1}) as server,
        tasks.open_scheduler(redis, entries=ENTRIES) as scheduler,
        tasks.open_scheduler(redis, entries=ENTRIES) as twin,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        print("same entries:", scheduler.entries.keys() == twin.entries.keys())
        while len(ran) < 3:  # noqa: ASYNC110 - filled by the task function
            await trio.sleep(0.01)
        print(*ran)
        await server.shutdown()


if __name__ == "__main__":
    trio.run(main)
