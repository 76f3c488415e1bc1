"""Go's command `asynq` on what Terzetto keeps: it shows and steers our queues.

Its module is built here where it can be had; else these tests are skipped by its name.
"""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.tasks import (
    Client,
    Inspector,
    Periodic,
    Task,
    TaskNotFoundError,
    TaskState,
    open_scheduler,
)
from tests.interop.test_interop_tasks_work import eventually, open_worker

Run = Callable[..., Awaitable[str]]
"""Runs the command with these words, and returns what it prints."""


@pytest.fixture
def run(asynq_command: Path, server: EmbeddedServer, tmp_path: Path) -> Run:
    parts = urlsplit(server.url)
    address = parts.path if parts.scheme == "unix" else parts.netloc

    async def run(*words: str) -> str:
        done = await trio.run_process(
            [str(asynq_command), *words, "--uri", address],
            capture_stdout=True,
            env={"HOME": str(tmp_path)},
        )
        return done.stdout.decode()

    return run


def rows(table: str) -> list[list[str]]:
    """Return the words of a table's rows, without its head."""
    return [line.split() for line in table.splitlines()[2:]]


async def test_it_shows_what_python_enqueued(run: Run, redis: Redis) -> None:
    client = Client(redis)
    await client.enqueue(Task("ok", b"now", task_id="a"))
    await client.enqueue(Task("ok", b"later", task_id="b", process_in=timedelta(hours=1).seconds))
    await client.enqueue(Task("ok", b"part", task_id="c", queue="low", group="g"))

    assert sorted((await run("queue", "ls")).split()) == ["default", "low"]
    stats = json.loads(await run("stats", "--json"))
    assert stats["aggregate"]["pending"] == stats["aggregate"]["scheduled"] == 1
    assert stats["aggregate"]["aggregating"] == 1
    (pending,) = rows(await run("task", "ls", "--queue", "default", "--state", "pending"))
    assert pending == ["a", "ok", "now"]
    (scheduled,) = rows(await run("task", "ls", "--queue", "default", "--state", "scheduled"))
    assert scheduled[:3] == ["b", "ok", "later"]
    assert (await run("group", "ls", "--queue", "low")).split() == ["g"]
    inspected = (await run("task", "inspect", "--queue", "default", "--id", "a")).split()
    assert inspected[inspected.index("State:") + 1] == "pending"
    assert inspected[inspected.index("Retried:") + 1] == "0/25"


async def test_it_shows_servers_and_schedulers_of_python(run: Run, redis: Redis) -> None:
    async with (
        open_worker(redis, queues={"default": 3, "low": 1}, concurrency=7) as worker,
        open_scheduler(redis, entries=[Periodic("@every 1h", Task("ok", b"tick"))]) as scheduler,
    ):
        inspector = Inspector(redis)
        await eventually(inspector.list_servers)
        await eventually(inspector.list_scheduler_entries)
        (seen,) = rows(await run("server", "ls"))
        (entry,) = rows(await run("cron", "ls"))
        assert seen[2:6] == ["active", "0/7", "default:3", "low:1"]
        assert entry[:5] == [*scheduler.entries, "@every", "1h", "ok", "tick"]
        assert not worker.handled


async def test_it_steers_tasks_of_python(run: Run, redis: Redis) -> None:
    client, inspector = Client(redis), Inspector(redis)
    for task_id in ("a", "b"):
        await client.enqueue(Task("ok", task_id=task_id, process_in=3600))
    await run("task", "archive", "--queue", "default", "--id", "a")
    assert (await inspector.task_info("default", "a")).state is TaskState.ARCHIVED
    await run("task", "delete", "--queue", "default", "--id", "a")
    with pytest.raises(TaskNotFoundError):
        await inspector.task_info("default", "a")
    await run("queue", "pause", "default")
    assert (await inspector.queue_info("default")).is_paused
    await run("task", "run", "--queue", "default", "--id", "b")
    await run("queue", "resume", "default")
    async with open_worker(redis) as worker:
        assert [each[0] for each in await worker.wait_handled(1)] == ["b"]
        await run("task", "enqueue", "--type_name", "ok", "--payload", "p", "--id", "c")
        assert [each[0] for each in await worker.wait_handled(2)] == ["b", "c"]
