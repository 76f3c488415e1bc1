"""Redis refuses writes for a while (read only, no memory, no replica): what goes on after it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from terzetto import pool
from terzetto.redis import Redis, connect
from terzetto.rmap import join
from terzetto.server import EmbeddedServer

TTL = 1.0


@attrs.define
class Handler:
    """Starts and stops anything; counts."""

    starts: list[str] = attrs.field(factory=list[str])
    live: set[str] = attrs.field(factory=set[str])

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        self.starts.append(job.key)
        assert job.key not in self.live
        self.live.add(job.key)

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.live.discard(key)


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


@asynccontextmanager
async def refused_writes(redis: Redis) -> AsyncGenerator[None]:
    """Have every write refused, as by a server that waits for a replica."""
    await redis.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await redis.execute("CONFIG", "SET", "min-replicas-to-write", 0)


async def test_jobs_of_a_worker_that_closes_while_writes_are_refused_run_elsewhere(
    server: EmbeddedServer,
) -> None:
    handler = Handler()
    keys = {f"job-{number}" for number in range(12)}
    async with (
        connect(server.url) as one,
        connect(server.url) as two,
        pool.open_node("p", one, worker_ttl=TTL, ack_grace_period=TTL) as first,
        pool.open_node("p", two, worker_ttl=TTL, ack_grace_period=TTL) as second,
    ):
        leaving = await first.add_worker(handler)
        staying = await second.add_worker(handler)
        await first.dispatch_many((key, b"") for key in sorted(keys))
        await until(lambda: leaving.jobs)
        async with refused_writes(one):
            await leaving.close()
            assert leaving.is_closed
        await until(lambda: set(staying.jobs) == handler.live == keys)
        await until(lambda: first.pool_workers == second.pool_workers == [staying.id])
        await second.dispatch("new")


async def test_a_worker_that_was_evicted_comes_back_once_writes_are_not_refused(
    redis: Redis,
) -> None:
    hold = trio.Event()

    async def run(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await hold.wait()

    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        evicted, healthy = [await node.add_worker(run) for _ in range(2)]
        keys = {f"job-{number}" for number in range(12)}
        await node.dispatch_many((key, b"") for key in sorted(keys))
        ids = [evicted.id, healthy.id]
        unmoved = set(healthy.jobs)
        async with join("p:workers", redis) as workers:
            await workers.delete(evicted.id)
        await until(lambda: node.counts.get("worker_evicted"))
        async with refused_writes(redis):
            hold.set()
            await until(lambda: not evicted.jobs)
            with trio.move_on_after(1.5 * TTL):  # it tries again and again: the span is the test
                await until(lambda: evicted.id != ids[0])
            assert unmoved <= set(healthy.jobs)
        await until(lambda: evicted.id != ids[0])
        await until(lambda: {*evicted.jobs, *healthy.jobs} == keys)
        assert healthy.id == ids[1]
        assert "node_left" not in node.counts
        await node.dispatch("new")


async def test_a_node_that_crashes_while_writes_are_refused_comes_back_after_it(
    redis: Redis,
) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        await node.dispatch("a")
        async with refused_writes(redis):
            seat = node._seat  # pyright: ignore[reportPrivateUsage] - nothing outside makes a node crash
            life = await seat.wait_up()
            life._ctx.start_soon(crash)  # pyright: ignore[reportPrivateUsage] - a fault from inside
            await until(lambda: seat.life is None)
            with trio.move_on_after(2 * TTL):  # four starts would have failed: the span is the test
                await until(lambda: node.is_closed)
            assert not node.is_closed
        await until(lambda: "a" in handler.live)
        await node.dispatch("b")


async def crash() -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("a part of the node has a bug")


async def test_a_ticker_whose_entry_is_gone_or_broken_goes_on_after_a_refusal(
    redis: Redis,
) -> None:
    async with (
        pool.open_node("p", redis, worker_ttl=30) as node,
        node.open_ticker("t", 0.05) as ticker,
        join("p:tickers", redis) as tickers,
    ):
        await anext(ticker)
        await tickers.set_and_wait("p:t", "nonsense")
        async with refused_writes(redis):
            with trio.move_on_after(0.5) as refused:  # it tries to heal it: the span is the test
                await anext(ticker)
            assert refused.cancelled_caught
        with trio.fail_after(30):
            ticks = [await anext(ticker) for _ in range(3)]
        assert ticks == sorted(set(ticks))


async def test_a_plan_stops_its_schedule_once_writes_are_not_refused(redis: Redis) -> None:
    calls: list[int] = []

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        calls.append(1)
        if len(calls) == 2:
            await redis.execute("CONFIG", "SET", "min-replicas-to-write", 1)
        return pool.JobPlan(stop_schedule=len(calls) > 1)

    async with (
        pool.open_node("p", redis, worker_ttl=30) as node,
        node.open_schedule("s", 0.1, plan) as schedule,
    ):
        await until(lambda: len(calls) > 1)
        with trio.move_on_after(0.5):  # it tries again and again: the span is the test
            await until(lambda: schedule.is_stopped)
        assert not schedule.is_stopped
        assert len(calls) == 2
        await redis.execute("CONFIG", "SET", "min-replicas-to-write", 0)
        await until(lambda: schedule.is_stopped)
