"""Tasks that Terzetto enqueues, schedules and inspects, with Go's asynq on the other side."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from terzetto import tasks
from terzetto.redis import Redis
from terzetto.tasks import (
    Client,
    DuplicateTaskError,
    Inspector,
    Periodic,
    Task,
    TaskIdConflictError,
    TaskInfo,
    TaskMessage,
    TaskState,
)
from tests.interop.gopeer import Peer, PeerRefusedError
from tests.interop.test_interop_tasks_work import eventually, open_worker

DEADLINE = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)


@asynccontextmanager
async def serving(asynq: Peer, **options: Any) -> AsyncGenerator[None]:
    """Run a server of Go's for the time of a block."""
    await asynq.call("serve", "go", **{"queues": {"default": 1}, "concurrency": 4, **options})
    yield
    await asynq.call("stop", "go")


async def test_what_python_enqueues_go_handles(asynq: Peer, redis: Redis) -> None:
    async with serving(asynq):
        handles = await Client(redis).enqueue_many(
            [Task("ok", b"\xff%d" % number, headers={"n": str(number)}) for number in range(50)]
        )
        handled = await asynq.call("handled", "go", count=50)
    ids = [handle.id for handle in handles if not isinstance(handle, Exception)]
    assert sorted(each["id"] for each in handled) == sorted(ids)
    assert sorted(each["payload"] for each in handled) == sorted(
        f"\udcff{number}" for number in range(50)
    )
    assert sorted(int(each["headers"]["n"]) for each in handled) == list(range(50))


async def test_every_option_arrives_as_go_reads_it(asynq: Peer, redis: Redis) -> None:
    at = datetime(2039, 1, 1, tzinfo=UTC)
    handle = await Client(redis).enqueue(
        Task("ok", b"x"),
        queue="low",
        max_retry=7,
        timeout=90.0,
        deadline=DEADLINE,
        process_at=at,
        task_id="id-1",
        retention=3600.0,
        headers={"k": "v"},
    )
    seen = await asynq.call("task", queue="low", task="id-1")
    wanted = {
        "id": handle.id,
        "state": "scheduled",
        "max_retry": 7,
        "timeout": 90,
        "deadline": int(DEADLINE.timestamp()),
        "next_at": int(at.timestamp()),
        "retention": 3600,
        "headers": {"k": "v"},
    }
    assert {key: seen[key] for key in wanted} == wanted


async def test_a_result_of_go_is_awaited_in_python(asynq: Peer, redis: Redis) -> None:
    async with serving(asynq):
        handle = await Client(redis).enqueue(Task("result", b"a\xffb", retention=60))
        with trio.fail_after(30):
            assert await handle.result() == b"a\xffb"
        failing = await Client(redis).enqueue(Task("skip", b""))
        with trio.fail_after(30), pytest.raises(tasks.TaskFailedError, match="skipped as told"):
            await failing.result()


async def test_uniqueness_holds_across_both(asynq: Peer, redis: Redis) -> None:
    client = Client(redis)
    await client.enqueue(Task("ok", b"x", unique=600))
    with pytest.raises(PeerRefusedError, match="task already exists"):
        await asynq.call("enqueue", type="ok", payload="x", unique=600)
    await asynq.call("enqueue", type="ok", payload="y", unique=600)
    with pytest.raises(DuplicateTaskError):
        await client.enqueue(Task("ok", b"y", unique=600))
    async with serving(asynq):
        await asynq.call("handled", "go", count=2)

        async def enqueue_again() -> bool:
            try:
                await client.enqueue(Task("ok", b"x", unique=600))
            except DuplicateTaskError:
                return False
            return True

        assert await eventually(enqueue_again)  # the lock goes with Go's outcome


async def test_ids_conflict_across_both(asynq: Peer, redis: Redis) -> None:
    await Client(redis).enqueue(Task("ok", b""), task_id="mine")
    with pytest.raises(PeerRefusedError, match="conflicts"):
        await asynq.call("enqueue", type="ok", task="mine")
    await asynq.call("enqueue", type="ok", task="its")
    with pytest.raises(TaskIdConflictError):
        await Client(redis).enqueue(Task("ok", b""), task_id="its")


async def test_a_group_of_python_is_aggregated_by_go(asynq: Peer, redis: Redis) -> None:
    for part in (b"a", b"b", b"c"):
        await Client(redis).enqueue(Task("part", part, group="g"))
    assert await asynq.call("groups", queue="default") == {"g": 3}
    async with serving(asynq, group_size=3, group_grace=1):
        (joined,) = await asynq.call("handled", "go", count=1)
    assert joined["type"] == "joined:g"
    assert sorted(joined["payload"].split(",")) == ["a", "b", "c"]


async def test_a_group_of_go_is_aggregated_by_python(asynq: Peer, redis: Redis) -> None:
    async def join(group: str, parts: tuple[TaskMessage, ...]) -> Task:
        return Task(f"joined:{group}", b",".join(part.payload for part in parts))

    for part in ("a", "b", "c"):
        await asynq.call("enqueue", type="part", payload=part, group="g")
    grouping = tasks.Grouping(aggregate=join, max_size=3)
    async with open_worker(redis, grouping=grouping) as worker:
        ((_, kind, payload, _),) = await worker.wait_handled(1)
    assert (kind, sorted(payload.split(b","))) == ("joined:g", [b"a", b"b", b"c"])


async def test_schedulers_of_both_are_seen_by_the_other(asynq: Peer, redis: Redis) -> None:
    inspector = Inspector(redis)
    entry = Periodic("@every 1s", Task("tick", b"p"), queue="low", timeout=90)
    async with tasks.open_scheduler(redis, entries=[entry], heartbeat_interval=1.0):

        async def go_sees() -> Any:
            return await asynq.call("entries")

        (seen,) = await eventually(go_sees)
        assert (seen["spec"], seen["type"], seen["payload"]) == ("@every 1s", "tick", "p")
        assert sorted(seen["options"]) == ['Queue("low")', "Timeout(1m30s)"]

        async def go_reads() -> Any:
            return await asynq.call("events", seen["id"])

        first, *_ = await eventually(go_reads)
        assert (await asynq.call("task", queue="low", task=first))["type"] == "tick"
    go_entry = await asynq.call("schedule", "s", type="tock", spec="@every 1s", queue="low")

    async def we_see() -> bool:
        found = await inspector.list_scheduler_entries()
        return [(each.id, each.spec, each.task_type) for each in found] == [
            (go_entry, "@every 1s", "tock")
        ]

    await eventually(we_see)

    async def we_read() -> Any:
        return await inspector.list_enqueue_events(go_entry)

    event, *_ = await eventually(we_read)
    assert (await inspector.task_info("low", event.task_id)).message.type == "tock"
    await asynq.call("end_schedule", "s")


async def fill(redis: Redis) -> None:
    """Put a task into each state that needs no server."""
    client = Client(redis)
    await client.enqueue(Task("ok", b"p", task_id="pending"))
    await client.enqueue(Task("ok", b"s", task_id="scheduled", process_in=600))
    await client.enqueue(Task("ok", b"g", task_id="aggregating", group="g"))


async def test_both_inspectors_see_the_same_queue(asynq: Peer, redis: Redis) -> None:
    await fill(redis)
    async with open_worker(redis, queues={"other": 1}):
        await asynq.call("enqueue", type="skip", queue="other", task="archived")
        await asynq.call("enqueue", type="result", queue="other", task="completed", retention=60)

        async def are_done() -> bool:
            return bool((await asynq.call("queue", queue="other"))["processed_total"] == 2)

        await eventually(are_done)
    inspector = Inspector(redis)
    assert await asynq.call("queues") == await inspector.list_queues() == ["default", "other"]
    for queue in ("default", "other"):
        seen, info = await asynq.call("queue", queue=queue), await inspector.queue_info(queue)
        assert seen == {key: getattr(info, "is_paused" if key == "paused" else key) for key in seen}
        for day, other in zip(
            await asynq.call("history", queue=queue, count=3),
            await inspector.history(queue, days=3),
            strict=True,
        ):
            assert day == {
                "date": other.day.isoformat(),
                "processed": other.processed,
                "failed": other.failed,
            }
    for queue, state in [
        ("default", "pending"),
        ("default", "scheduled"),
        ("default", "aggregating"),
        ("other", "archived"),
        ("other", "completed"),
    ]:
        group = "g" if state == "aggregating" else None
        (go,) = await asynq.call("tasks", queue=queue, state=state, group=group or "")
        (ours,) = await inspector.list_tasks(queue, TaskState(state), group=group)
        assert go["id"] == ours.id == state
        assert same(go, await inspector.task_info(queue, state))


def same(go: dict[str, Any], ours: TaskInfo) -> bool:
    """Tell whether both say the same of a task."""
    message = ours.message
    return (go["type"], go["state"], go["max_retry"], go["retried"], go["group"]) == (
        message.type,
        ours.state.value,
        message.max_retry,
        message.retried,
        message.group,
    ) and go["result"].encode(errors="surrogateescape") == (ours.result or b"")


async def test_go_acts_on_what_python_enqueued(asynq: Peer, redis: Redis) -> None:
    await fill(redis)
    inspector = Inspector(redis)
    await asynq.call("act", type="run", queue="default", task="scheduled")
    await asynq.call("act", type="archive", queue="default", task="pending")
    await asynq.call("act", type="delete", queue="default", task="aggregating")
    assert (await inspector.task_info("default", "scheduled")).state is TaskState.PENDING
    assert (await inspector.task_info("default", "pending")).state is TaskState.ARCHIVED
    with pytest.raises(tasks.TaskNotFoundError):
        await inspector.task_info("default", "aggregating")
    assert await asynq.call("act_all", type="run", state="archived", queue="default") == 1
    assert await asynq.call("act_all", type="delete", state="pending", queue="default") == 2
    await asynq.call("act", type="delete_queue", queue="default")
    assert await inspector.list_queues() == []


async def test_python_acts_on_what_go_enqueued(asynq: Peer, redis: Redis) -> None:
    inspector = Inspector(redis)
    await asynq.call("enqueue", type="ok", task="pending", unique=600)
    await asynq.call("enqueue", type="ok", task="scheduled", payload="s", **{"in": 600})
    await asynq.call("enqueue", type="ok", task="aggregating", group="g")
    await inspector.update_payload("default", "scheduled", b"new")
    assert (await asynq.call("task", queue="default", task="scheduled"))["payload"] == "new"
    await inspector.run_task("default", "scheduled")
    await inspector.archive_task("default", "aggregating")
    await inspector.delete_task("default", "pending")
    assert (await asynq.call("task", queue="default", task="scheduled"))["state"] == "pending"
    assert (await asynq.call("task", queue="default", task="aggregating"))["state"] == "archived"
    await asynq.call("enqueue", type="ok", task="pending", unique=600)  # the lock went with it
    assert await inspector.run_all("default", TaskState.ARCHIVED) == 1
    assert await inspector.delete_all("default", TaskState.PENDING) == 3
    assert (await asynq.call("queue", queue="default"))["size"] == 0
    await inspector.delete_queue("default")
    assert await asynq.call("queues") == []


async def test_a_task_that_go_runs_is_cancelled_from_python(asynq: Peer, redis: Redis) -> None:
    inspector = Inspector(redis)
    async with serving(asynq):
        await asynq.call("enqueue", type="sleep", payload="600", task="held", retry=0)
        await asynq.call("handled", "go", count=1)

        async def we_see() -> bool:
            found = await inspector.list_servers()
            return any(worker.task_id == "held" for each in found for worker in each.workers)

        await eventually(we_see)
        await inspector.cancel_task("held")

        async def is_archived() -> bool:
            return (await inspector.task_info("default", "held")).state is TaskState.ARCHIVED

        await eventually(is_archived)
