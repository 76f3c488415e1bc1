"""``terzetto queue`` and ``group``: task queues as a whole."""

from typing import Annotated

import attrs
from cyclopts import App, Parameter

from terzetto.cli._session import Flag, Target
from terzetto.redis import Redis
from terzetto.tasks import Inspector, QueueInfo

app = App(name="queue", help="Task queues: what they hold, their history, pausing.")
group_app = App(name="group", help="Groups in which tasks wait to be aggregated.")

_HERE = Target()
QUEUE_COLUMNS = {
    "queue": "Queue",
    "state": "State",
    "size": "Size",
    "pending": "Pending",
    "active": "Active",
    "latency": "Latency",
    "processed": "Processed",
    "failed": "Failed",
    "error_rate": "Error Rate",
}
_STATES = ("active", "pending", "aggregating", "scheduled", "retry", "archived", "completed")

Force = Annotated[bool, Parameter(alias="-f", negative="")]


def count_queue(info: QueueInfo) -> dict[str, object]:
    """Return what a queue has, as counts."""
    return {
        **attrs.asdict(info),
        "size": info.size,
        "state": "paused" if info.is_paused else "run",
        "error_rate": error_rate(info.processed, info.failed),
    }


def error_rate(processed: int, failed: int) -> str:
    """Return how many of the attempts failed, as asynq shows it."""
    return f"{100 * failed / processed:.2f}%" if processed else "N/A"


async def count_queues(redis: Redis) -> list[dict[str, object]]:
    """Return the counts of all queues."""
    return [count_queue(info) for info in await Inspector(redis).queue_infos()]


@app.command
async def ls(*, cluster: Flag = False, target: Target = _HERE) -> None:
    """List the queues there are.

    Args:
        cluster: Show which slot of the Redis Cluster and which nodes hold each.
    """
    async with target.connect() as redis:
        if not cluster:
            target.output.show_table(QUEUE_COLUMNS, await count_queues(redis), "No queues")
            return
        inspector = Inspector(redis)
        rows: list[dict[str, object]] = []
        for queue in await inspector.list_queues():
            nodes = await inspector.cluster_nodes(queue)
            rows.append(
                {
                    "queue": queue,
                    "slot": inspector.key_slot(queue),
                    "nodes": [attrs.asdict(node) for node in nodes],
                    "shown": ", ".join(f"{node.address} {node.id}" for node in nodes),
                }
            )
    target.output.show_table(
        {"queue": "Queue", "slot": "Cluster KeySlot", "shown": "Cluster Nodes"}, rows, "No queues"
    )


@app.command
async def inspect(*queues: str, target: Target = _HERE) -> None:
    """Show queues: their tasks by state, and what they did today.

    Args:
        queues: The queues.
    """
    async with target.connect() as redis:
        inspector = Inspector(redis)
        infos = [await inspector.queue_info(queue, memory=True) for queue in queues]
    records = [count_queue(info) for info in infos]
    if target.json:
        target.output.say("", records[0] if len(records) == 1 else {"queues": records})
        return
    for number, record in enumerate(records):
        print("\n" * 2 if number else "", end="")
        target.output.show_record(
            {
                "queue": "Name",
                "size": "Size",
                "groups": "Groups",
                "is_paused": "Paused",
                "latency": "Latency",
                "memory": "Memory",
            },
            {**record, "memory": f"{record['memory']} B"},
        )
        print()
        target.output.show_table({state: state for state in _STATES}, [record], "")
        print()
        today = {"processed": "processed", "failed": "failed", "error_rate": "error rate"}
        target.output.show_table(today, [record], "")


@app.command
async def history(
    *queues: str, days: Annotated[int, Parameter(alias="-x")] = 10, target: Target = _HERE
) -> None:
    """Show how many attempts of queues ended on each day, today first.

    Args:
        queues: The queues.
        days: How many days.
    """
    async with target.connect() as redis:
        inspector = Inspector(redis)
        rows = [
            {
                "queue": queue,
                "date": each.day.isoformat(),
                "processed": each.processed,
                "failed": each.failed,
                "error_rate": error_rate(each.processed, each.failed),
            }
            for queue in queues
            for each in await inspector.history(queue, days=days)
        ]
    target.output.show_table(
        {
            "queue": "queue",
            "date": "date (UTC)",
            "processed": "processed",
            "failed": "failed",
            "error_rate": "error rate",
        },
        rows,
        "",
    )


@app.command
async def pause(*queues: str, target: Target = _HERE) -> None:
    """Keep the tasks of queues from being started.

    Args:
        queues: The queues.
    """
    async with target.connect() as redis:
        for queue in queues:
            done = await Inspector(redis).pause_queue(queue)
            said = "Successfully paused" if done else "Already paused was"
            target.output.tell(f'{said} queue "{queue}"', {"queue": queue, "paused": True})


@app.command(alias="unpause")
async def resume(*queues: str, target: Target = _HERE) -> None:
    """Let the tasks of queues be started again.

    Args:
        queues: The queues.
    """
    async with target.connect() as redis:
        for queue in queues:
            done = await Inspector(redis).resume_queue(queue)
            said = "Successfully unpaused" if done else "Not paused was"
            target.output.tell(f'{said} queue "{queue}"', {"queue": queue, "paused": False})


@app.command(alias=("remove", "delete"))
async def rm(*queues: str, force: Force = False, target: Target = _HERE) -> None:
    """Delete queues.

    Args:
        queues: The queues.
        force: With the tasks that they hold.
    """
    async with target.connect() as redis:
        for queue in queues:
            await Inspector(redis).delete_queue(queue, force=force)
            target.output.tell(
                f'Successfully removed queue "{queue}"', {"queue": queue, "removed": True}
            )


@group_app.command(name="ls", alias="list")
async def ls_groups(
    *, queue: Annotated[str, Parameter(alias="-q")], target: Target = _HERE
) -> None:
    """List the groups of a queue.

    Args:
        queue: The queue.
    """
    async with target.connect() as redis:
        groups = await Inspector(redis).list_groups(queue)
    target.output.show_table(
        {"group": "Group", "size": "Size"},
        [attrs.asdict(each) for each in groups],
        f'No groups found in queue "{queue}"',
    )
