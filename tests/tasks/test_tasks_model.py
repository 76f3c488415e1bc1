"""Random stories on Redis and in memory at once: both tell the same, and Redis stays in order."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeAlias

import attrs
import pytest
import trio

from terzetto.redis import Redis, connect
from terzetto.tasks import TaskState, TaskStateError
from terzetto.tasks._broker_values import Batch, Enqueue, Lease, Tick
from terzetto.tasks._inspection import Move
from terzetto.tasks._memory_broker import MemoryBroker
from terzetto.tasks._redis_broker import RedisBroker
from tests.tasks.conftest import AnyBroker, ManualClock
from tests.tasks.work import entry, task, unique

Step: TypeAlias = Callable[["Side"], Awaitable[Any]]


@attrs.define
class Side:
    """A broker, and what was taken from it."""

    broker: AnyBroker
    clock: ManualClock
    leases: list[Lease] = attrs.field(factory=list[Lease])
    batches: list[Batch] = attrs.field(factory=list[Batch])


def enqueue(task_id: str, kind: str, retention: int) -> Step:
    async def step(side: Side) -> Any:  # noqa: ANN401 - any
        entries = {
            "plain": entry(task_id, retention=retention),
            "unique": unique(task_id, lasts=10**6, retention=retention),
            "later": Enqueue(message=task(task_id, retention=retention), process_in=20),
            "group": entry(task_id, group="g", retention=retention),
            "unique group": unique(task_id, lasts=10**6, group="g"),
            "later group": Enqueue(message=task(task_id, group="g"), process_in=20),
            "tick": Enqueue(message=task(task_id), tick=Tick(schedule="s", at=side.clock.now())),
        }
        return await side.broker.enqueue([entries[kind]])

    return step


def dequeue(limit: int) -> Step:
    async def step(side: Side) -> Any:  # noqa: ANN401 - any
        taken = await side.broker.dequeue(["q"], limit)
        side.leases += taken
        return [(lease.message, lease.expires_at) for lease in taken]

    return step


def finish(number: int, outcome: str) -> Step:
    async def step(side: Side) -> Any:  # noqa: ANN401 - any
        if not side.leases:
            return None
        broker, lease = side.broker, side.leases[number % len(side.leases)]
        if outcome == "extend":
            end, lost = await broker.extend([lease])
            return end, bool(lost)
        writes: dict[str, Callable[[], Awaitable[bool]]] = {
            "complete": lambda: broker.complete(lease, result=b"r"),
            "drop": lambda: broker.complete(lease, retain=False),
            "requeue": lambda: broker.requeue(lease),
            "retry": lambda: broker.retry(lease, at=side.clock.now() + 9, error="e"),
            "postpone": lambda: broker.retry(
                lease, at=side.clock.now(), error=None, is_failure=False
            ),
            "archive": lambda: broker.archive(lease, error="e"),
            "result": lambda: broker.write_result(lease, b"half"),
        }
        return await writes[outcome]()

    return step


def pass_time(seconds: int) -> Step:
    async def step(side: Side) -> None:
        await trio.lowlevel.checkpoint()
        side.clock.advance(seconds)

    return step


async def take_expired(side: Side) -> Any:  # noqa: ANN401 - any
    taken = sorted(await side.broker.take_expired("q"), key=lambda lease: lease.message.id)
    side.leases += taken
    return [(lease.message, lease.expires_at) for lease in taken]


async def take_batch(side: Side) -> Any:  # noqa: ANN401 - any
    batch = await side.broker.take_batch("q", "g", max_size=2, grace=30)
    if batch is None:
        return None
    side.batches.append(batch)
    return batch.messages, batch.deadline


async def finish_batch(side: Side) -> Any:  # noqa: ANN401 - any
    if not side.batches:
        return None
    whole = entry(f"whole{len(side.batches)}")
    return await side.broker.finish_batch(side.batches[-1], whole)


def chore(name: str) -> Step:
    chores: dict[str, Step] = {
        "take_expired": take_expired,
        "take_batch": take_batch,
        "finish_batch": finish_batch,
        "pause": lambda side: side.broker.pause("q"),
        "resume": lambda side: side.broker.resume("q"),
        "forward": lambda side: side.broker.forward("q"),
        "delete_expired": lambda side: side.broker.delete_expired("q"),
        "reclaim": lambda side: side.broker.reclaim_batches("q"),
    }
    return chores[name]


def move_one(task_id: str, move: Move) -> Step:
    async def step(side: Side) -> Any:  # noqa: ANN401 - any
        try:
            return await side.broker.move_task("q", task_id, move)
        except TaskStateError:
            return "refused"

    return step


def move_all(state: TaskState, move: Move) -> Step:
    async def step(side: Side) -> Any:  # noqa: ANN401 - any
        group = "g" if state is TaskState.AGGREGATING else ""
        return await side.broker.move_tasks("q", state, move, group=group)

    return step


IDS = "abcdefghijkl"
KINDS = [
    "plain",
    "plain",
    "unique",
    "later",
    "group",
    "unique group",
    "unique group",
    "later group",
    "tick",
]
OUTCOMES = ["complete", "drop", "requeue", "retry", "postpone", "archive", "result", "extend"]
MOVABLE = [TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED, TaskState.AGGREGATING]
CHORES = [
    "forward",
    "forward",
    "take_expired",
    "take_batch",
    "take_batch",
    "finish_batch",
    "finish_batch",
    "reclaim",
    "delete_expired",
    "delete_expired",
    "pause",
    "resume",
    "resume",
]


def choose(random: Random) -> Step:
    """Return a step by chance."""
    task_id = random.choice(IDS)
    steps = {
        enqueue(task_id, random.choice(KINDS), random.choice([0, 15])): 7,
        dequeue(random.randint(1, 2)): 3,
        # Mostly of a lease that is not long gone.
        finish(-random.randint(1, 3), random.choice(OUTCOMES)): 5,
        pass_time(random.choice([1, 5, 10, 31, 121])): 2,
        chore(random.choice(CHORES)): 4,
        move_one(task_id, random.choice(list(Move))): 1,
        move_all(random.choice(MOVABLE), random.choice(list(Move))): 0.5,
    }
    (step,) = random.choices(list(steps), list(steps.values()))
    return step


async def look(broker: AnyBroker) -> Any:  # noqa: ANN401 - any
    """Return all that can be seen from outside."""
    names = [*IDS, *(f"whole{number}" for number in range(9))]
    (info,) = await broker.read_queues(["q"])
    found = [await broker.read_task("q", name) for name in names]
    pending = await broker.list_tasks("q", TaskState.PENDING, first=0, count=99)
    groups = await broker.list_group_sizes("q")
    return info and attrs.evolve(info, latency=round(info.latency, 3)), found, pending, groups


async def check_order(redis: Redis) -> None:
    """Check that each task is in exactly the place that its state names."""
    places: dict[str, list[str]] = {}
    for key in sorted(await redis.execute("KEYS", "asynq:{q}:*")):
        name = key.decode().removeprefix("asynq:{q}:")
        if name in {"pending", "active"}:
            found = await redis.execute("LRANGE", key, 0, -1)
        elif name in {"scheduled", "retry", "archived", "completed"} or name.startswith("g:"):
            found = await redis.execute("ZRANGE", key, 0, -1)
        else:
            continue
        state = "aggregating" if name.startswith("g:") else name
        for task_id in found:
            places.setdefault(task_id.decode(), []).append(state)
    leased = {member.decode() for member in await redis.execute("ZRANGE", "asynq:{q}:lease", 0, -1)}
    assert leased == {name for name, where in places.items() if where == ["active"]}
    states: dict[str, list[str]] = {}
    for key in await redis.execute("KEYS", "asynq:{q}:t:*"):
        state, message = await redis.execute("HMGET", key, "state", "msg")
        assert message is not None
        states[key.decode().rpartition(":")[2]] = [state.decode()]
    assert places == states
    for lock in await redis.execute("KEYS", "asynq:{q}:unique:*"):
        assert (await redis.execute("GET", lock)).decode() in states


@pytest.mark.parametrize("seed", range(6))
async def test_redis_and_memory_tell_the_same_story(single_url: str, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - a test's dice
    async with connect(single_url) as redis:
        await redis.execute("FLUSHALL")
        clocks = ManualClock(), ManualClock()
        ours = Side(RedisBroker(redis, clock=clocks[0]), clocks[0])
        model = Side(MemoryBroker(clock=clocks[1]), clocks[1])
        for side in (ours, model):  # so that the queue is there
            await side.broker.enqueue([entry("x")])
        for number in range(150):
            step = choose(random)
            assert await step(ours) == await step(model), f"step {number}: {step.__qualname__}"
            assert await look(ours.broker) == await look(model.broker), f"step {number}"
            if number % 10 == 0:
                await check_order(redis)
