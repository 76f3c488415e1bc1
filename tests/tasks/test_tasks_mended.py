"""What asynq loses, leaks or gets wrong on this wire, and what becomes of it here.

Those that need a running server are in `test_tasks_server*.py`; those that show in
any broker are in its contract. These look into Redis itself.
"""

import time
from collections.abc import AsyncGenerator
from types import ModuleType

import pytest

from terzetto.redis import Redis, connect
from terzetto.tasks import Client, Inspector, Task, TaskState, WorkerInfo
from terzetto.tasks import _redis_base as base
from terzetto.tasks import _redis_upkeep as upkeep
from terzetto.tasks import _redis_work as work
from terzetto.tasks._broker_values import Enqueue
from terzetto.tasks._inspection import Move
from terzetto.tasks._message import EnqueueEvent, ServerInfo
from terzetto.tasks._redis_broker import RedisBroker
from tests.tasks.conftest import START, ManualClock
from tests.tasks.work import (
    PENDING,
    entry,
    ids,
    server_time,
    state_of,
    take,
    take_one,
    task,
    unique,
    was_given,
)

LOCK = "asynq:{q}:unique:email:99914b932bd37a50b983c5e7c90ae93b"


@pytest.fixture
async def redis(single_url: str) -> AsyncGenerator[Redis]:
    async with connect(single_url) as client:
        await client.execute("FLUSHALL")
        yield client


@pytest.fixture
def broker(redis: Redis, clock: ManualClock) -> RedisBroker:
    return RedisBroker(redis, clock=clock)


# ------------------------------------------------- an id whose task is gone


async def test_an_id_without_a_task_is_dropped_when_it_would_be_taken(
    broker: RedisBroker, redis: Redis
) -> None:
    await broker.enqueue([entry("gone"), entry("there"), entry("too")])
    await redis.execute("DEL", "asynq:{q}:t:gone")
    await redis.execute("LPUSH", "asynq:{q}:pending", "never")

    assert ids(await take(broker, limit=2)) == ["there", "too"]  # as many as were asked for
    assert await take(broker) == []

    assert await redis.execute("LRANGE", "asynq:{q}:active", 0, -1) == [b"too", b"there"]
    assert not await redis.execute("EXISTS", "asynq:{q}:t:gone", "asynq:{q}:t:never")


async def test_an_active_id_without_a_task_is_dropped_when_its_lease_is_over(
    broker: RedisBroker, redis: Redis
) -> None:
    await redis.execute("LPUSH", "asynq:{q}:active", "gone")
    await redis.execute("ZADD", "asynq:{q}:lease", START - 1, "gone")
    await redis.execute("HSET", "asynq:{q}:t:gone", "state", "active")

    assert await broker.take_expired("q") == []

    assert await redis.execute("KEYS", "asynq:*") == []


async def test_a_task_that_cannot_be_read_is_archived_and_can_be_deleted(
    broker: RedisBroker, redis: Redis
) -> None:
    await broker.enqueue([entry("bad"), entry("good")])
    await redis.execute("HSET", "asynq:{q}:t:bad", "msg", b"\xff\xff")

    assert ids(await take(broker, limit=5)) == ["good"]

    assert await redis.execute("HGET", "asynq:{q}:t:bad", "msg") == b"\xff\xff"
    (queue,) = await broker.read_queues(["q"])
    assert queue is not None
    assert (queue.archived, queue.active) == (1, 1)
    assert await broker.list_tasks("q", TaskState.ARCHIVED, first=0, count=9) == []
    assert await broker.move_task("q", "bad", Move.DELETE) is TaskState.ARCHIVED


async def test_a_task_of_a_group_that_cannot_be_read_is_archived_and_not_deleted_with_its_batch(
    broker: RedisBroker, redis: Redis
) -> None:
    await broker.enqueue([entry(name, group="g") for name in ("good", "bad", "better")])
    await redis.execute("HSET", "asynq:{q}:t:bad", "msg", b"\xff\xff")

    batch = await broker.take_batch("q", "g", max_size=3, grace=60)

    assert batch is not None
    assert sorted(message.id for message in batch.messages) == ["better", "good"]
    assert await broker.finish_batch(batch, entry("one"))
    assert await redis.execute("HGET", "asynq:{q}:t:bad", "msg") == b"\xff\xff"
    assert await redis.execute("ZRANGE", "asynq:{q}:archived", 0, -1) == [b"bad"]
    assert await broker.move_task("q", "bad", Move.DELETE) is TaskState.ARCHIVED


async def test_a_group_of_which_nothing_can_be_read_is_no_batch(
    broker: RedisBroker, redis: Redis
) -> None:
    """It would go back to its group again and again."""
    await broker.enqueue([entry("bad", group="g")])
    await redis.execute("HSET", "asynq:{q}:t:bad", "msg", b"\xff\xff")

    assert await broker.take_batch("q", "g", max_size=1, grace=60) is None

    assert await redis.execute("ZRANGE", "asynq:{q}:archived", 0, -1) == [b"bad"]
    assert await redis.execute("KEYS", "asynq:{q}:*g:*") == []
    assert await redis.execute("ZCARD", "asynq:{q}:aggregation_sets") == 0
    assert await broker.list_groups("q") == []


# -------------------------------------------------------------------- locks


async def test_the_lock_of_a_running_task_is_renewed(broker: RedisBroker, redis: Redis) -> None:
    await broker.enqueue([unique("t", lasts=20)])
    began = await server_time(redis)
    lease = await take_one(broker)
    assert await was_given(redis, LOCK, 30, since=began)
    await redis.execute("EXPIRE", LOCK, 20)

    began = await server_time(redis)
    await broker.extend([lease])

    assert await was_given(redis, LOCK, 30, since=began)


async def test_a_longer_lock_is_left_alone(broker: RedisBroker, redis: Redis) -> None:
    began = await server_time(redis)
    await broker.enqueue([unique("t", lasts=600)])
    given = await redis.execute("PEXPIRETIME", LOCK)
    await broker.extend([await take_one(broker)])
    assert await redis.execute("PEXPIRETIME", LOCK) == given
    assert await was_given(redis, LOCK, 600, since=began)


async def test_a_lock_that_went_to_another_is_not_touched(
    broker: RedisBroker, redis: Redis
) -> None:
    await broker.enqueue([unique("t")])
    lease = await take_one(broker)
    await redis.execute("SET", LOCK, "other", "EX", 25)
    given = await redis.execute("PEXPIRETIME", LOCK)

    await broker.extend([lease])
    await broker.complete(lease)

    assert await redis.execute("GET", LOCK) == b"other"
    assert await redis.execute("PEXPIRETIME", LOCK) == given


async def test_aggregating_releases_the_locks_of_what_it_deletes(
    broker: RedisBroker, redis: Redis
) -> None:
    await broker.enqueue([unique("t", group="g")])
    batch = await broker.take_batch("q", "g", max_size=1, grace=60)
    assert batch is not None
    await broker.finish_batch(batch, entry("whole"))
    assert not await redis.execute("EXISTS", LOCK)


async def test_the_lock_of_a_later_task_counts_from_when_it_is_due(
    broker: RedisBroker, redis: Redis
) -> None:
    message = unique("t", lasts=10).message
    began = await server_time(redis)
    await broker.enqueue([Enqueue(message=message, process_at=START + 100, unique_for=10)])
    assert await was_given(redis, LOCK, 110, since=began)


# ------------------------------------------------------------------ archive


@pytest.mark.parametrize("module", [work, base, upkeep])
async def test_trimming_the_archive_leaves_nothing_behind(
    broker: RedisBroker,
    redis: Redis,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
) -> None:
    await broker.enqueue([unique("t0"), *(entry(f"t{n}") for n in range(1, 5))])
    for lease in await take(broker, limit=3):
        await broker.archive(lease, error="no")
        clock.advance(1)
    monkeypatch.setattr(module, "MAX_ARCHIVED", 3)

    if module is work:
        await broker.archive(await take_one(broker), error="no")
    elif module is base:
        await broker.move_task("q", "t3", Move.ARCHIVE)
    else:
        await broker.archive(await take_one(broker), error="no")
        assert await broker.delete_expired("q") == 1

    assert await redis.execute("ZRANGE", "asynq:{q}:archived", 0, -1) == [b"t1", b"t2", b"t3"]
    assert not await redis.execute("EXISTS", "asynq:{q}:t:t0", LOCK)


async def test_a_long_neglected_archive_does_not_stop_archiving(
    broker: RedisBroker, redis: Redis, clock: ManualClock
) -> None:
    old = [word for number in range(9_000) for word in (1, f"old{number}")]
    await redis.execute("ZADD", "asynq:{q}:archived", *old)
    await broker.enqueue([entry("t")])

    assert await broker.archive(await take_one(broker), error="no")

    assert await state_of(broker, "t") is TaskState.ARCHIVED
    assert await redis.execute("ZCARD", "asynq:{q}:archived") == 8_901
    while await broker.delete_expired("q"):
        pass
    assert await redis.execute("ZRANGE", "asynq:{q}:archived", 0, -1) == [b"t"]
    clock.advance(90 * 86_400)
    assert await broker.delete_expired("q") == 1
    assert not await redis.execute("EXISTS", "asynq:{q}:t:t")


# ------------------------------------------------------------------- groups


async def test_a_later_task_joins_its_group_and_the_group_is_listed(
    broker: RedisBroker, clock: ManualClock
) -> None:
    await broker.enqueue([Enqueue(message=task("t", group="g"), process_in=10)])
    assert await broker.list_groups("q") == []
    clock.advance(10)

    await broker.forward("q")

    assert await state_of(broker, "t") is TaskState.AGGREGATING
    assert await broker.list_groups("q") == ["g"]


# ------------------------------------------------------------------- queues


async def test_a_queue_that_another_deleted_is_listed_again(redis: Redis, single_url: str) -> None:
    client = Client(redis)
    await client.enqueue(Task("t", queue="q"))
    async with connect(single_url) as other:
        await Inspector(other).delete_queue("q", force=True)

    await client.enqueue(Task("t", queue="q"))

    assert await Inspector(redis).list_queues() == ["q"]


async def test_latency_is_known_however_a_task_became_pending(
    broker: RedisBroker, clock: ManualClock
) -> None:
    async def latency() -> float:
        clock.advance(7)
        (info,) = await broker.read_queues(["q"])
        assert info is not None
        return info.latency

    await broker.enqueue([entry("t")])
    assert await latency() == pytest.approx(7)
    await broker.requeue(await take_one(broker))
    assert await latency() == pytest.approx(7)
    for move in (
        broker.move_task("q", "t", Move.RUN),
        broker.move_tasks("q", TaskState.RETRY, Move.RUN),
    ):
        await broker.retry(await take_one(broker), at=START + 999, error="no")
        await move
        assert await latency() == pytest.approx(7)
    await broker.retry(await take_one(broker), at=clock.now(), error="no")
    await broker.forward("q")
    assert await latency() == pytest.approx(7)


async def test_a_late_result_makes_no_task(broker: RedisBroker, redis: Redis) -> None:
    await broker.enqueue([entry("t")])
    lease = await take_one(broker)
    await broker.complete(lease)

    assert not await broker.write_result(lease, b"late")

    assert not await redis.execute("EXISTS", "asynq:{q}:t:t")


async def test_moving_many_tasks_leaves_redis_to_others_in_between(
    broker: RedisBroker, redis: Redis
) -> None:
    await broker.enqueue([entry(f"t{n}") for n in range(1_201)])
    await redis.execute("CONFIG", "RESETSTAT")

    assert await broker.move_tasks("q", TaskState.PENDING, Move.ARCHIVE) == 1_201

    info = await redis.execute("INFO", "commandstats")
    (line,) = [line for line in info.splitlines() if line.startswith(b"cmdstat_evalsha:")]
    assert int(line.split(b"calls=")[1].split(b",")[0]) >= 13


# -------------------------------------------------------------------- clock


async def test_the_servers_clock_counts_and_not_the_clients(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 7200)
    wrong = RedisBroker(redis)
    await wrong.enqueue([Enqueue(message=task("t"), process_in=0)])
    lease = await take_one(wrong)

    monkeypatch.undo()

    assert abs(lease.expires_at - (time.time() + 30)) < 5
    assert abs(wrong.now() - time.time()) < 5
    assert await RedisBroker(redis).take_expired("q") == []


# ------------------------------------------------------- servers, schedulers


async def test_a_heartbeat_writes_only_what_has_changed(broker: RedisBroker, redis: Redis) -> None:
    info = ServerInfo(
        host="h", pid=1, server_id="s", concurrency=3, queues={"q": 1}, started_at=START
    )

    def worker(task_id: str) -> WorkerInfo:
        return WorkerInfo(
            host="h",
            pid=1,
            server_id="s",
            task_id=task_id,
            task_type="t",
            payload=b"x" * 100,
            queue="q",
            started_at=START,
            deadline=START,
        )

    key = "asynq:workers:{h:1:s}"
    await broker.write_server(info, [worker("a"), worker("b")])
    await redis.execute("HSET", key, "a", "untouched")
    await broker.write_server(info, [worker("a"), worker("c")])
    assert await redis.execute("HGET", key, "a") == b"untouched"
    assert sorted(await redis.execute("HKEYS", key)) == [b"a", b"c"]

    await redis.execute("DEL", key)  # it expired
    began = await server_time(redis)
    await broker.write_server(info, [worker("a"), worker("c")])
    assert sorted(await redis.execute("HKEYS", key)) == [b"a", b"c"]
    assert await was_given(redis, key, 10, since=began)


async def test_the_history_of_an_entry_expires(broker: RedisBroker, redis: Redis) -> None:
    for number in range(1_005):
        await broker.record_event("e", EnqueueEvent(task_id="t", enqueued_at=START + number))
    assert await redis.execute("ZCARD", "asynq:scheduler_history:e") == 1000
    assert await redis.execute("TTL", "asynq:scheduler_history:e") > 89 * 86_400


# ------------------------------------------------------------ mixed with Go


async def go_dequeues(redis: Redis, task_id: str, lease_end: float) -> None:
    """Do what Go's server does to take a task."""
    await redis.execute("RPOPLPUSH", "asynq:{q}:pending", "asynq:{q}:active")
    await redis.execute("HSET", f"asynq:{{q}}:t:{task_id}", "state", "active")
    await redis.execute("HDEL", f"asynq:{{q}}:t:{task_id}", "pending_since")
    await redis.execute("ZADD", "asynq:{q}:lease", lease_end, task_id)


async def go_recovers(redis: Redis, task_id: str, *, run: bool) -> None:
    """Do what Go's recoverer does to a task, then its forwarder, or its inspector's run."""
    await redis.execute("LREM", "asynq:{q}:active", 0, task_id)
    await redis.execute("ZREM", "asynq:{q}:lease", task_id)
    await redis.execute("HSET", f"asynq:{{q}}:t:{task_id}", "state", "pending")
    await redis.execute("LPUSH", "asynq:{q}:pending", task_id)
    if not run:
        now_ns = int(START * 1e9)
        await redis.execute("HSET", f"asynq:{{q}}:t:{task_id}", "pending_since", now_ns)


@pytest.mark.parametrize("run", [True, False])
async def test_a_worker_whose_task_go_took_over_writes_nothing(
    broker: RedisBroker, redis: Redis, *, run: bool
) -> None:
    await broker.enqueue([entry("t")])
    late = await take_one(broker)
    await go_recovers(redis, "t", run=run)
    assert not await broker.complete(late)
    await go_dequeues(redis, "t", START + 60)

    assert not await broker.complete(late)
    assert not await broker.write_result(late, b"x")
    assert await broker.extend([late]) == (int(START + 30), {late.token})

    assert await redis.execute("LRANGE", "asynq:{q}:active", 0, -1) == [b"t"]
    (info,) = await broker.read_queues(["q"])
    assert info is not None
    assert info.processed == 0


async def test_a_lease_of_go_gets_the_time_that_go_gives_it(
    broker: RedisBroker, redis: Redis, clock: ManualClock
) -> None:
    await broker.enqueue([entry("t")])
    await go_dequeues(redis, "t", START + 30)
    clock.advance(59)
    assert await broker.take_expired("q") == []
    clock.advance(1)
    (lease,) = await broker.take_expired("q")
    assert await broker.retry(lease, at=START, error="lost")


async def test_a_task_of_go_is_taken_and_finished(broker: RedisBroker, redis: Redis) -> None:
    body = task("t").encode()
    await redis.execute("HSET", "asynq:{q}:t:t", "msg", body, "state", "pending")
    await redis.execute("LPUSH", "asynq:{q}:pending", "t")
    lease = await take_one(broker)
    assert lease.message == task("t")
    assert await broker.complete(lease)
    assert await broker.enqueue([entry("t")]) == [PENDING]
