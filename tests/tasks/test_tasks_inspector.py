"""The inspector, over every kind of broker."""

import attrs
import pytest
import trio

from terzetto.errors import InvalidNameError, InvalidOptionError
from terzetto.tasks import (
    EnqueueEvent,
    Inspector,
    QueueNotEmptyError,
    QueueNotFoundError,
    SchedulerEntry,
    ServerInfo,
    TaskNotFoundError,
    TaskState,
    TaskStateError,
    WorkerInfo,
)
from terzetto.tasks._broker_values import Enqueue, Lease
from terzetto.tasks._inspection import Move
from terzetto.tasks._memory_broker import MemoryBroker
from terzetto.tasks._redis_broker import RedisBroker
from tests.tasks.conftest import START, AnyBroker, ManualClock
from tests.tasks.work import PENDING, entry, state_of, take, take_one, task, unique

MISSING = "no such queue"


@pytest.fixture
def inspector(broker: AnyBroker) -> Inspector:
    assert isinstance(broker, MemoryBroker | RedisBroker)
    inspector = Inspector(MemoryBroker())
    inspector._broker = broker  # pyright: ignore[reportPrivateUsage] - it shares the test's clock
    return inspector


async def fill(broker: AnyBroker) -> dict[str, Lease]:
    """Put one task into each state, with that as its id."""
    names = ["archived", "completed", "retry", "active", "pending"]
    await broker.enqueue([entry(name, retention=60) for name in names])
    leases = {lease.message.id: lease for lease in await take(broker, limit=4)}
    await broker.archive(leases["archived"], error="a")
    await broker.complete(leases["completed"], result=b"c")
    await broker.retry(leases["retry"], at=START + 30, error="r")
    await broker.enqueue(
        [
            Enqueue(message=task("scheduled"), process_at=START + 20),
            entry("aggregating", group="g"),
        ]
    )
    return leases


async def test_a_queue_is_counted_by_state(
    broker: AnyBroker, inspector: Inspector, clock: ManualClock
) -> None:
    await fill(broker)
    clock.advance(10)

    info = await inspector.queue_info("q", memory=True)

    for state in TaskState:
        assert getattr(info, state.value) == 1
    assert (info.size, info.groups, info.processed, info.failed) == (7, 1, 3, 2)
    assert (info.processed_total, info.failed_total, info.is_paused) == (3, 2, False)
    assert info.latency == pytest.approx(10)
    assert info.memory
    assert await inspector.queue_infos() == [attrs.evolve(info, memory=None)]
    assert await inspector.list_queues() == ["q"]


async def test_the_history_goes_back_day_by_day(
    broker: AnyBroker, inspector: Inspector, clock: ManualClock
) -> None:
    for _ in range(2):
        await broker.enqueue([entry("t")])
        await broker.complete(await take_one(broker))
        clock.advance(86_400)

    days = await inspector.history("q", days=4)

    assert [day.processed for day in days] == [0, 1, 1, 0]
    assert [str(day.day) for day in days][:2] == ["2027-01-17", "2027-01-16"]


async def test_tasks_are_listed_by_page(broker: AnyBroker, inspector: Inspector) -> None:
    await broker.enqueue([entry(f"p{n}") for n in range(5)])
    await broker.enqueue(
        [Enqueue(message=task(f"s{n}"), process_at=START + 9 - n) for n in range(5)]
    )
    await broker.enqueue([entry(f"g{n}", group="g") for n in range(5)])
    await broker.take_batch("q", "g", max_size=2, grace=60)

    async def page(state: TaskState, number: int, group: str | None = None) -> list[str]:
        found = await inspector.list_tasks("q", state, group=group, page=number, size=2)
        return [info.id for info in found]

    assert await page(TaskState.PENDING, 1) == ["p0", "p1"]
    assert await page(TaskState.PENDING, 3) == ["p4"]
    assert await page(TaskState.PENDING, 4) == []
    assert await page(TaskState.SCHEDULED, 2) == ["s2", "s1"]
    assert await page(TaskState.AGGREGATING, 1, "g") == ["g2", "g3"]
    assert await page(TaskState.AGGREGATING, 2, "g") == ["g4", "g0"]
    assert await page(TaskState.AGGREGATING, 3, "g") == ["g1"]
    assert await page(TaskState.ARCHIVED, 1) == []
    (first,) = await inspector.list_tasks("q", TaskState.SCHEDULED, size=1)
    assert first.next_process_at == START + 5


async def test_a_task_is_shown_with_what_is_known_of_it(
    broker: AnyBroker, inspector: Inspector, clock: ManualClock
) -> None:
    await fill(broker)

    assert (await inspector.task_info("q", "scheduled")).next_process_at == START + 20
    assert (await inspector.task_info("q", "retry")).next_process_at == START + 30
    assert (await inspector.task_info("q", "pending")).next_process_at == START
    assert (await inspector.task_info("q", "completed")).result == b"c"
    assert (await inspector.task_info("q", "archived")).message.error == "a"
    assert not (await inspector.task_info("q", "active")).is_orphaned
    clock.advance(31)
    assert (await inspector.task_info("q", "active")).is_orphaned
    (listed,) = await inspector.list_tasks("q", TaskState.ACTIVE)
    assert listed.is_orphaned


@pytest.mark.parametrize("state", TaskState)
async def test_a_task_is_moved_from_every_state_that_allows_it(
    broker: AnyBroker, inspector: Inspector, state: TaskState
) -> None:
    refused = {
        Move.RUN: {TaskState.ACTIVE, TaskState.PENDING},
        Move.ARCHIVE: {TaskState.ACTIVE, TaskState.ARCHIVED},
        Move.DELETE: {TaskState.ACTIVE},
    }
    moves = {
        Move.RUN: (inspector.run_task, TaskState.PENDING),
        Move.ARCHIVE: (inspector.archive_task, TaskState.ARCHIVED),
        Move.DELETE: (inspector.delete_task, None),
    }
    for move, (method, after) in moves.items():
        leases = await fill(broker)
        if state in refused[move]:
            with pytest.raises(TaskStateError):
                await method("q", state.value)
            assert await state_of(broker, state.value) is state
        else:
            await method("q", state.value)
            assert await state_of(broker, state.value) is after
            assert (await inspector.queue_info("q")).size == 7 - (after is None)
            assert (await inspector.list_groups("q") == []) == (state is TaskState.AGGREGATING)
        await broker.requeue(leases["active"])
        await inspector.delete_queue("q", force=True)


async def test_a_task_that_is_being_aggregated_can_be_moved(
    broker: AnyBroker, inspector: Inspector
) -> None:
    await broker.enqueue([entry("a", group="g"), entry("b", group="g")])
    batch = await broker.take_batch("q", "g", max_size=2, grace=60)
    assert batch is not None
    assert (await inspector.queue_info("q")).aggregating == 2

    await inspector.delete_task("q", "a")
    await inspector.run_task("q", "b")

    assert await broker.finish_batch(batch, entry("whole")) is None
    assert (await inspector.queue_info("q")).pending == 1


ALL: list[tuple[Move, TaskState]] = [
    (Move.RUN, TaskState.SCHEDULED),
    (Move.RUN, TaskState.AGGREGATING),
    (Move.RUN, TaskState.ARCHIVED),
    (Move.ARCHIVE, TaskState.PENDING),
    (Move.ARCHIVE, TaskState.AGGREGATING),
    (Move.ARCHIVE, TaskState.SCHEDULED),
    (Move.DELETE, TaskState.PENDING),
    (Move.DELETE, TaskState.AGGREGATING),
    (Move.DELETE, TaskState.SCHEDULED),
    (Move.DELETE, TaskState.ARCHIVED),
]


@pytest.mark.parametrize(("move", "state"), ALL)
async def test_all_tasks_of_a_state_are_moved(
    broker: AnyBroker, inspector: Inspector, move: Move, state: TaskState
) -> None:
    count = 1200 if state is TaskState.PENDING else 230
    at = START + 99 if state is TaskState.SCHEDULED else 0
    group = "g" if state is TaskState.AGGREGATING else ""
    await broker.enqueue(
        [Enqueue(message=task(f"t{n:04}", group=group), process_at=at) for n in range(count)]
    )
    if state is TaskState.ARCHIVED:
        for lease in await take(broker, limit=count):
            await broker.archive(lease, error="no")
    await broker.enqueue([entry("other", "r")])
    methods = {
        Move.RUN: inspector.run_all,
        Move.ARCHIVE: inspector.archive_all,
        Move.DELETE: inspector.delete_all,
    }

    assert await methods[move]("q", state, group=group or None) == count

    info = await inspector.queue_info("q")
    assert info.size == (0 if move is Move.DELETE else count)
    assert info.pending == (count if move is Move.RUN else 0)
    assert info.archived == (count if move is Move.ARCHIVE else 0)
    assert await inspector.list_groups("q") == []
    assert (await inspector.queue_info("r")).pending == 1
    if move is Move.RUN:
        leases = await take(broker, limit=count)
        assert [lease.message.id for lease in leases[:3]] == ["t0000", "t0001", "t0002"]


@pytest.mark.parametrize("name", ["pending", "aggregating", "archived", "completed", "retry"])
async def test_deleting_releases_locks(broker: AnyBroker, inspector: Inspector, name: str) -> None:
    state = TaskState(name)
    group = "g" if state is TaskState.AGGREGATING else ""
    await broker.enqueue(
        [attrs.evolve(unique("t", lasts=999, group=group, retention=60), process_in=0)]
    )
    if state not in {TaskState.PENDING, TaskState.AGGREGATING}:
        lease = await take_one(broker)
        if state is TaskState.ARCHIVED:
            await broker.archive(lease, error="no")
        elif state is TaskState.COMPLETED:
            await broker.complete(lease)
        else:
            await broker.retry(lease, at=START + 9, error="no")

    assert await inspector.delete_all("q", state, group=group or None) == 1

    assert await broker.enqueue([unique("u")]) == [PENDING]


async def test_the_payload_of_a_scheduled_task_can_be_changed(
    broker: AnyBroker, inspector: Inspector
) -> None:
    await fill(broker)
    await inspector.update_payload("q", "scheduled", b"new")
    assert (await inspector.task_info("q", "scheduled")).message.payload == b"new"
    for name in ("pending", "active", "retry"):
        with pytest.raises(TaskStateError):
            await inspector.update_payload("q", name, b"new")
    with pytest.raises(TaskNotFoundError):
        await inspector.update_payload("q", "none", b"new")


async def test_a_queue_is_deleted_with_all_that_it_has(
    broker: AnyBroker, inspector: Inspector
) -> None:
    leases = await fill(broker)
    await broker.enqueue([unique("u")])
    await inspector.pause_queue("q")
    for force in (False, True):
        with pytest.raises(QueueNotEmptyError):
            await inspector.delete_queue("q", force=force)
    await broker.requeue(leases["active"])
    with pytest.raises(QueueNotEmptyError):
        await inspector.delete_queue("q")

    await inspector.delete_queue("q", force=True)

    assert await inspector.list_queues() == []
    if isinstance(broker, RedisBroker):
        assert await broker.redis.execute("KEYS", "asynq:{q}*") == []
    assert await broker.enqueue([unique("u")]) == [PENDING]
    assert (await inspector.queue_info("q")).processed_total == 0


@pytest.mark.parametrize("state", ["completed", "aggregating", "archived"])
async def test_a_queue_that_keeps_tasks_is_not_empty(
    broker: AnyBroker, inspector: Inspector, state: str
) -> None:
    await broker.enqueue([entry("t", retention=9, group="g" if state == "aggregating" else "")])
    if state == "completed":
        await broker.complete(await take_one(broker))
    elif state == "archived":
        await broker.archive(await take_one(broker), error="no")
    with pytest.raises(QueueNotEmptyError):
        await inspector.delete_queue("q")


async def test_what_is_not_there_is_said_to_be_missing(
    broker: AnyBroker, inspector: Inspector
) -> None:
    for call in (
        inspector.queue_info(MISSING),
        inspector.history(MISSING),
        inspector.list_groups(MISSING),
        inspector.pause_queue(MISSING),
        inspector.resume_queue(MISSING),
        inspector.delete_queue(MISSING),
        inspector.task_info(MISSING, "t"),
        inspector.list_tasks(MISSING, TaskState.PENDING),
        inspector.run_task(MISSING, "t"),
        inspector.run_all(MISSING, TaskState.RETRY),
        inspector.update_payload(MISSING, "t", b""),
    ):
        with pytest.raises(QueueNotFoundError):
            await call
    await broker.enqueue([entry("t")])
    for call in (
        inspector.task_info("q", "none"),
        inspector.run_task("q", "none"),
        inspector.archive_task("q", "none"),
        inspector.delete_task("q", "none"),
    ):
        with pytest.raises(TaskNotFoundError):
            await call


async def test_wrong_arguments_are_refused(inspector: Inspector) -> None:
    for call in (
        inspector.history("q", days=0),
        inspector.list_tasks("q", TaskState.PENDING, page=0),
        inspector.list_tasks("q", TaskState.PENDING, size=0),
        inspector.list_tasks("q", TaskState.PENDING, group="g"),
        inspector.list_tasks("q", TaskState.AGGREGATING),
        inspector.run_all("q", TaskState.PENDING),
        inspector.archive_all("q", TaskState.COMPLETED),
        inspector.delete_all("q", TaskState.ACTIVE),
        inspector.list_enqueue_events("e", size=-1),
    ):
        with pytest.raises(InvalidOptionError):
            await call
    for refused in (
        inspector.queue_info(" "),
        inspector.task_info("q", " "),
        inspector.cancel_task(""),
        inspector.list_tasks("q", TaskState.AGGREGATING, group=" "),
    ):
        with pytest.raises(InvalidNameError):
            await refused


async def test_servers_are_listed_with_what_they_run(
    broker: AnyBroker, inspector: Inspector, clock: ManualClock
) -> None:
    info = ServerInfo(
        host="h", pid=1, server_id="s", concurrency=3, queues={"q": 1}, started_at=START
    )
    workers = [
        WorkerInfo(
            host="h",
            pid=1,
            server_id="s",
            task_id="same",
            task_type="t",
            payload=b"x",
            queue=queue,
            started_at=START,
            deadline=START + 9,
        )
        for queue in ("q", "r", "s")
    ]
    other = attrs.evolve(info, host="a", server_id="idle")
    for running in (workers, workers[1:], workers[:1], []):
        await broker.write_server(info, running)
        await broker.write_server(other, [])
        idle, busy = await inspector.list_servers()
        assert (idle.info, busy.info, idle.workers) == (other, info, ())
        assert sorted(worker.queue for worker in busy.workers) == [w.queue for w in running]
    await broker.clear_server(other)
    assert [state.info for state in await inspector.list_servers()] == [info]
    clock.advance(11)
    assert await inspector.list_servers() == []


async def test_schedulers_are_listed_with_what_they_enqueued(
    broker: AnyBroker, inspector: Inspector, clock: ManualClock
) -> None:
    entries = [
        SchedulerEntry(id="2", spec="@daily", task_type="t", next_at=START + 5),
        SchedulerEntry(id="1", spec="@daily", task_type="t", options=('Queue("low")',)),
    ]
    await broker.write_entries("a", entries)
    await broker.write_entries("b", [])
    assert await inspector.list_scheduler_entries() == entries[::-1]
    for number in range(3):
        await broker.record_event(
            "1", EnqueueEvent(task_id=f"t{number}", enqueued_at=START + number)
        )
    assert [e.task_id for e in await inspector.list_enqueue_events("1", size=2)] == ["t2", "t1"]
    assert [e.task_id for e in await inspector.list_enqueue_events("1", page=2, size=2)] == ["t0"]
    await broker.clear_entries("a")
    assert await inspector.list_scheduler_entries() == []
    await broker.write_entries("a", entries)
    clock.advance(21)
    assert await inspector.list_scheduler_entries() == []


async def test_the_slot_and_the_nodes_of_a_queue(broker: AnyBroker, inspector: Inspector) -> None:
    assert inspector.key_slot("default") == 5718
    if isinstance(broker, RedisBroker) and "cluster" in broker.redis.url:
        for name in ("default", "a}b", "é"):
            key = broker.keys(name).pending
            assert await broker.redis.execute("CLUSTER", "KEYSLOT", key) == inspector.key_slot(name)
        nodes = await inspector.cluster_nodes("default")
        assert len(nodes) == 2
        assert all(len(node.id) == 40 and ":" in node.address for node in nodes)
        return
    with pytest.raises(TaskStateError):
        await inspector.cluster_nodes("default")


async def test_a_wish_to_cancel_is_sent(broker: AnyBroker, inspector: Inspector) -> None:
    with trio.fail_after(20):
        async with broker.open_cancels() as cancels:
            await inspector.cancel_task("t")
            assert (await anext(cancels)).queue is None
            await inspector.cancel_task("t", queue="q")
            assert (await anext(cancels)).queue == "q"
