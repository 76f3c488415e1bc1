"""The contract of a broker: what producers and workers may rely on, whatever keeps the tasks."""

import attrs
import pytest

from terzetto.tasks._broker import Broker
from terzetto.tasks._broker_values import Conflict, Duplicate, Enqueue, Lease, Placed, Tick, Ticked
from terzetto.tasks._message import TaskState
from tests.tasks.conftest import START, AnyBroker, ManualClock
from tests.tasks.work import PENDING, entry, ids, state_of, take, take_one, task, unique

# ---------------------------------------------------------------- producers


async def test_tasks_are_taken_in_the_order_in_which_they_were_enqueued(broker: AnyBroker) -> None:
    assert await broker.enqueue([entry(f"t{n}") for n in range(5)]) == [PENDING] * 5
    assert await broker.enqueue([entry("t5"), entry("other", "r")]) == [PENDING] * 2

    assert ids(await take(broker, limit=4)) == ["t0", "t1", "t2", "t3"]
    assert ids(await take(broker, "q", "r", limit=9)) == ["t4", "t5", "other"]
    assert await take(broker, "q", "r") == []
    assert await broker.list_queues() == ["q", "r"]


async def test_a_message_comes_as_it_was_sent(broker: AnyBroker) -> None:
    sent = task(
        "t",
        payload=bytes(range(256)),
        timeout=5,
        deadline=int(START) + 9,
        retention=7,
        headers={"a": "1", "ü": "ö"},
    )
    await broker.enqueue([Enqueue(message=sent)])

    lease = await take_one(broker)

    assert lease.message == sent
    assert lease.expires_at == START + 30
    assert await state_of(broker, "t") is TaskState.ACTIVE


async def test_many_tasks_at_once_are_enqueued_each_for_itself(broker: AnyBroker) -> None:
    await broker.enqueue([entry("t7")])

    placements = await broker.enqueue([entry(f"t{n}") for n in range(1000)])

    assert placements[7] == Conflict()
    assert placements.count(PENDING) == 999
    assert len(await take(broker, limit=2000)) == 1000


@pytest.mark.parametrize("end", ["pending", "active", "completed", "archived", "scheduled"])
async def test_an_id_is_taken_in_every_state(broker: AnyBroker, end: str) -> None:
    at = START + 99 if end == "scheduled" else 0
    await broker.enqueue([Enqueue(message=task("t", retention=60), process_at=at)])
    if end not in {"pending", "scheduled"}:
        lease = await take_one(broker)
        if end == "completed":
            await broker.complete(lease)
        elif end == "archived":
            await broker.archive(lease, error="no")

    assert await state_of(broker, "t") is TaskState(end)
    assert await broker.enqueue([entry("t")]) == [Conflict()]


async def test_a_unique_task_has_no_duplicates_until_it_is_done(broker: AnyBroker) -> None:
    assert await broker.enqueue([unique("a"), unique("b")]) == [PENDING, Duplicate("a")]
    lease = await take_one(broker)
    assert await broker.enqueue([unique("b")]) == [Duplicate("a")]
    await broker.retry(lease, at=START, error="no")
    assert await broker.enqueue([unique("b")]) == [Duplicate("a")]
    await broker.forward("q")

    await broker.complete(await take_one(broker))

    assert await broker.enqueue([unique("b")]) == [PENDING]


async def test_a_refused_id_leaves_no_lock(broker: AnyBroker) -> None:
    await broker.enqueue([entry("a")])

    assert await broker.enqueue([unique("a")]) == [Conflict()]
    assert await broker.enqueue([unique("b")]) == [PENDING]


async def test_scheduled_tasks_become_pending_when_they_are_due(
    broker: AnyBroker, clock: ManualClock
) -> None:
    later = Enqueue(message=task("later"), process_at=START + 20)
    soon = Enqueue(message=task("soon"), process_at=START + 10.25)
    assert await broker.enqueue([later, soon]) == [Placed(TaskState.SCHEDULED)] * 2

    forwarded = await broker.forward("q")
    assert (forwarded.moved, forwarded.next_at) == (0, START + 10.25)
    clock.advance(10.2)
    assert (await broker.forward("q")).moved == 0
    clock.advance(0.05)
    forwarded = await broker.forward("q")

    assert (forwarded.moved, forwarded.next_at) == (1, START + 20)
    assert ids(await take(broker, limit=9)) == ["soon"]


async def test_a_time_that_is_over_is_now(broker: AnyBroker) -> None:
    assert await broker.enqueue([Enqueue(message=task("t"), process_at=START)]) == [PENDING]


async def test_a_tick_is_enqueued_once(broker: AnyBroker) -> None:
    def at(task_id: str, seconds: float) -> Enqueue:
        return Enqueue(message=task(task_id), tick=Tick(schedule="s", at=START + seconds))

    assert await broker.enqueue([at("a", 0), at("b", 0), at("c", 60), at("d", 30)]) == [
        PENDING,
        Ticked(),
        PENDING,
        Ticked(),
    ]
    await broker.complete(await take_one(broker))
    assert await broker.enqueue([at("a", 0)]) == [Ticked()]


async def test_a_refused_tick_may_be_tried_again(broker: AnyBroker) -> None:
    await broker.enqueue([unique("a")])
    tick = Tick(schedule="s", at=START)

    assert await broker.enqueue([attrs.evolve(unique("b"), tick=tick)]) == [Duplicate("a")]
    assert await broker.enqueue([Enqueue(message=task("c"), tick=tick)]) == [PENDING]


# ------------------------------------------------------------------ workers


async def test_a_completed_task_is_gone_or_kept_for_its_retention(
    broker: AnyBroker, clock: ManualClock
) -> None:
    await broker.enqueue(
        [entry("gone"), entry("kept", retention=60), entry("dropped", retention=9)]
    )
    gone, kept, dropped = await take(broker, limit=3)

    assert await broker.complete(gone, result=b"1")
    assert await broker.complete(kept, result=b"2")
    assert await broker.complete(dropped, retain=False)

    assert await broker.read_task("q", "gone") is None
    assert await broker.read_task("q", "dropped") is None
    info = await broker.read_task("q", "kept")
    assert info is not None
    assert (info.state, info.result) == (TaskState.COMPLETED, b"2")
    assert info.message.completed_at == START
    clock.advance(59)
    assert await broker.delete_expired("q") == 0
    clock.advance(1)
    assert await broker.delete_expired("q") == 1
    assert await broker.read_task("q", "kept") is None
    (queue,) = await broker.read_queues(["q"])
    assert queue is not None
    assert (queue.processed, queue.failed, queue.processed_total, queue.size) == (3, 0, 3, 0)


async def test_a_failed_task_is_tried_again_and_then_given_up(
    broker: AnyBroker, clock: ManualClock
) -> None:
    await broker.enqueue([entry("t")])
    assert await broker.retry(await take_one(broker), at=START + 5.5, error="first \udcff")
    info = await broker.read_task("q", "t")
    assert info is not None
    assert (info.state, info.next_process_at) == (TaskState.RETRY, START + 5.5)
    assert (info.message.retried, info.message.last_failed_at) == (1, START)
    assert info.message.error == "first ?"
    clock.advance(5.5)
    assert (await broker.forward("q")).moved == 1

    assert await broker.archive(await take_one(broker), error="second")

    info = await broker.read_task("q", "t")
    assert info is not None
    assert (info.state, info.message.retried, info.message.error) == (
        TaskState.ARCHIVED,
        1,
        "second",
    )
    (queue,) = await broker.read_queues(["q"])
    assert queue is not None
    assert (queue.processed, queue.failed, queue.failed_total) == (2, 2, 2)


async def test_what_is_no_failure_is_not_counted(broker: AnyBroker) -> None:
    await broker.enqueue([entry("t"), entry("u")])
    noted, silent = await take(broker, limit=2)

    await broker.retry(noted, at=START + 1, error="busy", is_failure=False)
    await broker.retry(silent, at=START + 1, error=None, is_failure=False)

    first, second = await broker.list_tasks("q", TaskState.RETRY, first=0, count=9)
    assert (first.message.error, first.message.retried) == ("busy", 0)
    assert second.message == silent.message
    (queue,) = await broker.read_queues(["q"])
    assert queue is not None
    assert (queue.processed, queue.failed) == (0, 0)


async def test_a_task_that_was_given_back_is_the_next(broker: AnyBroker) -> None:
    await broker.enqueue([entry("a"), entry("b")])
    lease = await take_one(broker)

    assert await broker.requeue(lease)

    again, _ = await take(broker, limit=2)
    assert again.message == lease.message
    assert again.token != lease.token


async def test_results_are_written_while_the_task_runs(broker: AnyBroker) -> None:
    await broker.enqueue([entry("t", retention=60)])
    lease = await take_one(broker)

    assert await broker.write_result(lease, b"half")
    assert await broker.write_result(lease, b"whole")
    await broker.complete(lease)

    info = await broker.read_task("q", "t")
    assert info is not None
    assert info.result == b"whole"
    assert not await broker.write_result(lease, b"late")


OUTCOMES = ["complete", "keep", "requeue", "retry", "archive", "write_result"]


async def write(broker: Broker, lease: Lease, outcome: str) -> bool:
    match outcome:
        case "complete":
            return await broker.complete(lease, retain=False)
        case "keep":
            return await broker.complete(lease, result=b"mine")
        case "requeue":
            return await broker.requeue(lease)
        case "retry":
            return await broker.retry(lease, at=START, error="mine")
        case "archive":
            return await broker.archive(lease, error="mine")
        case _:
            return await broker.write_result(lease, b"mine")


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_who_lost_the_lease_writes_nothing(
    broker: AnyBroker, clock: ManualClock, outcome: str
) -> None:
    await broker.enqueue([entry("t", retention=60)])
    late = await take_one(broker)
    clock.advance(31)
    (lease,) = await broker.take_expired("q")

    async def unchanged() -> bool:
        before = await broker.read_task("q", "t"), await broker.read_queues(["q"])
        assert not await write(broker, late, outcome)
        return before == (await broker.read_task("q", "t"), await broker.read_queues(["q"]))

    assert await unchanged()  # while the recoverer has it
    assert await broker.extend([late, lease]) == (int(clock.now() + 30), {late.token})
    await broker.retry(lease, at=START, error="lost")
    assert await unchanged()  # while it waits
    await broker.forward("q")
    next_lease = await take_one(broker)
    assert await unchanged()  # while the next worker has it
    assert await broker.complete(next_lease, result=b"right")
    assert await unchanged()  # when it is done


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_a_lease_that_ran_out_unnoticed_still_counts(
    broker: AnyBroker, clock: ManualClock, outcome: str
) -> None:
    await broker.enqueue([entry("t", retention=60)])
    lease = await take_one(broker)
    clock.advance(1000)

    assert await write(broker, lease, outcome)


async def test_only_one_takes_over_a_lost_task(broker: AnyBroker, clock: ManualClock) -> None:
    await broker.enqueue([entry("a"), entry("b")])
    a, b = await take(broker, limit=2)
    clock.advance(20)
    end, lost = await broker.extend([b])
    assert (end, lost) == (int(START + 50), set())
    assert await broker.take_expired("q") == []
    clock.advance(10)

    (taken,) = await broker.take_expired("q")

    assert taken.message == a.message
    assert await broker.take_expired("q") == []
    assert taken.expires_at == START + 60
    assert await broker.archive(taken, error="lost")
    clock.advance(20)
    assert ids(await broker.take_expired("q")) == ["b"]


async def test_a_grace_leaves_leases_alone_for_longer(
    broker: AnyBroker, clock: ManualClock
) -> None:
    await broker.enqueue([entry("a")])
    await take(broker)
    clock.advance(34)
    assert await broker.take_expired("q", grace=5) == []
    clock.advance(1)
    assert ids(await broker.take_expired("q", grace=5)) == ["a"]


async def test_a_paused_queue_gives_nothing(broker: AnyBroker) -> None:
    await broker.enqueue([entry("a"), entry("b", "r")])
    assert await broker.pause("q")
    assert not await broker.pause("q")
    assert ids(await take(broker, "q", "r", limit=5)) == ["b"]
    assert await broker.resume("q")
    assert not await broker.resume("q")
    assert ids(await take(broker)) == ["a"]
