"""``terzetto task``: single tasks, and all of a state."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from time import time
from typing import Annotated, Any

from cyclopts import App, Parameter, Token

from terzetto._shared._durations import parse_duration
from terzetto.cli._output import duration
from terzetto.cli._session import Flag, Names, Payload, Target, read_payload
from terzetto.errors import InvalidOptionError
from terzetto.tasks import Client, Inspector, Task, TaskInfo, TaskOptions, TaskState

app = App(name="task", help="Tasks: listing, running, archiving, deleting, cancelling, enqueueing.")

_HERE = Target()

Queue = Annotated[str, Parameter(alias="-q")]
PayloadOption = Annotated[Payload, Parameter(alias="-l")]
Id = Annotated[str, Parameter(name="--id", alias="-i")]
State = Annotated[TaskState, Parameter(alias="-s")]
Group = Annotated[str | None, Parameter(alias="-g")]


class Duration(float):
    """Seconds; the help has its name for what is to be given."""


_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


def _read_duration(_: type, tokens: Sequence[Token]) -> Duration:
    """Read a duration as Go and asynq write it, or seconds without a unit."""
    text = tokens[0].value
    return Duration(text if _SECONDS.fullmatch(text) else parse_duration(text) / 1e9)


DurationOption = Annotated[Duration | None, Parameter(converter=_read_duration)]

_FIRST = {"id": "ID", "type": "Type", "payload": "Payload"}
_COLUMNS: dict[TaskState, dict[str, str]] = {
    TaskState.ACTIVE: {"is_orphaned": "Orphaned"},
    TaskState.PENDING: {},
    TaskState.AGGREGATING: {"group": "Group"},
    TaskState.SCHEDULED: {"next_in": "Process In"},
    TaskState.RETRY: {
        "next_in": "Next Retry",
        "error": "Last Error",
        "failed_at": "Last Failed",
        "retried": "Retried",
        "max_retry": "Max Retry",
    },
    TaskState.ARCHIVED: {"failed_at": "Last Failed", "error": "Last Error"},
    TaskState.COMPLETED: {"completed_at": "CompletedAt", "result": "Result"},
}


@app.command(alias="list")
async def ls(
    *,
    queue: Queue,
    state: State,
    group: Group = None,
    page: int = 1,
    size: int = 30,
    target: Target = _HERE,
) -> None:
    """List the tasks of a queue that are in a state.

    Args:
        queue: The queue.
        state: Their state.
        group: Their group, if they are aggregating.
        page: Which page, from 1 on.
        size: How many are on a page.
    """
    async with target.connect() as redis:
        found = await Inspector(redis).list_tasks(queue, state, group=group, page=page, size=size)
    empty = f'No {state.value} tasks in "{queue}" queue'
    if group is not None:
        empty = f'No aggregating tasks in group "{group}"'
    rows = [_record(info) for info in found]
    target.output.show_table({**_FIRST, **_COLUMNS[state]}, rows, empty)


@app.command
async def inspect(*, queue: Queue, task_id: Id, target: Target = _HERE) -> None:
    """Show a task with its payload, headers and result.

    Args:
        queue: The queue.
        task_id: The task.
    """
    async with target.connect() as redis:
        record = _record(await Inspector(redis).task_info(queue, task_id))
    titles = {
        "queue": "Queue",
        "id": "ID",
        "type": "Type",
        "state": "State",
        "attempts": "Retried",
        "payload": "Payload",
        "headers": "Headers",
        "group": "Group",
        "next_in": "Next process time",
        "failed_at": "Failed at",
        "error": "Error message",
        "completed_at": "Completed at",
        "result": "Result",
    }
    wanted = {field: title for field, title in titles.items() if record[field] not in (None, "")}
    target.output.show_record(wanted, record)


@app.command
async def cancel(
    *ids: Names,
    queue: Annotated[str | None, Parameter(alias="-q")] = None,
    drop: Flag = False,
    target: Target = _HERE,
) -> None:
    """Ask for running tasks to be cancelled; whether they run is not looked at.

    Args:
        ids: The tasks.
        queue: Only those in this queue; servers of Go's do not hear that.
        drop: They are archived and not tried again; servers of Go's do not hear that.
    """
    async with target.connect() as redis:
        for task_id in ids:
            await Inspector(redis).cancel_task(task_id, queue=queue, drop=drop)
            target.output.tell(
                f"Sent cancellation signal for task {task_id}", {"id": task_id, "sent": True}
            )


@app.command
async def run(*, queue: Queue, task_id: Id, target: Target = _HERE) -> None:
    """Make a task pending.

    Args:
        queue: The queue.
        task_id: The task.
    """
    async with target.connect() as redis:
        await Inspector(redis).run_task(queue, task_id)
    target.output.say("task is now pending", {"queue": queue, "id": task_id, "state": "pending"})


@app.command
async def archive(*, queue: Queue, task_id: Id, target: Target = _HERE) -> None:
    """Give a task up that is not running.

    Args:
        queue: The queue.
        task_id: The task.
    """
    async with target.connect() as redis:
        await Inspector(redis).archive_task(queue, task_id)
    target.output.say("task archived", {"queue": queue, "id": task_id, "state": "archived"})


@app.command(alias=("remove", "rm"))
async def delete(*, queue: Queue, task_id: Id, target: Target = _HERE) -> None:
    """Delete a task that is not running.

    Args:
        queue: The queue.
        task_id: The task.
    """
    async with target.connect() as redis:
        await Inspector(redis).delete_task(queue, task_id)
    target.output.say("task deleted", {"queue": queue, "id": task_id, "deleted": True})


@app.command
async def update(
    *,
    queue: Queue,
    task_id: Id,
    payload: PayloadOption,
    target: Target = _HERE,
) -> None:
    """Give a scheduled task another payload.

    Args:
        queue: The queue.
        task_id: The task.
        payload: The payload; - reads standard input.
    """
    async with target.connect() as redis:
        await Inspector(redis).update_payload(queue, task_id, await read_payload(payload))
    target.output.say("payload updated", {"queue": queue, "id": task_id, "updated": True})


@app.command(alias="runall")
async def run_all(
    *, queue: Queue, state: State, group: Group = None, target: Target = _HERE
) -> None:
    """Make all scheduled, retried, archived or aggregating tasks pending.

    Args:
        queue: The queue.
        state: Their state.
        group: Their group, if they are aggregating.
    """
    async with target.connect() as redis:
        count = await Inspector(redis).run_all(queue, state, group=group)
    target.output.say(f"{count} tasks are now pending", {"queue": queue, "count": count})


@app.command(alias="archiveall")
async def archive_all(
    *, queue: Queue, state: State, group: Group = None, target: Target = _HERE
) -> None:
    """Give up all pending, scheduled, retried or aggregating tasks.

    Args:
        queue: The queue.
        state: Their state.
        group: Their group, if they are aggregating.
    """
    async with target.connect() as redis:
        count = await Inspector(redis).archive_all(queue, state, group=group)
    target.output.say(f"{count} tasks archived", {"queue": queue, "count": count})


@app.command(alias="deleteall")
async def delete_all(
    *, queue: Queue, state: State, group: Group = None, target: Target = _HERE
) -> None:
    """Delete all tasks of a state but active.

    Args:
        queue: The queue.
        state: Their state.
        group: Their group, if they are aggregating.
    """
    async with target.connect() as redis:
        count = await Inspector(redis).delete_all(queue, state, group=group)
    target.output.say(f"{count} tasks deleted", {"queue": queue, "count": count})


@app.command
async def enqueue(
    *,
    type_name: Annotated[str, Parameter(alias="-t")],
    payload: PayloadOption = "",
    queue: Annotated[str | None, Parameter(alias="-q")] = None,
    task_id: Annotated[str | None, Parameter(name="--id", alias="-i")] = None,
    retry: int | None = None,
    timeout: DurationOption = None,  # noqa: ASYNC109 - of the task, not of this call
    deadline: datetime | None = None,
    unique: DurationOption = None,
    process_at: datetime | None = None,
    process_in: DurationOption = None,
    retention: DurationOption = None,
    group: Group = None,
    header: Annotated[dict[str, str] | None, Parameter(alias="-H")] = None,
    target: Target = _HERE,
) -> None:
    """Enqueue a task.

    Args:
        type_name: What kind of task it is.
        payload: What its function is given; - reads standard input.
        queue: The queue; "default" if none is given.
        task_id: Its id, which no other task of the queue may have.
        retry: How often it may be tried again.
        timeout: How long one attempt may take, such as 90 (seconds), 90s or 1h30m.
        deadline: When an attempt ends at the latest.
        unique: For how long no other task like it may be enqueued.
        process_at: When it may start.
        process_in: In how long it may start.
        retention: How long it is kept after its success.
        group: The group in which it is aggregated.
        header: Texts that travel with it: --header.name text.
    """
    options: TaskOptions = {
        "queue": queue,
        "task_id": task_id,
        "max_retry": retry,
        "timeout": timeout,
        "deadline": _aware(deadline),
        "unique": unique,
        "process_at": _aware(process_at),
        "process_in": process_in,
        "retention": retention,
        "group": group,
        "headers": header,
    }
    data = await read_payload(payload)
    async with target.connect() as redis:
        handle = await Client(redis).enqueue(Task(type_name, data), **options)
    target.output.say(
        f"Enqueued task {handle.id} to queue {handle.queue}",
        {"id": handle.id, "queue": handle.queue, "state": handle.state.value},
    )


def _aware(moment: datetime | None) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise InvalidOptionError(
            f"{moment.isoformat()} has no time zone: add Z for UTC, or an offset such as +02:00"
        )
    return moment


def _record(info: TaskInfo) -> dict[str, Any]:
    message = info.message
    return {
        "queue": info.queue,
        "id": info.id,
        "type": message.type,
        "state": info.state.value,
        "payload": message.payload,
        "headers": dict(message.headers) or None,
        "group": message.group,
        "retried": message.retried,
        "max_retry": message.max_retry,
        "attempts": f"{message.retried}/{message.max_retry}",
        "timeout": message.timeout,
        "deadline": _moment(message.deadline),
        "retention": message.retention,
        "next_at": _moment(info.next_process_at),
        "next_in": _wait(info.next_process_at),
        "error": message.error,
        "failed_at": _moment(message.last_failed_at),
        "completed_at": _moment(message.completed_at),
        "result": info.result,
        "is_orphaned": info.is_orphaned,
    }


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _wait(at: float | None) -> str | None:
    """Return when a task is due, as asynq says it, by this machine's clock."""
    if at is None:
        return None
    left = at - time()
    return f"in {duration(left)}" if left > 0 else "right now"
