"""Tickers and schedules of one pool in several nodes."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.errors import ClosedError, InvalidNameError, InvalidOptionError
from terzetto.pool._ticks import cadence_of, moment_of, read_entry
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer

ENTRY = "map:p:tickers:content"


@attrs.define
class Handler:
    live: dict[str, bytes] = attrs.field(factory=dict[str, bytes])

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        self.live[job.key] = job.payload

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        del self.live[key]


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


@asynccontextmanager
async def nodes(server: EmbeddedServer, count: int) -> AsyncGenerator[list[pool.Node]]:
    async with AsyncExitStack() as stack:
        opened: list[pool.Node] = []
        for _ in range(count):
            redis = await stack.enter_async_context(connect(server.url))
            node = pool.open_node("p", redis, worker_ttl=2, ack_grace_period=1)
            opened.append(await stack.enter_async_context(node))
        yield opened


async def test_each_tick_goes_to_one_receiver_of_the_pool(server: EmbeddedServer) -> None:
    ticks: list[datetime] = []

    async def receive(node: pool.Node) -> None:
        async with node.open_ticker("t", 0.05) as ticker:
            async for tick in ticker:
                ticks.append(tick)  # noqa: PERF401 - it is looked at meanwhile

    async with nodes(server, 3) as opened, trio.open_nursery() as nursery:
        for node in opened:
            nursery.start_soon(receive, node)
        await until(lambda: len(ticks) >= 20)
        nursery.cancel_scope.cancel()
    assert len(set(ticks)) == len(ticks)
    assert ticks == sorted(ticks)


async def test_a_ticker_that_is_stopped_is_stopped_everywhere(
    server: EmbeddedServer, redis: Redis
) -> None:
    ended: list[bool] = []

    async def receive(node: pool.Node) -> None:
        async with node.open_ticker("t", 0.05) as ticker:
            async for _ in ticker:
                pass
            ended.append(ticker.is_stopped)

    async with nodes(server, 2) as opened, trio.open_nursery() as nursery:
        for node in opened:
            nursery.start_soon(receive, node)
        async with opened[0].open_ticker("t", 0.05) as ticker:
            await anext(ticker)
            await ticker.stop()
        await until(lambda: len(ended) == 2)
    assert ended == [True, True]
    assert not await redis.execute("HEXISTS", ENTRY, "p:t")


async def test_a_tick_that_nobody_was_ready_for_is_not_lost(redis: Redis) -> None:
    async with (
        pool.open_node("p", redis) as node,
        node.open_ticker("t", 0.2) as ticker,
    ):
        first = read_entry((await redis.execute("HGET", ENTRY, "p:t")).decode())
        await trio.sleep(0.5)  # two ticks fall due, and nobody waits: the span is the test
        tick = await anext(ticker)
        assert first is not None
        assert round(tick.timestamp() * 1e6) == first.due_ns // 1000


async def test_a_cancelled_wait_loses_no_tick(redis: Redis) -> None:
    ticks: list[datetime] = []
    async with (
        pool.open_node("p", redis) as node,
        node.open_ticker("t", 0.05) as ticker,
    ):
        with trio.fail_after(10):
            while len(ticks) < 10:
                with trio.move_on_after(0.002 + 0.013 * (len(ticks) % 3)):
                    ticks.append(await anext(ticker))
    gaps = [(b - a).total_seconds() for a, b in pairwise(ticks)]
    assert all(gap > 0.049 for gap in gaps)


async def test_an_entry_that_is_broken_is_healed_and_one_that_is_there_is_adopted(
    redis: Redis,
) -> None:
    async with pool.open_node("p", redis, worker_ttl=2) as node:
        async with node.open_ticker("t", 3600.0):
            entry = await redis.execute("HGET", ENTRY, "p:t")
            async with node.open_ticker("t", 3600.0):
                assert await redis.execute("HGET", ENTRY, "p:t") == entry
        async with node.open_ticker("t", 0.1) as ticker:
            await anext(ticker)
            for broken in ("", "0|0s", "nonsense", "0|1s|CRON_TZ=UTC 0 0 30 2 *"):
                await redis.execute("HSET", ENTRY, "p:t", broken)
                await redis.execute("HINCRBY", ENTRY, "=rev", 1)
                with trio.fail_after(30):
                    await anext(ticker)


DUE = datetime(2024, 3, 30, 1, 30, tzinfo=UTC)  # long ago, and 2:30 in Paris
NIGHTLY = "30 2 * * *"
PARIS = ZoneInfo("Europe/Paris")


async def set_due(redis: Redis, ticker: str) -> None:
    """Let the tick of a nightly ticker be overdue, as it is when no node was up."""
    entry = cadence_of(NIGHTLY, PARIS).first((int(DUE.timestamp()) - 1) * 10**9)
    await redis.execute("HSET", ENTRY, ticker, entry.encode())
    await redis.execute("HINCRBY", ENTRY, "=rev", 1)


async def test_a_tick_by_a_cron_spec_goes_to_one_receiver_however_late(
    server: EmbeddedServer, redis: Redis
) -> None:
    ticks: list[datetime] = []

    async def receive(node: pool.Node) -> None:
        async with node.open_ticker("t", NIGHTLY, zone=PARIS) as ticker:
            async for tick in ticker:
                ticks.append(tick)  # noqa: PERF401 - it is looked at meanwhile

    await set_due(redis, "p:t")
    async with nodes(server, 3) as opened, trio.open_nursery() as nursery:
        for node in opened:
            nursery.start_soon(receive, node)
        await until(lambda: ticks)
        entry = read_entry((await redis.execute("HGET", ENTRY, "p:t")).decode())
        await set_due(redis, "p:t")
        await until(lambda: len(ticks) > 1)  # one more than is due would have come before it
        nursery.cancel_scope.cancel()
    assert ticks == [DUE, DUE]
    assert entry is not None
    assert entry.due_ns > datetime.now(UTC).timestamp() * 1e9
    assert moment_of(entry.due_ns).astimezone(PARIS).strftime("%H:%M") == "02:30"


async def test_a_ticker_with_another_spec_is_set_anew_for_all(server: EmbeddedServer) -> None:
    async with (
        nodes(server, 2) as (first, second),
        first.open_ticker("t", NIGHTLY) as nightly,
        trio.open_nursery() as nursery,
    ):
        heard: list[datetime] = []

        async def receive() -> None:
            heard.append(await anext(nightly))

        nursery.start_soon(receive)
        async with second.open_ticker("t", 0.05):
            await until(lambda: heard)


async def test_a_plan_is_called_by_a_cron_spec(redis: Redis) -> None:
    calls: list[int] = []

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        calls.append(1)
        return pool.JobPlan()

    async with (
        pool.open_node("p", redis, worker_ttl=2, ack_grace_period=1) as node,
        node.open_schedule("nightly", NIGHTLY, plan, zone=PARIS),
    ):
        assert len(calls) == 1
        await set_due(redis, "p:nightly")
        await until(lambda: len(calls) == 2)


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_plan_that_raises_is_called_until_it_does_not(
    redis: Redis, *, is_first: bool
) -> None:
    calls: list[int] = []
    handler = Handler()

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        calls.append(1)
        if len(calls) < 6 and (is_first or len(calls) > 1):
            raise ValueError("the plan's source is away")
        return pool.JobPlan(start={f"call {len(calls)}": b""})

    async with pool.open_node("p", redis, worker_ttl=2, ack_grace_period=1) as node:
        await node.add_worker(handler)
        async with node.open_schedule("nightly", NIGHTLY, plan, zone=PARIS):
            if not is_first:
                await set_due(redis, "p:nightly")
            await until(lambda: "call 6" in handler.live)


async def test_a_plan_that_raises_is_left_alone_once_its_schedule_is_stopped(
    redis: Redis,
) -> None:
    calls: list[int] = []

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        calls.append(1)
        raise ValueError("the plan's source is away")

    async with (
        pool.open_node("p", redis, worker_ttl=2, ack_grace_period=1) as node,
        node.open_schedule("nightly", NIGHTLY, plan, zone=PARIS) as schedule,
    ):
        await schedule.stop()
        await until(lambda: schedule.is_stopped)


@pytest.mark.parametrize("when", ["often", "0 25 * * *", "0 0 30 2 *", 0, -1, float("nan")])
async def test_times_that_cannot_be_are_refused(redis: Redis, when: float | str) -> None:
    async def plan() -> pool.JobPlan:
        raise AssertionError

    async with pool.open_node("p", redis) as node:
        with pytest.raises(InvalidOptionError):
            async with node.open_schedule("s", when, plan):
                pass
        with pytest.raises(InvalidOptionError):
            async with node.open_ticker("t", when):
                pass
    assert not await redis.execute("HLEN", ENTRY)


async def test_a_plan_starts_and_stops_jobs(server: EmbeddedServer) -> None:
    handler = Handler()
    wanted: dict[str, bytes] = {"a": b"1", "b": b"2"}
    calls: list[int] = []

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("the plan's source is away")
        return pool.JobPlan(start=dict(wanted), stop_others=True)

    async with nodes(server, 2) as opened:
        first, second = opened
        await first.add_worker(handler)
        async with (
            first.open_schedule("sites", 0.1, plan) as schedule,
            second.open_schedule("sites", 0.1, plan),
        ):
            await until(lambda: handler.live == {"a": b"1", "b": b"2"})
            del wanted["a"]
            wanted["c"] = b"3"
            await until(lambda: handler.live == {"b": b"2", "c": b"3"})
            await until(lambda: schedule.keys == ["b", "c"])
            assert len(calls) > 3
        assert handler.live == {"b": b"2", "c": b"3"}


async def test_a_plan_that_stops_its_schedule_stops_it_everywhere(
    server: EmbeddedServer,
) -> None:
    handler = Handler()
    is_over = False

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        return pool.JobPlan(start={"a": b""}, stop_schedule=is_over)

    async with nodes(server, 2) as opened:
        await opened[0].add_worker(handler)
        async with (
            opened[0].open_schedule("sites", 0.1, plan) as first,
            opened[1].open_schedule("sites", 0.1, plan) as second,
        ):
            is_over = True
            await until(lambda: first.is_stopped and second.is_stopped)
        assert handler.live == {"a": b""}
        with pytest.raises(pool.ScheduleStoppedError):
            async with opened[0].open_schedule("sites", 0.1, plan):
                pass


@pytest.mark.parametrize(
    "name", ["jobs", "workers", "shutdown", "job-payloads", "other:jobs", ":jobs", "", "a b", "a=b"]
)
async def test_a_schedule_cannot_hit_the_pools_own_maps(redis: Redis, name: str) -> None:
    async def plan() -> pool.JobPlan:
        raise AssertionError

    async with pool.open_node("p", redis) as node:
        with pytest.raises(InvalidNameError):
            async with node.open_schedule(name, 1, plan):
                pass
    async with pool.open_node("p", redis, client_only=True) as client:
        with pytest.raises(InvalidOptionError):
            async with client.open_schedule("fine", 1, plan):
                pass


async def test_a_plan_that_wants_more_than_may_wait_gets_it_all(redis: Redis) -> None:
    handler = Handler()
    wanted = {f"job-{number}": b"" for number in range(500)}
    refused: list[str] = []

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        return pool.JobPlan(start=wanted)

    async with pool.open_node("p", redis, max_queued_jobs=150) as node:
        await node.add_worker(handler)
        async with node.open_schedule("s", 3600, plan):
            refused += wanted.keys() - handler.live.keys()
    assert refused == []


async def test_what_is_no_name_and_no_plan_is_refused(redis: Redis) -> None:
    async def plan() -> pool.JobPlan:
        raise AssertionError

    async with pool.open_node("p", redis) as node:
        for name in (5, None, ["s"]):
            with pytest.raises(TypeError, match="str"):
                async with node.open_schedule(name, 1, plan):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
                    pass
            with pytest.raises(TypeError, match="str"):
                async with node.open_ticker(name, 1):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
                    pass
        with pytest.raises(InvalidOptionError, match="async function"):
            async with node.open_schedule("s", 1, None):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
                pass
        with pytest.raises(TypeError, match="tzinfo"):
            async with node.open_ticker("t", "@daily", zone="Europe/Paris"):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
                pass
    with pytest.raises(TypeError, match="str"):
        pool.child("p", redis, hash_tag=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test


async def test_a_closed_node_opens_no_schedule_and_what_it_had_open_ends(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        return pool.JobPlan()

    async with (
        pool.open_node("p", redis) as node,
        node.open_ticker("t", 3600) as ticker,
        node.open_schedule("s", "@daily", plan) as schedule,
    ):
        assert repr(ticker) == "<Ticker 't'>"
        assert repr(schedule) == "<Schedule 's', 0 jobs>"
        await node.close()
        assert [tick async for tick in ticker] == []
        assert not ticker.is_stopped
        assert not schedule.is_stopped
        with pytest.raises(ClosedError):
            async with node.open_schedule("again", 1, plan):
                pass
        with pytest.raises(ClosedError):
            async with node.open_ticker("again", 1):
                pass
    assert "crashed" not in caplog.text


BAD_PLANS: list[object] = [
    None,
    "text",
    pool.JobPlan(start=["a"]),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
    pool.JobPlan(start={"bad": "text"}),  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType] - that is the test
    pool.JobPlan(start={5: b""}),  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType] - that is the test
    pool.JobPlan(start={"bad=key": b""}),
    pool.JobPlan(stop="abc"),
    pool.JobPlan(stop=[5]),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType] - that is the test
]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("bad", BAD_PLANS, ids=repr)
async def test_a_plan_that_is_none_is_logged_and_asked_for_again(
    redis: Redis, caplog: pytest.LogCaptureFixture, bad: object, *, is_first: bool
) -> None:
    bad_at = 1 if is_first else 2
    calls = 0

    async def plan() -> object:
        nonlocal calls
        await trio.lowlevel.checkpoint()
        calls += 1
        if calls == bad_at:
            return bad
        return pool.JobPlan(start={"good": b"", f"call {calls}": b""})

    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=2, ack_grace_period=1) as node:
        await node.add_worker(handler)
        async with node.open_schedule("s", 0.1, plan):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
            await until(lambda: {"good", "call 3"} <= handler.live.keys())
    assert "a plan failed" in caplog.text or "a planned job" in caplog.text


@attrs.define
class Slow(Handler):
    """Its starts wait until they are let go, and fail if it refuses."""

    hold: trio.Event = attrs.field(factory=trio.Event)
    refuses: bool = False

    async def start(self, job: pool.Job) -> None:
        await self.hold.wait()
        if self.refuses:
            raise ValueError("not here")
        await super().start(job)


async def test_a_schedule_owns_a_job_that_was_slow_to_start(redis: Redis) -> None:
    handler = Slow()
    wanted = {"slow": b""}

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        return pool.JobPlan(start=dict(wanted), stop_others=True)

    async with pool.open_node("p", redis, worker_ttl=2, ack_grace_period=0.2) as node:
        await node.add_worker(handler)
        # The first plan is carried out when this is entered: its dispatch gives up by then.
        async with node.open_schedule("s", 0.1, plan) as schedule:
            assert not handler.live
            await until(lambda: schedule.keys == ["slow"])
            handler.hold.set()
            await until(lambda: "slow" in handler.live)
            del wanted["slow"]
            await until(lambda: not handler.live)
            await until(lambda: not schedule.keys)


async def test_a_schedule_owns_no_job_that_was_slow_and_did_not_start(redis: Redis) -> None:
    handler = Slow(refuses=True)

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        return pool.JobPlan(start={"slow": b""}, stop_others=True)

    async with pool.open_node("p", redis, worker_ttl=2, ack_grace_period=0.2) as node:
        await node.add_worker(handler)
        async with node.open_schedule("s", 0.1, plan) as schedule:
            await until(lambda: schedule.keys == ["slow"])
            handler.hold.set()
            await until(lambda: not schedule.keys)


async def test_a_schedule_owns_a_job_whose_key_could_not_be_written_at_once(
    redis: Redis,
) -> None:
    handler = Handler()
    wanted: dict[str, bytes] = {}

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        return pool.JobPlan(start=dict(wanted), stop_others=True)

    async with pool.open_node("p", redis, worker_ttl=2, ack_grace_period=1) as node:
        await node.add_worker(handler)
        async with node.open_schedule("s", 0.1, plan) as schedule:
            # No map can be written while its hash is none.
            await redis.execute("SET", "map:p:s:content", "none")
            wanted["a"] = b""
            await until(lambda: "a" in handler.live)
            await redis.execute("DEL", "map:p:s:content")
            await until(lambda: schedule.keys == ["a"])
            wanted.clear()
            await until(lambda: not handler.live)
