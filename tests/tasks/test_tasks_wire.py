"""What stands in Redis after each step, key by key: what Go finds there."""

import hashlib
from collections.abc import AsyncGenerator

import attrs
import pytest

from terzetto.redis import Redis, Reply, connect
from terzetto.tasks import EnqueueEvent, SchedulerEntry, ServerInfo, TaskState, WorkerInfo
from terzetto.tasks._broker_values import Enqueue
from terzetto.tasks._inspection import Move
from terzetto.tasks._redis_broker import RedisBroker
from tests.tasks.conftest import START, ManualClock
from tests.tasks.work import Field, entry, server_time, take_one, task, unique, was_given

NOW = int(START)
NS = str(NOW * 10**9)
DAY = "2027-01-15"
YEAR_QUARTER = 90 * 86_400
READ = {
    b"string": ("GET",),
    b"list": ("LRANGE", 0, -1),
    b"hash": ("HGETALL",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"set": ("SMEMBERS",),
}


@pytest.fixture
async def redis(single_url: str) -> AsyncGenerator[Redis]:
    async with connect(single_url) as client:
        await client.execute("FLUSHALL")
        yield client


@pytest.fixture
def broker(redis: Redis, clock: ManualClock) -> RedisBroker:
    return RedisBroker(redis, clock=clock)


def plain(value: Reply) -> Reply:
    """Return a reply with text for bytes, and pairs as a dict."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType] - replies are of any type
    if kind is bytes:
        return value.decode("latin-1")
    if kind is dict:
        return {plain(key): plain(each) for key, each in value.items()}
    if kind is list:
        if value and type(value[0]) is list:
            return {plain(member): score for member, score in value}
        return [plain(each) for each in value]
    return value


async def dump(redis: Redis) -> dict[str, Reply]:
    """Return every key without ``asynq:{q}:``, and what it holds."""
    found: dict[str, Reply] = {}
    for key in await redis.execute("KEYS", "*"):
        name, *words = READ[await redis.execute("TYPE", key)]
        short = key.decode().removeprefix("asynq:{q}:")
        found[short] = plain(await redis.execute(name, key, *words))
    return found


def msg(of: Enqueue, **changes: Field) -> str:
    return attrs.evolve(of.message, **changes).encode().decode("latin-1")


LISTED = {"asynq:queues": ["q"]}
COUNTED = {"processed": "1", f"processed:{DAY}": "1"}
FAILED = {**COUNTED, "failed": "1", f"failed:{DAY}": "1"}


async def test_enqueue(broker: RedisBroker, redis: Redis) -> None:
    a, b = entry("a"), entry("b")
    await broker.enqueue([a, b])

    assert await dump(redis) == {
        **LISTED,
        "pending": ["b", "a"],
        "t:a": {"msg": msg(a), "state": "pending", "pending_since": NS},
        "t:b": {"msg": msg(b), "state": "pending", "pending_since": NS},
    }


async def test_enqueue_unique(broker: RedisBroker, redis: Redis) -> None:
    a = unique("a", lasts=60)
    began = await server_time(redis)
    await broker.enqueue([a])

    lock = f"unique:email:{hashlib.md5(b'{}', usedforsecurity=False).hexdigest()}"
    assert await dump(redis) == {
        **LISTED,
        "pending": ["a"],
        lock: "a",
        "t:a": {
            "msg": msg(a),
            "state": "pending",
            "pending_since": NS,
            "unique_key": f"asynq:{{q}}:{lock}",
        },
    }
    assert await was_given(redis, f"asynq:{{q}}:{lock}", 60, since=began)


@pytest.mark.parametrize(("seconds", "extra"), [(60.0, {}), (59.25, {"due_ms": "1800000059250"})])
async def test_schedule(
    broker: RedisBroker, redis: Redis, seconds: float, extra: dict[str, str]
) -> None:
    a = Enqueue(message=task("a"), process_at=START + seconds)
    await broker.enqueue([a])

    assert await dump(redis) == {
        **LISTED,
        "scheduled": {"a": NOW + 60},
        "t:a": {"msg": msg(a), "state": "scheduled", **extra},
    }


async def test_add_to_a_group_and_take_it(
    broker: RedisBroker, redis: Redis, clock: ManualClock
) -> None:
    a = entry("a", group="g")
    await broker.enqueue([a])
    fields = {"msg": msg(a), "state": "aggregating", "group": "g"}
    assert await dump(redis) == {**LISTED, "groups": ["g"], "g:g": {"a": NOW}, "t:a": fields}
    clock.advance(60)

    batch = await broker.take_batch("q", "g", grace=60)

    assert batch is not None
    assert await dump(redis) == {
        **LISTED,
        f"g:g:{batch.set_id}": {"a": NOW},
        "aggregation_sets": {f"asynq:{{q}}:g:g:{batch.set_id}": NOW + 180},
        "t:a": fields,
    }


async def test_dequeue_and_requeue(broker: RedisBroker, redis: Redis, clock: ManualClock) -> None:
    a = entry("a")
    await broker.enqueue([a])
    lease = await take_one(broker)
    assert await dump(redis) == {
        **LISTED,
        "active": ["a"],
        "lease": {"a": NOW + 30},
        "t:a": {"msg": msg(a), "state": "active", "pending_since": lease.token},
    }
    assert not lease.token.isdigit()  # Go takes it for no time
    clock.advance(1)

    await broker.requeue(lease)

    since = str((NOW + 1) * 10**9)
    assert await dump(redis) == {
        **LISTED,
        "pending": ["a"],
        "t:a": {"msg": msg(a), "state": "pending", "pending_since": since},
    }


async def test_done(broker: RedisBroker, redis: Redis) -> None:
    await broker.enqueue([unique("a")])
    await broker.complete(await take_one(broker))

    assert await dump(redis) == {**LISTED, **COUNTED}
    assert await redis.execute("EXPIRETIME", f"asynq:{{q}}:processed:{DAY}") == NOW + YEAR_QUARTER


async def test_complete(broker: RedisBroker, redis: Redis) -> None:
    a = unique("a", retention=60)
    await broker.enqueue([a])
    await broker.complete(await take_one(broker), result=b"\0r")

    assert await dump(redis) == {
        **LISTED,
        **COUNTED,
        "completed": {"a": NOW + 60},
        "t:a": {
            "msg": msg(a, completed_at=NOW),
            "state": "completed",
            "result": "\0r",
            "unique_key": a.message.unique_key,
        },
    }


@pytest.mark.parametrize("counts", [True, False])
async def test_retry(broker: RedisBroker, redis: Redis, *, counts: bool) -> None:
    a = entry("a")
    await broker.enqueue([a])
    await broker.retry(await take_one(broker), at=START + 20, error="e", is_failure=counts)

    assert await dump(redis) == {
        **LISTED,
        **(FAILED if counts else {}),
        "retry": {"a": NOW + 20},
        "t:a": {
            "msg": msg(a, retried=int(counts), error="e", last_failed_at=NOW),
            "state": "retry",
        },
    }


async def test_archive(broker: RedisBroker, redis: Redis) -> None:
    a = entry("a")
    await broker.enqueue([a])
    await broker.archive(await take_one(broker), error="e")

    assert await dump(redis) == {
        **LISTED,
        **FAILED,
        "archived": {"a": NOW},
        "t:a": {"msg": msg(a, error="e", last_failed_at=NOW), "state": "archived"},
    }


async def test_a_full_counter_begins_again(broker: RedisBroker, redis: Redis) -> None:
    await redis.execute("SET", "asynq:{q}:processed", 2**63 - 1)
    await broker.enqueue([entry("a")])
    await broker.complete(await take_one(broker))
    assert await redis.execute("GET", "asynq:{q}:processed") == b"1"


async def test_moves_by_hand(broker: RedisBroker, redis: Redis) -> None:
    a = Enqueue(message=task("a"), process_at=START + 59.5)
    await broker.enqueue([a])
    await broker.move_task("q", "a", Move.ARCHIVE)
    assert await dump(redis) == {
        **LISTED,
        "archived": {"a": NOW},
        "t:a": {"msg": msg(a), "state": "archived"},
    }
    await broker.move_tasks("q", TaskState.ARCHIVED, Move.RUN)
    assert await dump(redis) == {
        **LISTED,
        "pending": ["a"],
        "t:a": {"msg": msg(a), "state": "pending", "pending_since": NS},
    }
    await broker.move_task("q", "a", Move.DELETE)
    await broker.pause("q")
    assert await dump(redis) == {**LISTED, "paused": str(NOW)}
    await broker.resume("q")
    await broker.delete_queue("q", force=False)
    assert await dump(redis) == {}


async def test_servers_and_schedulers(broker: RedisBroker, redis: Redis) -> None:
    info = ServerInfo(
        host="h", pid=1, server_id="s", concurrency=1, queues={"q": 1}, started_at=START
    )
    worker = WorkerInfo(
        host="h",
        pid=1,
        server_id="s",
        task_id="a",
        task_type="t",
        payload=b"",
        queue="q",
        started_at=START,
        deadline=START,
    )
    first, second = (SchedulerEntry(id=name, spec="@daily", task_type="t") for name in "ab")
    event = EnqueueEvent(task_id="t", enqueued_at=START + 0.5)
    began = await server_time(redis)
    await broker.write_server(info, [worker])
    await broker.write_entries("h:1:u", [first, second])
    await broker.record_event("a", event)

    expected = {
        "asynq:servers": {"asynq:servers:{h:1:s}": NOW + 10},
        "asynq:workers": {"asynq:workers:{h:1:s}": NOW + 10},
        "asynq:servers:{h:1:s}": info.encode(),
        "asynq:workers:{h:1:s}": {"a": worker.encode()},
        "asynq:schedulers": {"asynq:schedulers:{h:1:u}": NOW + 20},
        "asynq:schedulers:{h:1:u}": [second.encode(), first.encode()],
        "asynq:scheduler_history:a": {event.encode().decode("latin-1"): NOW},
    }
    assert await dump(redis) == plain(expected)
    for key, seconds in (
        ("asynq:servers:{h:1:s}", 10),
        ("asynq:workers:{h:1:s}", 10),
        ("asynq:schedulers:{h:1:u}", 20),
    ):
        assert await was_given(redis, key, seconds, since=began)
