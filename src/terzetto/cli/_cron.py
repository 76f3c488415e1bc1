"""``terzetto cron``: what schedulers enqueue, and what they enqueued."""

from datetime import UTC, datetime

from cyclopts import App

from terzetto.cli._output import Due, Past
from terzetto.cli._session import Names, Target
from terzetto.tasks import Inspector

app = App(name="cron", help="Schedulers: their entries, and what these have enqueued.")

_HERE = Target()


@app.command(alias="list")
async def ls(*, target: Target = _HERE) -> None:
    """List the entries of the schedulers that are running."""
    async with target.connect() as redis:
        found = await Inspector(redis).list_scheduler_entries()
    rows = [
        {
            "id": entry.id,
            "spec": entry.spec,
            "type": entry.task_type,
            "payload": entry.payload,
            "options": list(entry.options),
            "next": _moment(Due, entry.next_at),
            "previous": _moment(Past, entry.previous_at),
        }
        for entry in found
    ]
    target.output.show_table(
        {
            "id": "EntryID",
            "spec": "Spec",
            "type": "Type",
            "payload": "Payload",
            "options": "Options",
            "next": "Next",
            "previous": "Prev",
        },
        rows,
        "No scheduler entries",
    )


@app.command
async def history(*entries: Names, page: int = 1, size: int = 30, target: Target = _HERE) -> None:
    """Show what entries have enqueued, the newest first.

    Args:
        entries: The entries' ids.
        page: Which page, from 1 on.
        size: How many are on a page.
    """
    async with target.connect() as redis:
        inspector = Inspector(redis)
        rows = [
            {"entry": entry, "task": event.task_id, "at": _moment(datetime, event.enqueued_at)}
            for entry in entries
            for event in await inspector.list_enqueue_events(entry, page=page, size=size)
        ]
    target.output.show_table(
        {"entry": "Entry", "task": "TaskID", "at": "EnqueuedAt"},
        rows,
        "No scheduler enqueue events found",
    )


def _moment(kind: type[datetime], seconds: float | None) -> datetime | None:
    return None if seconds is None else kind.fromtimestamp(seconds, UTC)
