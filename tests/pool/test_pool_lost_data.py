"""Redis loses its data while others go on writing: what a pool had goes on as well."""

from collections.abc import Awaitable, Callable

import attrs
import trio

from terzetto import pool
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.testing import open_proxy

TTL = 2.0


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
        self.live.remove(key)


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


async def eventually(ask: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(30):
        while not await ask():  # noqa: ASYNC110 - what is asked for is in Redis
            await trio.sleep(0.02)


async def holds_all(node: pool.Node, keys: set[str]) -> bool:
    return await node.job_keys() == sorted(keys)


async def test_a_ticker_goes_on_when_redis_loses_its_data(redis: Redis) -> None:
    async with (
        pool.open_node("p", redis, worker_ttl=TTL) as node,
        node.open_ticker("t", 0.1) as ticker,
    ):
        for _ in range(3):
            await anext(ticker)
            await redis.execute("FLUSHALL")
        with trio.fail_after(30):
            ticks = [await anext(ticker) for _ in range(3)]
        assert ticks == sorted(set(ticks))
        assert not ticker.is_stopped


async def test_a_ticker_goes_on_though_others_have_written_since_redis_lost_its_data(
    redis: Redis,
) -> None:
    """The map counts anew, and has counted further by then than when the ticker looked last."""
    async with (
        pool.open_node("p", redis, worker_ttl=TTL) as node,
        node.open_ticker("slow", 2.0) as slow,
        node.open_ticker("fast", 0.01) as fast,
        trio.open_nursery() as nursery,
    ):
        ticks: list[object] = []

        async def receive() -> None:
            async for tick in slow:
                ticks.append(tick)  # noqa: PERF401 - it is looked at meanwhile

        nursery.start_soon(receive)
        await until(lambda: ticks)
        await redis.execute("FLUSHALL")
        with trio.fail_after(30):
            while len(ticks) < 3:
                await anext(fast)
        assert not slow.is_stopped
        await slow.stop()
        await until(lambda: slow.is_stopped)


async def test_a_ticker_that_is_stopped_after_a_loss_is_stopped_everywhere(
    server: EmbeddedServer,
) -> None:
    async with (
        connect(server.url) as one,
        connect(server.url) as two,
        pool.open_node("p", one, worker_ttl=TTL) as first,
        pool.open_node("p", two, worker_ttl=TTL) as second,
        first.open_ticker("t", 0.05) as ticker,
        second.open_ticker("t", 0.05) as other,
    ):
        await one.execute("FLUSHALL")
        with trio.fail_after(30):
            await anext(ticker)
            await ticker.stop()
            async for _ in other:
                pass
        assert other.is_stopped


async def test_a_schedule_and_the_keys_of_its_jobs_outlive_the_data_of_redis(redis: Redis) -> None:
    handler = Handler()
    wanted = {"a": b"", "b": b""}
    calls: list[int] = []

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        calls.append(1)
        return pool.JobPlan(start=dict(wanted), stop_others=True)

    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        async with node.open_schedule("s", 0.1, plan) as schedule:
            await until(lambda: schedule.keys == ["a", "b"])
            await redis.execute("FLUSHALL")
            wanted["c"] = b""
            await until(lambda: "c" in handler.live)
            await until(lambda: schedule.keys == ["a", "b", "c"])
            assert sorted(handler.starts) == ["a", "b", "c"]
            del wanted["a"]
            await until(lambda: schedule.keys == ["b", "c"])
            before = len(calls)
            await until(lambda: len(calls) > before)
            assert not schedule.is_stopped
            await schedule.stop()
            await until(lambda: schedule.is_stopped)


async def test_jobs_go_on_when_redis_loses_its_data_though_a_node_joins_at_once(
    server: EmbeddedServer,
) -> None:
    """The newcomers count the map of workers further than it was, before we give a sign."""
    handler = Handler()
    keys = {f"job-{number}" for number in range(12)}
    async with (
        connect(server.url) as one,
        connect(server.url) as two,
        pool.open_node("p", one, worker_ttl=60, ack_grace_period=TTL) as first,
    ):
        worker = await first.add_worker(handler)
        before = worker.id
        await first.dispatch_many((key, key.encode()) for key in sorted(keys))
        await one.execute("FLUSHALL")
        async with pool.open_node("p", two, worker_ttl=60, ack_grace_period=TTL) as second:
            others = [await second.add_worker(handler) for _ in range(2)]
            await until(lambda: handler.live == keys and any(other.jobs for other in others))
            await until(lambda: set(worker.jobs).union(*(w.jobs for w in others)) == keys)
            await eventually(lambda: holds_all(second, keys))
            assert worker.id == before
            assert "worker_evicted" not in first.counts
            assert await second.job_payload("job-3") == b"job-3"


async def test_jobs_go_on_when_redis_loses_its_data_behind_a_lost_link(
    server: EmbeddedServer,
) -> None:
    """Once we are back the map of workers has counted further; our copy cannot tell."""
    handler = Handler()
    keys = {f"job-{number}" for number in range(12)}
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url, max_backoff=0.05) as one,
        connect(server.url) as two,
        pool.open_node("p", one, worker_ttl=TTL, ack_grace_period=TTL) as first,
    ):
        worker = await first.add_worker(handler)
        before = worker.id
        await first.dispatch_many((key, key.encode()) for key in sorted(keys))

        async def has_beaten() -> bool:
            return int(await two.execute("HGET", "map:p:node-keepalive:content", "=rev")) > 6

        await eventually(has_beaten)
        await proxy.refuse()
        proxy.cut()
        await two.execute("FLUSHALL")
        async with pool.open_node("p", two, worker_ttl=TTL, ack_grace_period=TTL) as second:
            others = [await second.add_worker(handler) for _ in range(2)]
            await proxy.accept()
            await until(lambda: set(worker.jobs).union(*(w.jobs for w in others)) == keys)
            await eventually(lambda: holds_all(second, keys))
            assert worker.id == before
            assert "worker_evicted" not in first.counts
            await until(lambda: handler.live == keys)
