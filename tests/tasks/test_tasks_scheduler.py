"""Schedulers: what they enqueue and when, once a tick however many there are."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from terzetto.actor import Tree, open_tree
from terzetto.errors import ClosedError, InvalidCronError, InvalidOptionError
from terzetto.redis import connect
from terzetto.server import EmbeddedServer
from terzetto.tasks import (
    Periodic,
    Scheduler,
    Task,
    TaskIdConflictError,
    TaskInfo,
    TaskState,
    open_scheduler,
    scheduler_child,
)
from terzetto.tasks._periodic import option_texts, plan, quote
from terzetto.tasks._redis_broker import RedisBroker
from terzetto.tasks.testing import MemoryBroker
from terzetto.testing import open_proxy
from tests.tasks.conftest import AnyBroker
from tests.tasks.serving import until, until_true

START = datetime(2026, 3, 28, 22, 0, tzinfo=UTC)


@pytest.fixture
async def memory(autojump_clock: MockClock) -> MemoryBroker:
    """Return an empty broker on a virtual clock, which begins at START."""
    return MemoryBroker(start=START.timestamp())


async def ids(broker: AnyBroker, queue: str = "default") -> list[str]:
    found = await broker.list_tasks(queue, TaskState.PENDING, first=0, count=10_000)
    return [info.id for info in found]


# Pure --------------------------------------------------------------------------------


@given(st.integers(1, 100_000), st.floats(0, 4e9))
@settings(max_examples=100)
def test_intervals_go_by_a_grid_that_all_schedulers_share(seconds: int, now: float) -> None:
    made = plan(Periodic(f"@every {seconds}s", Task("x")), UTC)
    due = made.next_after(now)
    assert due is not None
    assert due % seconds == 0
    assert 0 < due - now <= seconds + 1e-6
    assert made.next_after(due) == due + seconds


def test_an_entry_is_known_by_all_that_it_is() -> None:
    task = Task("report", {"of": 1})
    same = [plan(Periodic("@hourly", Task("report", {"of": 1})), UTC) for _ in range(2)]
    assert same[0].id == same[1].id
    others = [
        plan(Periodic("0 * * * *", task), UTC),
        plan(Periodic("@hourly", task), ZoneInfo("Asia/Tokyo")),
        plan(Periodic("@hourly", Task("report")), UTC),
        plan(Periodic("@hourly", Task("reports", {"of": 1})), UTC),
        plan(Periodic("@hourly", task, queue="low"), UTC),
        plan(Periodic("@hourly", task, headers={"a": "b"}), UTC),
        plan(Periodic("@hourly", Task("report", {"of": 1}, max_retry=3)), UTC),
    ]
    assert len({made.id for made in (same[0], *others)}) == 1 + len(others)


def test_options_have_the_texts_that_asynq_reads() -> None:
    texts = option_texts(
        {
            "queue": 'lo"w\n',
            "max_retry": 3,
            "timeout": 90,
            "deadline": datetime(2026, 1, 2, 15, 4, 5, tzinfo=UTC),
            "unique": 0.5,
            "process_in": 3600,
            "task_id": "a",
            "retention": 1.5,
            "group": "g",
            "headers": {"k": "v"},
        }
    )
    assert texts == (
        'Queue("lo\\"w\\n")',
        "MaxRetry(3)",
        "Timeout(1m30s)",
        "Deadline(Fri Jan  2 15:04:05 UTC 2026)",
        "Unique(500ms)",
        "ProcessIn(1h0m0s)",
        'TaskID("a")',
        "Retention(1.5s)",
        'Group("g")',
        'Header(["k","v"])',
    )
    assert quote("a\x00é\u200b\U000e0001") == '"a\\x00é\\u200b\\U000e0001"'


@pytest.mark.parametrize(
    ("spec", "options", "error"),
    [
        ("* * * *", {}, InvalidCronError),
        ("@every 0s", {}, InvalidCronError),
        ("TZ=Nowhere/Land * * * * *", {}, InvalidCronError),
        ("@daily", {"queue": ""}, ValueError),
        ("@daily", {"process_at": 5}, InvalidOptionError),
        ("@daily", {"max_retry": -1}, InvalidOptionError),
    ],
)
def test_what_cannot_be_scheduled_is_refused_at_once(
    spec: str, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        plan(Periodic(spec, Task("x"), **options), UTC)
    with pytest.raises(InvalidOptionError):
        Periodic("@daily", Task("x"), colour="red")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] - that is the case


# On a virtual clock ------------------------------------------------------------------


async def test_any_number_of_schedulers_enqueue_each_tick_once(
    autojump_clock: MockClock, memory: MemoryBroker
) -> None:
    tasks = [Periodic("*/10 * * * *", Task("ten")), Periodic("@every 7m", Task("seven"))]
    async with (
        open_scheduler(memory, entries=tasks),
        open_scheduler(memory, entries=tasks),
        open_scheduler(memory, entries=tasks) as third,
    ):
        await trio.sleep(3 * 3600 + 1)
        entries = await memory.list_entries()
        events = [await memory.list_events(entry, first=0, count=100) for entry in third.entries]
    found = await memory.list_tasks("default", TaskState.PENDING, first=0, count=10_000)
    start = START.timestamp()
    sevens = int((start + 3 * 3600) // 420 - start // 420)
    assert sum(info.message.type == "ten" for info in found) == 18
    assert sum(info.message.type == "seven" for info in found) == sevens
    assert [len(history) for history in events] == [18, sevens]
    assert len(entries) == 6
    for entry in entries:
        assert entry.next_at is not None
        assert entry.previous_at is not None
        assert entry.next_at > start + 3 * 3600 >= entry.previous_at
    assert await memory.list_entries() == []


@pytest.mark.parametrize(
    ("zone", "spec", "expected"),
    [
        (ZoneInfo("Europe/Berlin"), "30 2 * * *", []),  # that night has no 02:30
        (UTC, "TZ=Asia/Tokyo 0 8 * * *", [datetime(2026, 3, 28, 23, 0, tzinfo=UTC)]),
        (ZoneInfo("Europe/Berlin"), "0 3 * * *", [datetime(2026, 3, 29, 1, 0, tzinfo=UTC)]),
    ],
)
async def test_specs_go_by_the_clock_of_their_zone(
    autojump_clock: MockClock,
    memory: MemoryBroker,
    zone: tzinfo,
    spec: str,
    expected: list[datetime],
) -> None:
    async with open_scheduler(memory, zone=zone) as scheduler:
        entry = scheduler.register(spec, Task("x"))
        await trio.sleep(12 * 3600)
        events = await memory.list_events(entry, first=0, count=10)
    assert [event.enqueued_at for event in events] == [when.timestamp() for when in expected]


async def test_entries_come_and_go(autojump_clock: MockClock, memory: MemoryBroker) -> None:
    async with open_scheduler(memory) as scheduler:
        first = scheduler.register("@every 10s", Task("x"), queue="low", max_retry=1)
        with pytest.raises(InvalidOptionError, match="registered already"):
            scheduler.register("@every 10s", Task("x"), queue="low", max_retry=1)
        await trio.sleep(35)
        assert len(await ids(memory, "low")) == 3
        (shown,) = await memory.list_entries()
        assert (shown.id, shown.options) == (first, ('Queue("low")', "MaxRetry(1)"))
        assert scheduler.unregister(first)
        assert not scheduler.unregister(first)
        await trio.sleep(60)
        assert len(await ids(memory, "low")) == 3
        assert await memory.list_entries() == []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler.run)
            await scheduler.close()
    with pytest.raises(ClosedError):
        scheduler.register("@daily", Task("x"))
    assert "closed" in repr(scheduler)
    await scheduler.close()


async def test_a_provider_says_what_the_entries_are(
    autojump_clock: MockClock, memory: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    wanted: Sequence[Periodic] = [Periodic("@every 10s", Task("a")), Periodic("@daily", Task("b"))]
    fails = False

    async def provide() -> Sequence[Periodic]:
        if fails:
            raise OSError("the database is away")
        return wanted

    def types(scheduler: Scheduler) -> set[str]:
        return {entry.plan.task.type for entry in scheduler.entries.values()}

    async with open_scheduler(memory, provider=provide, sync_interval=60) as scheduler:
        own = scheduler.register("@hourly", Task("own"))
        assert types(scheduler) == {"a", "b", "own"}
        wanted = [wanted[0], Periodic("no spec", Task("bad")), Periodic("@hourly", Task("c"))]
        await trio.sleep(61)
        assert types(scheduler) == {"a", "c", "own"}
        (wrong,) = caplog.records
        assert "an entry is wrong and left out" in wrong.getMessage()
        assert "no spec" in wrong.getMessage()
        fails, wanted = True, []
        await trio.sleep(60)
        assert types(scheduler) == {"a", "c", "own"}
        _, failed = caplog.records
        assert "the entries could not be asked for" in failed.getMessage()
        assert failed.exc_info is not None
        assert str(failed.exc_info[1]) == "the database is away"
        fails = False
        await trio.sleep(60)
        assert set(scheduler.entries) == {own}
        # What was registered twice by the syncs was enqueued in one rhythm.
        assert len(await ids(memory)) in (17, 18)  # the last falls on the moment of the sync


async def test_a_provider_that_fails_at_the_start_fails_the_scheduler(
    autojump_clock: MockClock, memory: MemoryBroker
) -> None:
    async def provide() -> Sequence[Periodic]:
        return [Periodic("* *", Task("x"))]

    with pytest.raises(InvalidCronError):
        async with open_scheduler(memory, provider=provide):
            raise AssertionError


async def test_hooks_stand_around_each_tick(
    autojump_clock: MockClock, memory: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    before: list[str] = []
    after: list[tuple[str, object]] = []

    async def look(periodic: Periodic) -> None:
        before.append(periodic.spec)
        if len(before) == 1:
            raise OSError("as told")
        if len(before) == 2:
            await trio.sleep_forever()

    async def hear(periodic: Periodic, outcome: object) -> None:
        after.append((periodic.spec, outcome))
        if len(after) == 1:
            raise OSError("as told")

    entries = [Periodic("@every 1m", Task("x", b"p"), task_id="one", process_in=5.0)]
    async with open_scheduler(
        memory, entries=entries, before_enqueue=look, after_enqueue=hear
    ) as scheduler:
        await trio.sleep(5 * 60 + 30)
        assert memory.now() < START.timestamp() + 6 * 60
        (entry,) = scheduler.entries
        events = await memory.list_events(entry, first=0, count=10)
    assert before == ["@every 1m"] * 5
    assert [spec for spec, _ in after] == before
    (_, first), *others = after
    assert isinstance(first, TaskInfo)
    assert (first.id, first.message.payload, first.state) == ("one", b"p", TaskState.SCHEDULED)
    assert first.next_process_at == START.timestamp() + 60 + 5
    assert all(isinstance(outcome, TaskIdConflictError) for _, outcome in others)
    assert [event.task_id for event in events] == ["one"]
    said = [record.getMessage() for record in caplog.records]
    assert sum("a hook of the scheduler failed" in text for text in said) == 2
    assert sum("a hook of the scheduler took too long" in text for text in said) == 1


async def test_each_tick_is_told_to_the_hook_of_one_scheduler(
    autojump_clock: MockClock, memory: MemoryBroker
) -> None:
    tried: list[int] = []
    told: list[str] = []

    async def look(_: Periodic) -> None:
        tried.append(1)

    async def hear(_: Periodic, outcome: object) -> None:
        assert isinstance(outcome, TaskInfo)
        told.append(outcome.id)

    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(
                open_scheduler(
                    memory,
                    entries=[Periodic("@every 1m", Task("x"))],
                    before_enqueue=look,
                    after_enqueue=hear,
                )
            )
        await trio.sleep(10 * 60 + 30)
    assert len(tried) == 30
    assert sorted(told) == sorted(await ids(memory))
    assert len(told) == 10


async def test_a_scheduler_in_a_tree(autojump_clock: MockClock, memory: MemoryBroker) -> None:
    child = scheduler_child(memory, entries=[Periodic("@every 1m", Task("x"))])
    async with open_tree(Tree(name="service", children=(child,))):
        await trio.sleep(300)
    assert len(await ids(memory)) in (4, 5)  # the last falls on the moment of the end
    with pytest.raises(InvalidOptionError):
        scheduler_child(memory, restart="permanent")
    with pytest.raises(InvalidOptionError):
        open_scheduler(memory, sync_interval=0)
    none: Any = "none"
    with pytest.raises(InvalidOptionError, match="after_enqueue is 'none'"):
        open_scheduler(memory, after_enqueue=none)


# In Redis ----------------------------------------------------------------------------


@pytest.fixture
async def broker(server: EmbeddedServer) -> AsyncGenerator[RedisBroker]:
    async with connect(server.url) as redis:
        yield RedisBroker(redis)


async def test_two_schedulers_in_redis_and_an_outage_of_one(
    server: EmbeddedServer, broker: RedisBroker
) -> None:
    entries = [Periodic("@every 1s", Task("x"))]
    async with (
        open_proxy(server.url) as proxy,
        connect(server.url) as one,
        connect(proxy.url) as two,
        open_scheduler(one, entries=entries, heartbeat_interval=1.0) as first,
        open_scheduler(two, entries=entries, heartbeat_interval=1.0) as second,
    ):
        (entry,) = first.entries
        began = first.broker.now()

        async def has(count: int) -> bool:
            return len(await broker.list_events(entry, first=0, count=100)) >= count

        await until(lambda: has(2))
        await proxy.refuse()
        proxy.cut()
        before = len(await ids(broker))
        await until(lambda: has(before + 2))
        await proxy.accept()
        await until_true(lambda: second.broker.redis.state == "connected")  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType] - it is one in Redis
        await until(lambda: has(before + 4))
        ended = first.broker.now()
    events = await broker.list_events(entry, first=0, count=100)
    assert len(events) <= int(ended) - int(began) + 1  # one a second; the clocks may differ a bit
    assert len(await ids(broker)) == len(events)
    assert await broker.list_entries() == []


async def test_a_tick_that_falls_into_an_outage_is_enqueued_afterwards(
    server: EmbeddedServer, broker: RedisBroker
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        open_scheduler(redis, entries=[Periodic("@every 1s", Task("x"))]) as scheduler,
    ):
        (entry,) = scheduler.entries.values()
        await until(lambda: _is_shown(broker))
        await proxy.refuse()
        proxy.cut()
        before = len(await ids(broker))
        missed = entry.next_at
        assert missed is not None
        await until_true(lambda: broker.now() > missed + 2.5)
        assert len(await ids(broker)) <= before + 1
        await proxy.accept()
        await until_true(lambda: entry.previous_at is not None and entry.previous_at > missed)
    count = len(await ids(broker))
    assert before < count <= before + 3  # the one that waited, not those in between


async def _is_shown(broker: RedisBroker) -> bool:
    return bool(await broker.list_entries())
