"""``terzetto queue`` and ``group``: task queues as a whole."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import attrs
from cyclopts import App, Parameter
from redis.exceptions import ResponseError

from terzetto.cli._output import Bytes, Output, Record, Seen
from terzetto.cli._session import Flag, Names, Target, do_each, look_at_each
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
_RULE: Final = 49  # characters between two queues, as in asynq
_STATES = ("active", "pending", "aggregating", "scheduled", "retry", "archived", "completed")

Force = Annotated[bool, Parameter(alias="-f", negative="")]


def count_queue(info: QueueInfo) -> dict[str, object]:
    """Return what a queue has, as counts."""
    return {
        **attrs.asdict(info),
        "size": info.size,
        "memory": None if info.memory is None else Bytes(info.memory),
        "state": "paused" if info.is_paused else "run",
        "error_rate": error_rate(info.processed, info.failed),
    }


def error_rate(processed: int, failed: int) -> str:
    """Return how many of the attempts failed, as asynq shows it."""
    return f"{100 * failed / processed:.2f}%" if processed else "N/A"


async def count_queues(redis: Redis, *, memory: bool = False) -> Seen:
    """Return the counts of all queues; with `memory`, also how much each takes."""
    inspector = Inspector(redis)

    async def look(queue: str) -> dict[str, object]:
        return count_queue(await inspector.queue_info(queue, memory=memory))

    try:
        infos = await inspector.queue_infos(memory=memory)
    except ResponseError:  # a key of one of them is not what it should be: each for itself
        return await look_at_each(await inspector.list_queues(), look)
    return Seen([count_queue(info) for info in infos])


@app.command(alias="list")
async def ls(*, cluster: Flag = False, target: Target = _HERE) -> int:
    """List the queues there are.

    Args:
        cluster: Show which slot of the Redis Cluster and which nodes hold each.
    """
    async with target.connect() as redis:
        if cluster:
            await _show_nodes(Inspector(redis), target)
            return 0
        seen = await count_queues(redis, memory=True)
    return target.output.show_seen({**QUEUE_COLUMNS, "memory": "Memory"}, seen, "No queues")


async def _show_nodes(inspector: Inspector, target: Target) -> None:
    """Show which slot of the cluster and which nodes hold each queue."""
    rows: list[dict[str, Any]] = [
        {
            "queue": queue,
            "slot": inspector.key_slot(queue),
            "nodes": [attrs.asdict(node) for node in await inspector.cluster_nodes(queue)],
        }
        for queue in await inspector.list_queues()
    ]
    if not target.json:
        for row in rows:
            row["nodes"] = ", ".join("{address} {id}".format_map(node) for node in row["nodes"])
    target.output.show_table(
        {"queue": "Queue", "slot": "Cluster KeySlot", "nodes": "Cluster Nodes"}, rows, "No queues"
    )


@app.command
async def inspect(*queues: Names, target: Target = _HERE) -> int:
    """Show queues: their tasks by state, and what they did today.

    Args:
        queues: The queues.
    """
    records: list[dict[str, object]] = []
    async with target.connect() as redis:
        inspector = Inspector(redis)

        async def look(queue: str) -> None:
            records.append(count_queue(await inspector.queue_info(queue, memory=True)))

        code = await do_each(queues, look)
    if target.json:
        if records:
            target.output.say("", records[0] if len(queues) == 1 else {"queues": records})
        return code
    for number, record in enumerate(records):
        if number:
            print("\n" + "=" * _RULE + "\n")
        _show_queue(target.output, record)
    return code


def _show_queue(output: Output, record: Record) -> None:
    output.show_title("Queue Info")
    output.show_record(
        {
            "queue": "Name",
            "size": "Size",
            "groups": "Groups",
            "is_paused": "Paused",
            "latency": "Latency",
            "memory": "Memory",
        },
        record,
    )
    print()
    output.show_title("Task Count by State")
    output.show_table({state: state for state in _STATES}, [record], "")
    print()
    output.show_title(f"Daily Stats {datetime.fromtimestamp(record['at'], UTC):%Y-%m-%d} UTC")
    today = {"processed": "processed", "failed": "failed", "error_rate": "error rate"}
    output.show_table(today, [record], "")


@app.command
async def history(
    *queues: Names, days: Annotated[int, Parameter(alias="-x")] = 10, target: Target = _HERE
) -> int:
    """Show how many attempts of queues ended on each day, today first.

    Args:
        queues: The queues.
        days: How many days.
    """
    rows: list[dict[str, object]] = []
    async with target.connect() as redis:
        inspector = Inspector(redis)

        async def look(queue: str) -> None:
            rows.extend(
                {
                    "queue": queue,
                    "date": each.day.isoformat(),
                    "processed": each.processed,
                    "failed": each.failed,
                    "error_rate": error_rate(each.processed, each.failed),
                }
                for each in await inspector.history(queue, days=days)
            )

        code = await do_each(queues, look)
    if rows:
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
    return code


@app.command
async def pause(*queues: Names, target: Target = _HERE) -> int:
    """Keep the tasks of queues from being started.

    Args:
        queues: The queues.
    """
    async with target.connect() as redis:
        inspector = Inspector(redis)

        async def change(queue: str) -> None:
            done = await inspector.pause_queue(queue)
            said = "Successfully paused" if done else "Already paused was"
            target.output.tell(f'{said} queue "{queue}"', {"queue": queue, "paused": True})

        return await do_each(queues, change)


@app.command(alias="unpause")
async def resume(*queues: Names, target: Target = _HERE) -> int:
    """Let the tasks of queues be started again.

    Args:
        queues: The queues.
    """
    async with target.connect() as redis:
        inspector = Inspector(redis)

        async def change(queue: str) -> None:
            done = await inspector.resume_queue(queue)
            said = "Successfully unpaused" if done else "Not paused was"
            target.output.tell(f'{said} queue "{queue}"', {"queue": queue, "paused": False})

        return await do_each(queues, change)


@app.command(alias=("remove", "delete"))
async def rm(*queues: Names, force: Force = False, target: Target = _HERE) -> int:
    """Delete queues.

    Args:
        queues: The queues.
        force: With the tasks that they hold.
    """
    async with target.connect() as redis:
        inspector = Inspector(redis)

        async def remove(queue: str) -> None:
            await inspector.delete_queue(queue, force=force)
            target.output.tell(
                f'Successfully removed queue "{queue}"', {"queue": queue, "removed": True}
            )

        return await do_each(queues, remove)


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
