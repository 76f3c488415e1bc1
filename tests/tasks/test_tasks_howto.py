"""What the pages say of tasks holds: what is shown can be made, and does what is said."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from terzetto import tasks
from terzetto.redis import Redis
from tests.tasks.serving import QUICK

DOCS = Path(__file__).parents[2] / "docs"
PATIENCE = 20.0


def noted(ran: list[str]) -> tasks.Router:
    """Return a router whose only function notes the tasks that it is called for."""
    router = tasks.Router()

    @router.task("t")
    async def note(_: bytes, ctx: tasks.TaskContext) -> None:
        ran.append(ctx.id)

    return router


def test_what_the_page_for_users_of_celery_makes_can_be_made() -> None:
    page = (DOCS / "from-celery.md").read_text(encoding="utf-8")
    shown = re.findall(r"\b(?:limits|entries)=(\[[^`]*\])", page)
    made: list[Any] = [each for text in shown for each in eval(text, vars(tasks).copy())]  # noqa: S307 - our own page

    assert {type(each) for each in made} == {tasks.RateLimit, tasks.Periodic}


async def test_a_task_past_its_deadline_is_archived_if_it_has_no_retries(redis: Redis) -> None:
    ran: list[str] = []
    client = tasks.Client(redis)
    past = datetime.now(UTC) - timedelta(seconds=2)
    with trio.fail_after(PATIENCE):
        async with (
            tasks.open_server(redis, **QUICK) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(server.run, noted(ran))
            handle = await client.enqueue(tasks.Task("t"), deadline=past, max_retry=0)
            with pytest.raises(tasks.TaskFailedError, match="deadline"):
                await handle.result()
            assert (await handle.info()).state is tasks.TaskState.ARCHIVED
            await server.shutdown()
    assert ran == []


async def test_a_task_that_waits_is_revoked_by_deleting_and_not_by_cancelling(
    redis: Redis,
) -> None:
    ran: list[str] = []
    client = tasks.Client(redis)
    with trio.fail_after(PATIENCE):
        cancelled = await client.enqueue(tasks.Task("t"), retention=60)
        deleted = await client.enqueue(tasks.Task("t"), retention=60)
        await cancelled.cancel(drop=True)
        await tasks.Inspector(redis).delete_task(deleted.queue, deleted.id)
        async with (
            tasks.open_server(redis, **QUICK) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(server.run, noted(ran))
            await cancelled.result()
            with pytest.raises(tasks.TaskNotFoundError):
                await deleted.result()
            await server.shutdown()
    assert ran == [cancelled.id]
