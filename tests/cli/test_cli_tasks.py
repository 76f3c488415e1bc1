"""``terzetto queue``, ``task``, ``group``, ``cron`` and ``server ls`` on real servers."""

import contextlib
import json
import re
from collections.abc import Callable
from datetime import datetime

import pytest
import trio

from terzetto import tasks
from terzetto.cli import main
from terzetto.redis import Redis, connect
from terzetto.server import open_cluster, open_sentinel
from terzetto.tasks import Client, Router, Task, TaskContext
from tests.cli.conftest import Answer, Command


async def enqueue(command: Command, *words: str) -> str:
    """Enqueue through the command; return the task's id."""
    answer = await command("task", "enqueue", "--type-name", "mail", *words, "--json")
    assert answer.code == 0, answer.err
    return str(answer.json["id"])


async def test_nothing_is_said_of_nothing(command: Command) -> None:
    assert (await command("queue", "ls")).lines == ["No queues"]
    assert (await command("server", "ls")).lines == ["No running servers"]
    assert (await command("cron", "ls")).lines == ["No scheduler entries"]
    missing = await command("queue", "inspect", "none")
    assert (missing.code, missing.out) == (1, "")
    assert "there is no queue 'none'" in missing.err


async def test_a_task_is_enqueued_with_every_option(command: Command) -> None:
    words = [
        *("-t", "mail", "-l", '{"to": "ada"}', "-q", "low", "-i", "id-1", "--retry", "3"),
        *("--timeout", "1m30s", "--deadline", "2030-01-02T03:04:05+00:00", "--unique", "10m"),
        *("--process-in", "1h", "--retention", "24h", "--header.trace", "abc"),
    ]
    answer = await command("task", "enqueue", *words)
    assert answer.lines == ["Enqueued task id-1 to queue low"]
    seen = (await command("task", "inspect", "-q", "low", "-i", "id-1", "--json")).json
    wanted = {
        "payload": '{"to": "ada"}',
        "state": "scheduled",
        "max_retry": 3,
        "timeout": 90,
        "deadline": "2030-01-02T03:04:05+00:00",
        "retention": 86400,
        "headers": {"trace": "abc"},
    }
    assert {key: seen[key] for key in wanted} == wanted
    again = await command("task", "enqueue", *words)
    assert (again.code, again.out) == (1, "")
    shown = (await command("task", "inspect", "-q", "low", "-i", "id-1")).out
    assert "in 59m" in shown or "in 1h" in shown


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1m30s", 90), ("1500ms", 2), ("0.5", 1), ("2.25s", 3)]
)
async def test_a_duration_has_a_unit_or_is_in_seconds(
    command: Command, text: str, seconds: int
) -> None:
    """Whole seconds are written, rounded up."""
    task_id = await enqueue(command, "--timeout", text, "--process-in", "90")
    shown = await command("task", "inspect", "-q", "default", "-i", task_id, "--json")
    assert (shown.json["timeout"], shown.json["state"]) == (seconds, "scheduled")


def test_the_help_says_where_a_duration_goes(bare: Callable[..., Answer]) -> None:
    shown = bare("task", "enqueue", "--help").out
    for option in ("--timeout", "--unique", "--process-in", "--retention"):
        assert f"{option} DURATION" in shown


@pytest.mark.parametrize(
    "words",
    [
        ["--timeout", "soon"],
        ["--timeout", "1.5.5"],
        ["--timeout", "inf"],
        ["--process-in=-1"],
        ["--process-at", "2030-01-02T03:04:05"],
        ["--retry", "many"],
        ["--group", " "],
    ],
)
async def test_options_that_cannot_be_are_refused(command: Command, words: list[str]) -> None:
    answer = await command("task", "enqueue", "-t", "mail", *words)
    assert answer.code in {1, 2}
    assert answer.err.startswith("error: ")
    assert (await command("queue", "ls", "--json")).json == []


async def test_tasks_are_listed_moved_and_deleted(command: Command) -> None:
    first, second = await enqueue(command), await enqueue(command, "--payload", "x")
    rows = (await command("task", "ls", "-q", "default", "-s", "pending")).lines
    assert [line.split()[0] for line in rows] == ["ID", first, second]
    page = await command(
        "task", "ls", "-q", "default", "-s", "pending", "--size", "1", "--page", "2", "--json"
    )
    assert [row["id"] for row in page.json] == [second]
    one = ("-q", "default", "-i", first)
    assert (await command("task", "archive", *one)).lines == ["task archived"]
    assert (await command("task", "archive", *one)).code == 1
    assert (await command("task", "run", *one)).lines == ["task is now pending"]
    assert (await command("task", "delete", *one)).lines == ["task deleted"]
    assert (await command("task", "inspect", *one)).code == 1
    everything = ("-q", "default", "-s")
    assert (await command("task", "archiveall", *everything, "pending")).lines == [
        "1 tasks archived"
    ]
    assert (await command("task", "runall", *everything, "archived")).lines == [
        "1 tasks are now pending"
    ]
    assert (await command("task", "deleteall", *everything, "pending")).lines == ["1 tasks deleted"]
    assert (await command("task", "ls", *everything, "pending")).lines == [
        'No pending tasks in "default" queue'
    ]


async def test_the_payload_of_a_scheduled_task_is_replaced(command: Command) -> None:
    task = await enqueue(command, "--payload", "old", "--process-in", "1h")
    one = ("-q", "default", "-i", task)
    assert (await command("task", "update", *one, "--payload", "new")).code == 0
    assert (await command("task", "inspect", *one, "--json")).json["payload"] == "new"


async def test_queues_are_paused_resumed_shown_and_removed(command: Command) -> None:
    await enqueue(command, "-q", "low")
    assert (await command("queue", "pause", "low")).lines == ['Successfully paused queue "low"']
    (row,) = (await command("queue", "ls", "--json")).json
    assert (row["queue"], row["state"], row["size"]) == ("low", "paused", 1)
    assert (await command("queue", "resume", "low")).lines == ['Successfully unpaused queue "low"']
    shown = (await command("queue", "inspect", "low")).lines
    assert shown[:2] == ["Queue Info", "Name:    low"]
    assert shown[8:10] == [
        "Task Count by State",
        "active  pending  aggregating  scheduled  retry  archived  completed",
    ]
    assert re.fullmatch(r"Daily Stats \d{4}-\d\d-\d\d UTC", shown[12])
    assert re.fullmatch(r"low +run +1 .* [1-9]\d* B", (await command("queue", "ls")).lines[1])
    (today, *_) = (await command("queue", "history", "low", "-x", "3", "--json")).json
    assert (today["processed"], today["error_rate"]) == (0, "N/A")
    full = await command("queue", "rm", "low")
    assert (full.code, full.out) == (1, "")
    assert (await command("queue", "rm", "low", "--force")).lines == [
        'Successfully removed queue "low"'
    ]


async def test_a_queue_that_is_not_there_keeps_nothing_from_the_others(command: Command) -> None:
    await enqueue(command, "-q", "low")
    for words, said in (
        (("inspect",), "Name:    low"),
        (("history", "-x", "1"), "low "),
        (("pause",), 'Successfully paused queue "low"'),
        (("resume",), 'Successfully unpaused queue "low"'),
        (("rm", "--force"), 'Successfully removed queue "low"'),
    ):
        answer = await command("queue", words[0], "none", "low", *words[1:])
        assert answer.code == 1
        assert answer.err.startswith("error: there is no queue 'none'")
        assert any(line.startswith(said) for line in answer.lines), words


async def test_what_cannot_be_read_is_a_line(command: Command, redis: Redis) -> None:
    """A tool of ours never shows a traceback for bytes that somebody else wrote."""
    await enqueue(command)
    (task,) = await redis.execute("LRANGE", "asynq:{default}:pending", 0, -1)
    await redis.execute("HSET", b"asynq:{default}:t:" + task, "msg", b"\xff\xff")
    listed = await command("task", "ls", "-q", "default", "-s", "pending")
    assert listed.code == 0
    (line,) = listed.err.splitlines()
    assert line.startswith("warning: ")
    assert task.decode() in line
    assert "2 bytes are no TaskMessage" in line


async def test_groups_are_listed(command: Command) -> None:
    await enqueue(command, "--group", "g")
    assert (await command("group", "ls", "-q", "default", "--json")).json == [
        {"group": "g", "size": 1}
    ]
    listed = await command("task", "ls", "-q", "default", "-s", "aggregating", "-g", "g", "--json")
    assert [row["group"] for row in listed.json] == ["g"]
    assert (await command("task", "ls", "-q", "default", "-s", "aggregating")).code == 1


async def test_a_running_task_is_seen_and_cancelled(command: Command, redis: Redis) -> None:
    router = Router()
    began = trio.Event()

    @router.task("mail")
    async def hang(_: bytes, ctx: TaskContext) -> None:
        began.set()
        await trio.sleep_forever()

    async with (
        tasks.open_server(redis, queues={"default": 2, "low": 1}, heartbeat_interval=0.1) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        handle = await Client(redis).enqueue(Task("mail", b"", max_retry=0))
        await began.wait()
        while not (rows := (await command("server", "ls", "--json")).json) or not rows[0]["tasks"]:
            await trio.lowlevel.checkpoint()  # until its next heartbeat, which nobody is told of
        assert rows[0]["tasks"] == [handle.id]
        assert rows[0]["queues"] == ["default:2", "low:1"]
        _, shown = (await command("server", "ls")).lines
        assert "1/10" in shown
        assert shown.endswith(" ago")
        assert datetime.fromisoformat(rows[0]["started"]).tzinfo is not None
        said = await command("task", "cancel", handle.id)
        assert said.lines == [f"Sent cancellation signal for task {handle.id}"]
        with contextlib.suppress(tasks.TaskFailedError), trio.fail_after(30):
            await handle.result()
        assert (await handle.info()).state is tasks.TaskState.ARCHIVED
        nursery.cancel_scope.cancel()


async def test_what_schedulers_do_is_shown(command: Command, redis: Redis) -> None:
    entry = tasks.Periodic("@every 1s", Task("tick", b"x"))
    async with tasks.open_scheduler(redis, entries=[entry]):
        while not (rows := (await command("cron", "ls", "--json")).json):
            await trio.lowlevel.checkpoint()  # until its first heartbeat
        (row,) = rows
        assert (row["spec"], row["type"], row["payload"]) == ("@every 1s", "tick", "x")
        assert datetime.fromisoformat(row["next"]).tzinfo is not None
        _, shown = (await command("cron", "ls")).lines
        assert "  In " in shown or "  Now " in shown
        while not (events := (await command("cron", "history", row["id"], "--json")).json):
            await trio.lowlevel.checkpoint()  # until the first tick
        assert events[0]["entry"] == row["id"]


async def test_queues_behind_sentinel_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    async with open_sentinel() as group, connect(group.url) as redis:
        await Client(redis).enqueue(Task("mail", b""))
        capfd.readouterr()
        words = ["queue", "ls", "--json", "--url", group.url]
        assert await trio.to_thread.run_sync(main, words) == 0
        assert [row["queue"] for row in json.loads(capfd.readouterr().out)] == ["default"]


async def test_the_slots_and_nodes_of_queues_on_a_cluster(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with open_cluster() as cluster, connect(cluster.url) as redis:
        await Client(redis).enqueue(Task("mail", b"", queue="notifications"))
        capfd.readouterr()
        words = ["queue", "ls", "--cluster", "--url", cluster.url]
        assert await trio.to_thread.run_sync(main, words) == 0
        header, row = capfd.readouterr().out.splitlines()
        assert header.split("  ")[0] == "Queue"
        assert "Cluster KeySlot" in header
        assert "Cluster Nodes" in header
        slot = await redis.execute("CLUSTER", "KEYSLOT", "asynq:{notifications}:pending")
        assert row.split()[:2] == ["notifications", str(slot)]
        assert len(row.split(",")) == 2  # a master and its replica
        assert await trio.to_thread.run_sync(main, [*words, "--json"]) == 0
        (record,) = json.loads(capfd.readouterr().out)
        assert [set(node) for node in record["nodes"]] == [{"id", "address"}] * 2
        assert all(f"{node['address']} {node['id']}" in row for node in record["nodes"])
