"""The client: options, refusals, payloads, headers, results."""

import math
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from terzetto.codec import json_codec
from terzetto.errors import InvalidNameError, InvalidOptionError, InvalidPayloadError
from terzetto.redis import connect
from terzetto.tasks import (
    Client,
    DuplicateTaskError,
    Inspector,
    Router,
    Task,
    TaskFailedError,
    TaskHandle,
    TaskIdConflictError,
    TaskInfo,
    TaskNotFoundError,
    TaskState,
    open_server,
    tracing,
)
from terzetto.tasks._broker import Broker
from terzetto.tasks._partitions import partition_names
from terzetto.tasks._redis_broker import RedisBroker
from terzetto.tasks.testing import MemoryBroker
from tests.tasks.conftest import START, ManualClock

PATIENCE = 20.0


@pytest.fixture
def memory(clock: ManualClock) -> MemoryBroker:
    return MemoryBroker(clock=clock)


@pytest.fixture
def client(memory: MemoryBroker) -> Client:
    return Client(memory)


@attrs.frozen
class Email:
    to: str
    copies: int = 1


# ------------------------------------------------------------------ options


async def test_a_task_without_options_gets_those_of_asynq(client: Client) -> None:
    handle = await client.enqueue(Task("email", b"{}"))

    message = (await handle.info()).message
    assert handle.state is TaskState.PENDING
    assert message.id == handle.id
    assert len(handle.id) == 36
    assert attrs.asdict(message) == {
        "type": "email",
        "payload": b"{}",
        "id": handle.id,
        "queue": "default",
        "max_retry": 25,
        "retried": 0,
        "error": "",
        "timeout": 1800,
        "deadline": 0,
        "unique_key": "",
        "last_failed_at": 0,
        "retention": 0,
        "completed_at": 0,
        "group": "",
        "headers": {},
    }


async def test_options_reach_the_wire(client: Client) -> None:
    at = datetime.fromtimestamp(START + 60, UTC)
    handle = await client.enqueue(
        Task("email", b"{}", queue="low", max_retry=3, headers={"a": "1", "b": "1"}),
        queue="high",
        timeout=0.2,
        deadline=at + timedelta(seconds=0.5),
        unique=61.9,
        process_at=at,
        task_id="mine",
        retention=9.1,
        headers={"b": "2"},
    )

    info = await handle.info()
    message = info.message
    assert (handle.id, handle.queue, handle.state) == ("mine", "high", TaskState.SCHEDULED)
    assert info.next_process_at == START + 60
    assert (message.max_retry, message.timeout, message.retention) == (3, 1, 10)
    assert message.deadline == START + 61
    assert message.headers == {"a": "1", "b": "2"}
    assert message.unique_key.startswith("asynq:{high}:unique:email:")


async def test_a_deadline_alone_is_the_only_limit(client: Client) -> None:
    handle = await client.enqueue(Task("t", deadline=START + 5))

    message = (await handle.info()).message
    assert (message.timeout, message.deadline) == (0, START + 5)


async def test_process_in_counts_from_now(client: Client, clock: ManualClock) -> None:
    clock.advance(5)
    handle = await client.enqueue(Task("t", process_in=1.5))
    at_once = await client.enqueue(Task("t", process_in=0))

    assert (await handle.info()).next_process_at == START + 6.5
    assert at_once.state is TaskState.PENDING


async def test_none_is_not_given(client: Client) -> None:
    handle = await client.enqueue(Task("t", queue="low"), queue=None, headers=None, unique=None)

    assert handle.queue == "low"


async def test_a_later_task_joins_its_group_when_it_is_due(
    client: Client, memory: MemoryBroker, clock: ManualClock
) -> None:
    handle = await client.enqueue(Task("t", group="g", process_in=10))
    assert handle.state is TaskState.SCHEDULED
    clock.advance(10)
    await memory.forward("default")

    assert (await handle.info()).state is TaskState.AGGREGATING


WRONG_OPTIONS: list[dict[str, Any]] = [
    {"max_retry": -1},
    {"max_retry": 2**31},
    {"max_retry": 1.5},
    {"timeout": 0},
    {"timeout": -1},
    {"timeout": math.nan},
    {"timeout": math.inf},
    {"timeout": "5"},
    {"deadline": datetime(2030, 1, 1)},  # noqa: DTZ001 - a time zone is what it lacks
    {"deadline": -1},
    {"unique": 0.9},
    {"unique": True},
    {"process_at": math.inf},
    {"process_in": -0.1},
    {"process_in": 1, "process_at": START},
    {"retention": -1},
    {"headers": {"a": 1}},
    {"headers": {"a": "\ud800"}},
    {"headers": "a"},
    {"colour": "red"},
]


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=str)
async def test_wrong_options_are_refused(
    client: Client, memory: MemoryBroker, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidOptionError):
        await client.enqueue(Task("t"), **options)
    with pytest.raises(InvalidOptionError):
        await client.enqueue_many([Task("t"), Task("t", **options)])
    assert await memory.list_queues() == []


@pytest.mark.parametrize("name", ["", " \t", "\ud800", "x" * 513, None, b"x"], ids=repr)
async def test_blank_and_broken_names_are_refused(client: Client, name: Any) -> None:  # noqa: ANN401 - any
    with pytest.raises(InvalidNameError):
        Task(name)
    for option in ("queue", "task_id", "group"):
        if name is not None:
            with pytest.raises(InvalidNameError):
                await client.enqueue(Task("t"), **{option: name})
    with pytest.raises(InvalidNameError):
        await client.enqueue(Task("t"), queue="}q")


# ----------------------------------------------------------------- payloads


async def test_payloads_are_bytes_json_or_what_a_codec_makes(client: Client) -> None:
    codec = json_codec(Email)
    for payload, expected in (
        (b"\0\xff", b"\0\xff"),
        (bytearray(b"x"), b"x"),
        (memoryview(b"y"), b"y"),
        (None, b""),
        ({"to": "ä"}, '{"to":"ä"}'.encode()),
        ("text", b'"text"'),
        (Email("a"), b'{"copies":1,"to":"a"}'),
    ):
        handle = await client.enqueue(Task("t", payload))
        assert (await handle.info()).message.payload == expected
    assert codec.decode(Task("t", Email("a", 2), codec=codec).payload or b"") == Email("a", 2)


def test_a_payload_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(InvalidPayloadError):
        Task("t", object())


async def test_a_payload_over_the_limit_is_refused(memory: MemoryBroker) -> None:
    client = Client(memory, max_payload=10)
    await client.enqueue(Task("t", b"x" * 10))
    with pytest.raises(InvalidPayloadError):
        await client.enqueue(Task("t", b"x" * 11))
    with pytest.raises(InvalidOptionError):
        Client(memory, max_payload=-1)


# ------------------------------------------------------------------ headers


async def test_the_trace_of_a_running_task_is_passed_on(client: Client) -> None:
    trace = {"traceparent": "00-1-2-01", "tracestate": "a=b", "other": "x"}
    with tracing(trace):
        passed = await client.enqueue(Task("t"))
        own = await client.enqueue(Task("t", headers={"traceparent": "00-3-4-01"}))
    none = await client.enqueue(Task("t"))

    assert (await passed.info()).message.headers == {
        "traceparent": "00-1-2-01",
        "tracestate": "a=b",
    }
    assert (await own.info()).message.headers == {"traceparent": "00-3-4-01", "tracestate": "a=b"}
    assert (await none.info()).message.headers == {}


async def test_a_server_passes_the_trace_of_what_it_runs_on() -> None:
    broker = MemoryBroker()
    client = Client(broker)
    router = Router()

    @router.task("first")
    async def first(payload: bytes) -> bytes:
        return (await client.enqueue(Task("second", retention=60))).id.encode()

    @router.task("second")
    async def second(payload: bytes) -> None:
        pass

    with trio.fail_after(PATIENCE):
        async with open_server(broker) as server, trio.open_nursery() as nursery:
            nursery.start_soon(server.run, router)
            for trace in ({"traceparent": "00-1-2-01"}, {}):
                handle = await client.enqueue(Task("first", retention=60), headers=trace)
                second_id = (await handle.result() or b"").decode()
                info = await Inspector(broker).task_info("default", second_id)
                assert info.message.headers == trace
            nursery.cancel_scope.cancel()


async def test_a_tracing_library_writes_into_the_headers(memory: MemoryBroker) -> None:
    client = Client(memory, inject=lambda headers: headers.update(traceparent="00-5-6-01"))

    handles = await client.enqueue_many([Task("t", headers={"a": "b"}), Task("t")])

    for handle, extra in zip(handles, ({"a": "b"}, {}), strict=True):
        assert isinstance(handle, TaskHandle)
        headers = (await handle.info()).message.headers
        assert headers == {"traceparent": "00-5-6-01", **extra}


# ------------------------------------------------------- ids, locks, groups


async def test_refusals_are_typed_and_say_who_is_in_the_way(client: Client) -> None:
    first = await client.enqueue(Task("t", b"x", unique=60))
    with pytest.raises(DuplicateTaskError) as duplicate:
        await client.enqueue(Task("t", b"x", unique=60, task_id="second"))
    assert (duplicate.value.task_id, duplicate.value.holder) == ("second", first.id)
    await client.enqueue(Task("t", task_id="id"))
    with pytest.raises(TaskIdConflictError) as conflict:
        await client.enqueue(Task("other", task_id="id"))
    assert (conflict.value.task_id, conflict.value.queue) == ("id", "default")


async def test_many_are_enqueued_each_for_itself(client: Client) -> None:
    placed, conflict, unique, duplicate = await client.enqueue_many(
        [
            Task("t", task_id="a"),
            Task("t", task_id="a"),
            Task("u", unique=60),
            Task("u", unique=60),
        ]
    )

    assert isinstance(placed, TaskHandle)
    assert isinstance(conflict, TaskIdConflictError)
    assert isinstance(unique, TaskHandle)
    assert isinstance(duplicate, DuplicateTaskError)
    assert await client.enqueue_many([]) == []


# --------------------------------------------------------------- partitions


async def test_a_partitioned_queue_is_spread_and_keeps_together_what_has_to_meet(
    memory: MemoryBroker,
) -> None:
    names = partition_names("q", 4)
    client = Client(memory, partitions={"q": 4})

    handles = await client.enqueue_many([Task("t", queue="q") for _ in range(200)])
    chosen = [handle.queue for handle in handles if isinstance(handle, TaskHandle)]

    assert set(chosen) == set(names)
    await client.enqueue(Task("u", b"x", unique=60, queue="q"))
    with pytest.raises(DuplicateTaskError):
        await client.enqueue(Task("u", b"x", unique=60, queue="q"))
    await client.enqueue(Task("t", task_id="i", queue="q"))
    with pytest.raises(TaskIdConflictError):
        await client.enqueue(Task("t", task_id="i", queue="q"))
    grouped = [await client.enqueue(Task("t", group="g", queue="q")) for _ in range(9)]
    assert len({handle.queue for handle in grouped}) == 1
    assert (await client.enqueue(Task("t"))).queue == "default"


# ------------------------------------------------------------------ results


@pytest.fixture(params=["memory", "single"])
async def working(
    request: pytest.FixtureRequest, single_url: str
) -> AsyncGenerator[tuple[Client, Broker]]:
    """Return a client, and a broker to play its server with, by real clocks."""
    if request.param == "memory":
        broker = MemoryBroker()
        yield Client(broker), broker
        return
    async with connect(single_url) as redis:
        await redis.execute("FLUSHALL")
        yield Client(redis), RedisBroker(redis)


async def until_watched(broker: Broker, handle: TaskHandle) -> None:
    if isinstance(broker, MemoryBroker):
        await trio.testing.wait_all_tasks_blocked()
        return
    assert isinstance(broker, RedisBroker)
    key = broker.keys(handle.queue).task(handle.id)
    while not await broker.redis.execute("HEXISTS", key, "watched"):  # noqa: ASYNC110 - Redis has no event for it
        await trio.sleep(0.01)


async def run_one(broker: Broker, *, result: bytes | None = None, error: str | None = None) -> None:
    (lease,) = await broker.dequeue(["default"], 1)
    if error is None:
        await broker.complete(lease, result=result)
    else:
        await broker.archive(lease, error=error)


@pytest.mark.parametrize("retention", [0, 60])
async def test_a_result_is_waited_for(working: tuple[Client, Broker], retention: int) -> None:
    client, broker = working
    handle = await client.enqueue(Task("t", retention=retention))
    results: list[bytes | None] = []

    async def wait() -> None:
        results.append(await handle.result())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until_watched(broker, handle)
            await run_one(broker, result=b"42")
    assert results == [b"42"]


async def test_a_result_that_comes_while_the_task_is_looked_at_is_not_missed(
    working: tuple[Client, Broker],
) -> None:
    """The task is gone then, and its end was told just before."""
    client, broker = working

    @attrs.define
    class Late:
        """Answers when the task is done."""

        broker: Any

        async def read_task(self, queue: str, task_id: str) -> TaskInfo | None:
            if await self.broker.read_task(queue, task_id):
                await run_one(broker, result=b"42")
            found: TaskInfo | None = await self.broker.read_task(queue, task_id)
            return found

    late: Any = Late(broker)
    made = await client.enqueue(Task("t"))
    handle = TaskHandle(broker, late, made.id, made.queue, made.state)
    with trio.fail_after(PATIENCE):
        assert await handle.result() == b"42"


async def test_a_result_that_is_there_is_returned(working: tuple[Client, Broker]) -> None:
    client, broker = working
    handle = await client.enqueue(Task("t", retention=60))
    await run_one(broker, result=b'{"to":"a","copies":7}')

    with trio.fail_after(PATIENCE):
        assert await handle.result(json_codec(Email)) == Email("a", 7)


async def test_a_task_that_was_given_up_raises(working: tuple[Client, Broker]) -> None:
    client, broker = working
    handle = await client.enqueue(Task("t"))
    await run_one(broker, error="no luck")

    with trio.fail_after(PATIENCE), pytest.raises(TaskFailedError, match="no luck"):
        await handle.result()


async def test_a_task_that_is_gone_raises(working: tuple[Client, Broker]) -> None:
    client, broker = working
    handle = await client.enqueue(Task("t"))
    await run_one(broker)

    with trio.fail_after(PATIENCE):
        with pytest.raises(TaskNotFoundError):
            await handle.result()
        with pytest.raises(TaskNotFoundError):
            await handle.info()


async def test_who_waits_may_leave(working: tuple[Client, Broker]) -> None:
    client, broker = working
    handle = await client.enqueue(Task("t", retention=60))
    with trio.move_on_after(0.1) as scope:
        await handle.result()
    assert scope.cancelled_caught
    await run_one(broker, result=b"x")

    with trio.fail_after(PATIENCE):
        assert await handle.result() == b"x"


async def test_an_end_that_nobody_told_is_found(single_url: str) -> None:
    """Go's servers tell nobody."""
    async with connect(single_url) as redis:
        await redis.execute("FLUSHALL")
        handle = await Client(redis).enqueue(Task("t"))
        key = RedisBroker(redis).keys("default").task(handle.id)
        results: list[bytes | None] = []

        async def wait() -> None:
            results.append(await handle.result())

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await until_watched(RedisBroker(redis), handle)
                await redis.execute("HSET", key, "state", "completed", "result", "r")
    assert results == [b"r"]


async def test_a_wish_to_cancel_names_the_queue(working: tuple[Client, Broker]) -> None:
    client, broker = working
    handle = await client.enqueue(Task("t"))
    with trio.fail_after(PATIENCE):
        async with broker.open_cancels() as cancels:
            await handle.cancel(drop=True)
            wish = await anext(cancels)
    assert (wish.task_id, wish.queue, wish.drop) == (handle.id, "default", True)
