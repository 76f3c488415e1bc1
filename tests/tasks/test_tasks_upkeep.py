"""The contract of a broker, second part: groups, signals and limits."""

import trio

from terzetto.tasks._broker_values import CancelRequest, Conflict, Enqueue, Outcome, Placed
from terzetto.tasks._message import TaskState
from tests.tasks.conftest import START, AnyBroker, ManualClock
from tests.tasks.work import PATIENCE, PENDING, entry, state_of, take, take_one, task

# ------------------------------------------------------------------- groups


async def test_a_group_is_taken_when_it_is_time_and_enqueued_as_one(
    broker: AnyBroker, clock: ManualClock
) -> None:
    for number in range(3):
        placed = await broker.enqueue([entry(f"t{number}", group="g")])
        assert placed == [Placed(TaskState.AGGREGATING)]
        clock.advance(1)
    assert await broker.list_groups("q") == ["g"]
    assert await broker.take_batch("q", "g", grace=60) is None
    batch = await broker.take_batch("q", "g", max_size=2, grace=60)
    assert batch is not None
    assert [message.id for message in batch.messages] == ["t0", "t1"]
    assert batch.deadline == int(clock.now() + 120)

    whole = Enqueue(message=task("whole", payload=b"all"))
    assert await broker.finish_batch(batch, whole) == PENDING

    assert await broker.finish_batch(batch, whole) is None
    assert (await take_one(broker)).message == whole.message
    assert await broker.read_task("q", "t0") is None
    assert await broker.take_batch("q", "g", max_delay=2, grace=60) is None
    clock.advance(1)
    late = await broker.take_batch("q", "g", max_delay=2, grace=60)
    assert late is not None
    assert [message.id for message in late.messages] == ["t2"]
    assert await broker.list_groups("q") == []


async def test_a_group_is_taken_when_nothing_joined_for_its_grace(
    broker: AnyBroker, clock: ManualClock
) -> None:
    await broker.enqueue([entry("t0", group="g"), entry("t1", group="g")])
    clock.advance(9)
    assert await broker.take_batch("q", "g", grace=10) is None
    clock.advance(1)
    batch = await broker.take_batch("q", "g", grace=10)
    assert batch is not None
    assert len(batch.messages) == 2


async def test_a_batch_that_nobody_finished_goes_back(
    broker: AnyBroker, clock: ManualClock
) -> None:
    await broker.enqueue([entry("t0", group="a:b"), entry("t1", group="a:b")])
    clock.advance(60)
    batch = await broker.take_batch("q", "a:b", grace=60)
    assert batch is not None
    clock.advance(119)
    assert await broker.reclaim_batches("q") == 0
    clock.advance(1)

    assert await broker.reclaim_batches("q") == 1

    assert await broker.list_groups("q") == ["a:b"]
    assert await broker.finish_batch(batch, entry("whole")) is None
    again = await broker.take_batch("q", "a:b", grace=60)
    assert again is not None
    assert [message.id for message in again.messages] == ["t0", "t1"]


async def test_a_refused_aggregate_leaves_its_batch(broker: AnyBroker, clock: ManualClock) -> None:
    await broker.enqueue([entry("t0", group="g"), entry("taken")])
    clock.advance(60)
    batch = await broker.take_batch("q", "g", grace=60)
    assert batch is not None

    assert await broker.finish_batch(batch, entry("taken")) == Conflict()

    assert await state_of(broker, "t0") is TaskState.AGGREGATING
    assert await broker.finish_batch(batch, entry("free")) == PENDING


# ------------------------------------------------------------------ signals


async def test_workers_are_woken_when_tasks_become_pending(broker: AnyBroker) -> None:
    with trio.fail_after(PATIENCE):
        async with broker.open_wakeups(["q", "r"]) as wakeups:
            await broker.enqueue([entry("a", "r")])
            assert await wakeups.wait() == {"r"}
            await broker.enqueue([Enqueue(message=task("s"), process_at=START + 0.001)])
            lease = await take_one(broker, "r")
            await broker.requeue(lease)
            assert await wakeups.wait() == {"r"}
            await broker.resume("q")
            assert await wakeups.wait() == {"q"}


async def test_wishes_to_cancel_are_heard(broker: AnyBroker) -> None:
    wishes = [
        CancelRequest(task_id="a"),
        CancelRequest(task_id="b", queue="q"),
        CancelRequest(task_id="ü", queue="q", drop=True),
        CancelRequest(task_id="d", drop=True),
    ]
    with trio.fail_after(PATIENCE):
        async with broker.open_cancels() as cancels:
            for wish in wishes:
                await broker.send_cancel(wish)
                assert await anext(cancels) == wish


async def test_the_end_of_a_task_is_heard_by_those_who_watch(broker: AnyBroker) -> None:
    await broker.enqueue([entry("done"), entry("bad"), entry("quiet")])
    done, bad, quiet = await take(broker, limit=3)
    with trio.fail_after(PATIENCE):
        for lease, expected in (
            (done, Outcome(state=TaskState.COMPLETED, result=b"\0\xff")),
            (bad, Outcome(state=TaskState.ARCHIVED, error="no")),
            (quiet, Outcome(state=TaskState.COMPLETED)),
        ):
            async with broker.watch_outcome("q", lease.message.id) as watch:
                assert await watch.wait() is None  # from now on
                if expected.state is TaskState.ARCHIVED:
                    await broker.archive(lease, error="no")
                else:
                    await broker.complete(lease, result=expected.result)
                assert await watch.wait() == expected


# ------------------------------------------------------------------- limits


async def test_a_scope_has_only_so_many_places(broker: AnyBroker, clock: ManualClock) -> None:
    assert await broker.acquire("s", "a", limit=2, until=START + 10)
    assert await broker.acquire("s", "b", limit=2, until=START + 20)
    assert not await broker.acquire("s", "c", limit=2, until=START + 20)
    assert await broker.acquire("s", "a", limit=2, until=START + 15)
    await broker.release("s", "b")
    await broker.release("s", "b")
    assert await broker.acquire("s", "c", limit=2, until=START + 20)
    clock.advance(15)
    assert await broker.acquire("s", "d", limit=2, until=START + 20)
    assert not await broker.acquire("s", "e", limit=2, until=START + 20)


async def test_a_rate_is_kept_with_its_burst(broker: AnyBroker, clock: ManualClock) -> None:
    async def turn() -> float:
        return await broker.take_rate("s", per_second=2, burst=3)

    assert [await turn() for _ in range(4)] == [0, 0, 0, 0.5]
    clock.advance(0.5)
    assert [await turn(), await turn()] == [0, 0.5]
    clock.advance(60)
    assert [await turn() for _ in range(4)] == [0, 0, 0, 0.5]
