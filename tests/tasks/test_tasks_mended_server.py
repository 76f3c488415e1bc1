"""What asynq's servers and inspector get wrong or do slowly, and what ours do instead.

What shows in Redis without a server is in `test_tasks_mended.py`.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import attrs
import pytest
import trio
from redis.exceptions import ResponseError
from trio.testing import MockClock

from terzetto.redis import Redis, connect
from terzetto.tasks import (
    Grouping,
    Inspector,
    Periodic,
    Router,
    ServerInfo,
    Task,
    TaskContext,
    TaskMessage,
    TaskState,
    WorkerInfo,
    open_scheduler,
    open_server,
)
from terzetto.tasks._broker import Broker
from terzetto.tasks._broker_values import CancelRequest, Lease
from terzetto.tasks._redis_broker import RedisBroker
from terzetto.tasks.testing import MemoryBroker
from tests.tasks.conftest import AnyBroker
from tests.tasks.serving import put, reaches, serving, task, until, until_true
from tests.tasks.work import server_time

QUEUE = "default"


@pytest.fixture
async def redis(single_url: str) -> AsyncGenerator[Redis]:
    async with connect(single_url) as client:
        await client.execute("FLUSHALL")
        yield client


@pytest.fixture
async def memory(autojump_clock: MockClock) -> MemoryBroker:
    return MemoryBroker()


async def calls_of(redis: Redis, command: str) -> tuple[int, float]:
    """Return how often the server has run a command, and the microseconds of one call."""
    text = (await redis.execute("INFO", "commandstats")).decode()
    for line in text.splitlines():
        name, _, figures = line.partition(":")
        if name == f"cmdstat_{command}":
            found = dict(each.split("=") for each in figures.split(","))
            return int(found["calls"]), float(found["usec_per_call"])
    return 0, 0.0


# Fetching and finishing --------------------------------------------------------------


async def test_many_tasks_are_taken_and_finished_with_few_scripts(redis: Redis) -> None:
    """asynq takes one task, and finishes one, with each round trip."""
    broker, router, ran = RedisBroker(redis), Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    await put(broker, *(task() for _ in range(640)))
    await redis.execute("CONFIG", "RESETSTAT")
    async with serving(broker, router, concurrency=64):
        await until_true(lambda: len(ran) == 640)
    taken, _ = await calls_of(redis, "rpop")
    counted, _ = await calls_of(redis, "incrby")
    assert taken < 100  # takes
    assert counted < 200  # writes of outcomes, which count twice each


async def test_a_function_that_waits_does_not_part_for_good_what_is_taken_together(
    redis: Redis,
) -> None:
    """Its slot is asked for again with those of the others, not in turns with them."""
    broker, router, ran = RedisBroker(redis), Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)
        if payload:
            await redis.execute("PING")

    await put(broker, *(task(payload=b"waits" * (number % 100 == 0)) for number in range(2_000)))
    await redis.execute("CONFIG", "RESETSTAT")
    async with serving(broker, router, concurrency=10):
        await until_true(lambda: len(ran) == 2_000)
    taken, _ = await calls_of(redis, "rpop")
    assert taken < 300  # 200 at best


async def test_any_number_of_tasks_is_taken_at_once(redis: Redis) -> None:
    """As many as a server may run at once, beyond what a Lua function can be given."""
    broker = RedisBroker(redis)
    names = await put(broker, *(task() for _ in range(5_000)))

    leases = await broker.dequeue([QUEUE], 10_000)

    assert [lease.message.id for lease in leases] == names
    assert len({lease.token for lease in leases}) == len(names)
    assert await broker.dequeue([QUEUE], 1) == []


async def test_tasks_that_fall_due_one_after_the_other_are_moved_together(redis: Redis) -> None:
    """A round for each would look at all that are due in the same second, again and again."""
    broker, router, ran = RedisBroker(redis), Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    began = await server_time(redis)
    dues = [began + 0.3 + number / 200 for number in range(200)]
    await broker.enqueue([attrs.evolve(task(), process_at=due) for due in dues])
    await redis.execute("CONFIG", "RESETSTAT")
    async with serving(broker, router, recover_interval=60.0, janitor_interval=60.0):
        await until_true(lambda: len(ran) == 200)
    looks, _ = await calls_of(redis, "zrangebyscore")
    rounds = looks / 3  # a look at what waits for a retry, and two at what was scheduled
    assert rounds < 30 * (await server_time(redis) - began)


async def test_the_oldest_of_many_running_tasks_is_found_at_once(redis: Redis) -> None:
    """asynq looks through the whole list of running tasks for each that ends."""
    broker, many = RedisBroker(redis), 10_000
    await put(broker, *(task() for _ in range(many)))
    leases = await broker.dequeue([QUEUE], many)
    costs: list[list[float]] = []
    for some in (leases[:100], leases[-100:][::-1]):
        costs.append([])
        for start in range(0, 100, 20):
            await redis.execute("CONFIG", "RESETSTAT")
            for lease in some[start : start + 20]:
                assert await broker.complete(lease)
            costs[-1].append((await calls_of(redis, "lrem"))[1])
    oldest, newest = costs
    assert min(oldest) < min(newest) / 5  # the least: whatever else the machine does adds to it


async def test_a_redis_that_gives_no_tasks_is_asked_ever_more_slowly(
    autojump_clock: MockClock, memory: MemoryBroker
) -> None:
    """asynq asks again at once, as fast as it can."""
    router, ran, refusals = Router(), list[bytes](), list[float]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    @attrs.define
    class Refusing:
        memory: MemoryBroker
        is_refusing: bool = True

        def __getattr__(self, name: str) -> object:
            return getattr(self.memory, name)

        async def dequeue(
            self, queues: Sequence[str], limit: int, *, lease_for: float
        ) -> list[Lease]:
            if self.is_refusing:
                refusals.append(trio.current_time())
                raise ResponseError("OOM command not allowed")
            return await self.memory.dequeue(queues, limit, lease_for=lease_for)

    refusing: Any = Refusing(memory)
    async with serving(refusing, router):
        await trio.sleep(60)
        assert 10 < len(refusals) < 25
        refusing.is_refusing = False
        await put(memory, task())
        await until_true(lambda: ran)


async def test_a_sign_of_life_that_hangs_holds_up_neither_tasks_nor_leases(
    autojump_clock: MockClock, memory: MemoryBroker
) -> None:
    """In asynq, fetching, finishing and the extending of leases wait for it."""
    router, ran = Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        await trio.sleep(float(payload))
        ran.append(payload)

    @attrs.define
    class Hanging:
        memory: MemoryBroker

        def __getattr__(self, name: str) -> object:
            return getattr(self.memory, name)

        async def write_server(self, *_: object, **__: object) -> None:
            await trio.sleep_forever()

    hanging: Any = Hanging(memory)
    (long,) = await put(memory, task(payload=b"100"))
    async with open_server(hanging) as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.run, router)
        await trio.sleep(50)
        await put(memory, task(payload=b"1"))
        await until_true(lambda: ran == [b"1"])
        await reaches(memory, long, None)
        nursery.cancel_scope.cancel()
    assert ran == [b"1", b"100"]


async def test_a_hand_back_that_redis_refuses_is_tried_again(
    autojump_clock: MockClock, memory: MemoryBroker
) -> None:
    """asynq logs it, and the task waits for its lease to run out."""
    router, running = Router(), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        running.set()
        await trio.sleep_forever()

    @attrs.define
    class Full:
        memory: MemoryBroker
        refusals: int = 3

        def __getattr__(self, name: str) -> object:
            return getattr(self.memory, name)

        async def requeue(self, lease: Lease) -> bool:
            if self.refusals:
                self.refusals -= 1
                raise ResponseError("OOM command not allowed")
            return await self.memory.requeue(lease)

    full: Any = Full(memory)
    (task_id,) = await put(memory, task())
    async with serving(full, router, shutdown_timeout=0.0):
        await running.wait()
    info = await memory.read_task(QUEUE, task_id)
    assert info is not None
    assert (info.state, info.message.retried, full.refusals) == (TaskState.PENDING, 0, 0)


async def test_equal_ids_in_two_queues_are_two_tasks(place: AnyBroker) -> None:
    """In asynq one of them loses its lease, and who cancels one cancels both."""
    router, running, release = Router(), set[str](), trio.Event()

    @router.task("x")
    async def work(payload: bytes, ctx: TaskContext) -> None:
        running.add(ctx.queue)
        await release.wait()

    await put(place, *(task(id="same", queue=queue, retention=60) for queue in "ab"))
    began = place.now()
    async with serving(place, router, queues={"a": 1, "b": 1}):
        await until_true(lambda: running == {"a", "b"})
        await until_true(lambda: place.now() > began + 3.5)  # their first leases are over
        for queue in "ab":
            info = await place.read_task(queue, "same")
            assert info is not None
            assert (info.state, info.is_orphaned) == (TaskState.ACTIVE, False)
        await place.send_cancel(CancelRequest(task_id="same", queue="a"))
        await reaches(place, "same", TaskState.RETRY, queue="a")
        release.set()
        await reaches(place, "same", TaskState.COMPLETED, queue="b")


# Without a server, and with many -----------------------------------------------------


async def test_what_fell_due_while_no_server_ran_is_done_by_the_next(
    autojump_clock: MockClock, memory: MemoryBroker
) -> None:
    """A queue without a server is tended by nobody; nothing in it is lost for that.

    So is what a closing server leaves in a group.
    """
    router, ran = Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    async def aggregate(_: str, tasks: Sequence[TaskMessage]) -> Task:
        return Task("x", b",".join(each.payload for each in tasks))

    grouping = Grouping(aggregate=aggregate, grace=600.0)
    (kept,) = await put(memory, task(payload=b"kept", retention=60))
    async with serving(memory, router, grouping=grouping):
        await reaches(memory, kept, TaskState.COMPLETED)
        await put(memory, *(task("y", b"%d" % number, group="g") for number in range(3)))
    assert await memory.list_groups(QUEUE) == ["g"]
    await put(memory, task(payload=b"held"))
    assert await memory.dequeue([QUEUE], 1)  # by a server that dies
    await put(memory, task(payload=b"later", process_at=memory.now() + 100))
    await trio.sleep(1000)
    ran.clear()

    async with serving(memory, router, grouping=grouping):
        await until_true(lambda: len(ran) == 3)
        await reaches(memory, kept, None)
    assert sorted(ran) == [b"0,1,2", b"held", b"later"]


async def test_an_idle_server_asks_little(redis: Redis) -> None:
    """A poll, a look at what is due and at leases, a second each, and a sign of life."""
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> None: ...

    async def commands() -> int:
        text = (await redis.execute("INFO", "stats")).decode()
        (line,) = [each for each in text.splitlines() if each.startswith("total_commands_p")]
        return int(line.partition(":")[2])

    async with open_server(redis) as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.run, router)
        await until(Inspecting(redis).sees_a_server)
        before, began = await commands(), trio.current_time()
        await trio.sleep(3)  # the span itself is what is measured
        spent = (await commands() - before) / (trio.current_time() - began)
        nursery.cancel_scope.cancel()
    # Commands in scripts count too.
    assert spent < 30


@attrs.define
class Inspecting:
    """Looks whether a server is there."""

    redis: Redis

    async def sees_a_server(self) -> bool:
        return bool(await Inspector(self.redis).list_servers())


@attrs.define
class Counting:
    """A client that counts how often it is called: each call is a round trip."""

    redis: Redis
    trips: int = 0

    def __getattr__(self, name: str) -> object:
        found: object = getattr(self.redis, name)
        if name in {"execute", "execute_many", "run_script"}:
            self.trips += 1
        return found


async def test_looking_at_many_takes_as_many_round_trips_as_looking_at_one(redis: Redis) -> None:
    """asynq asks for each server, its tasks, each scheduler and each queue apart."""
    counting: Any = Counting(redis)
    broker = RedisBroker(counting)
    trips: list[int] = []
    for number in (1, 20):
        for each in range(number):
            await write_all(broker, f"{number}-{each}")
        counting.trips = 0
        servers, entries = await broker.list_servers(), await broker.list_entries()
        queues = await broker.read_queues(await broker.list_queues())
        trips.append(counting.trips)
        assert len(servers) == len(entries) == len(queues) == (1 if number == 1 else 21)
        assert all(server.workers for server in servers)
    assert trips[0] == trips[1]


async def write_all(broker: Broker, name: str) -> None:
    """Write a server that runs something, a scheduler with an entry, and a queue."""
    now = broker.now()
    info = ServerInfo(
        host="h", pid=1, server_id=name, concurrency=1, queues={name: 1}, started_at=now
    )
    worker = WorkerInfo(
        host="h",
        pid=1,
        server_id=name,
        task_id=name,
        task_type="x",
        payload=b"",
        queue=name,
        started_at=now,
        deadline=now + 9,
    )
    await broker.write_server(info, [worker])
    async with open_scheduler(MemoryBroker(), entries=[Periodic("@daily", Task(name))]) as made:
        entries = [entry.shown() for entry in made.entries.values()]
    await broker.write_entries(name, entries)
    await put(broker, task(queue=name))


# Schedulers --------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0.7, 60.0])
async def test_a_scheduler_can_be_seen_at_once(redis: Redis, interval: float) -> None:
    """asynq's are first seen after a heartbeat; one of a broken second leaves them for ever."""
    entries = [Periodic("@daily", Task("x"))]
    broker = RedisBroker(redis)

    async def is_shown() -> bool:
        return bool(await broker.list_entries())

    with trio.fail_after(30):
        async with open_scheduler(redis, entries=entries, heartbeat_interval=interval) as made:
            await until(is_shown)
            key = f"asynq:schedulers:{{{made.id}}}"
            assert 0 < await redis.execute("TTL", key) <= max(1, round(2 * interval))
