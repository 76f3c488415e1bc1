"""Faults of the original, one by one: those that no other test is named after."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import pytest
import trio
from redis.exceptions import OutOfMemoryError

from terzetto import pool
from terzetto.pool import _scripts
from terzetto.pool._codec import JobBody, encode_job
from terzetto.pool._names import Names
from terzetto.pool._store import Store
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.testing import Fault, Proxy, open_proxy

TTL: Final = 1.0
MANY: Final = 450  # jobs: a burial takes them over in three steps


@attrs.define
class Handler:
    """Notes what it starts and stops."""

    starts: list[str] = attrs.field(factory=list[str])
    stops: list[str] = attrs.field(factory=list[str])
    notes: list[bytes] = attrs.field(factory=list[bytes])

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        self.starts.append(job.key)

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.stops.append(key)

    async def notify(self, _: str, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.notes.append(payload)


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


async def eventually(ask: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(30):
        while not await ask():  # noqa: ASYNC110 - what is asked for is in Redis
            await trio.sleep(0.02)


def is_idle(worker: pool.Worker) -> bool:
    return not worker.jobs


def content(name: str) -> str:
    return f"map:p:{name}:content"


@asynccontextmanager
async def behind_proxy(server: EmbeddedServer) -> AsyncGenerator[tuple[Proxy, pool.Node]]:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node,
    ):
        yield proxy, node


def is_ledger(words: object) -> bool:
    return isinstance(words, list | tuple) and _scripts.LEDGER.sha.encode() in words


def is_burial(words: object) -> bool:
    return isinstance(words, list | tuple) and _scripts.BURY.sha.encode() in words


async def test_a_closing_worker_removes_no_entry_that_peers_requeue_from(redis: Redis) -> None:
    store = Store(redis, Names("p"))
    await store.load()
    created = await store.enlist("leaving", "")
    assert created is not None
    assert await store.change_jobs("leaving", created, [("own", "a", b"payload", "")]) == [1]
    assert await store.retire("leaving", created)
    assert not await store.discharge("leaving", ["a"])
    assert await store.job_keys() == ["a"]
    assert await store.payload("a") == b"payload"
    assert await redis.execute("HGET", content("workers"), "leaving") == b"-"


async def test_a_dispatch_that_is_over_takes_no_newer_guard_away(redis: Redis) -> None:
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.dispatch, "a")  # nobody takes it

            async def is_guarded() -> bool:
                return bool(await redis.execute("HEXISTS", content("pending-jobs"), "a"))

            await eventually(is_guarded)
            newer = str(2 * 10**18)
            await redis.execute("HSET", content("pending-jobs"), "a", newer)
            nursery.cancel_scope.cancel()
        with pytest.raises(pool.JobExistsError):  # once the release has been carried out
            await node.dispatch("a")
        assert await redis.execute("HGET", content("pending-jobs"), "a") == newer.encode()


async def test_a_worker_that_gave_a_sign_meanwhile_is_not_buried(redis: Redis) -> None:
    store = Store(redis, Names("p"))
    await store.load()
    created = await store.enlist("back", "")
    assert created is not None
    await store.change_jobs("back", created, [("own", "a", b"", "")])
    await store.alive("node", [("back", created)])
    buried = await store.bury(
        "back", sign=created, lock="", node_id="node", created_ns=1, limit=MANY
    )
    assert buried == (0, 0), "it was silent when it was looked at, and is not now"
    assert await store.job_keys() == ["a"]


async def test_a_stop_whose_reply_was_lost_resurrects_no_job(server: EmbeddedServer) -> None:
    handler = Handler()
    async with behind_proxy(server) as (proxy, node):
        await node.add_worker(handler)
        await node.dispatch("a", b"payload")
        rule = proxy.on("EVALSHA", Fault.DROP_REPLY, times=1, where=is_ledger)
        await node.stop_job("a")
        await rule.wait_hit()
        await until(lambda: node.counts.get("job_stopped"))
        assert await node.job_payload("a") is None
        await trio.sleep(4 * TTL)  # an orphan would have been sent again: the span is the test
        assert (handler.starts, handler.stops) == (["a"], ["a"])
        assert "job_recovered" not in node.counts


async def test_a_job_that_has_ended_is_not_started_by_an_event_that_comes_again(
    redis: Redis,
) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        await node.dispatch("a", b"payload")
        await node.dispatch("b")
        again = encode_job(JobBody("a", node.id, b"payload", 1, requeued=True))
        await node.stop_job("a")
        await until(lambda: node.counts.get("job_stopped"))
        await redis.execute("XADD", "pulse:stream:p:pool", "*", "n", "j", "p", again)

        async def is_handled() -> bool:
            group, *_ = await redis.execute("XINFO", "GROUPS", "pulse:stream:p:pool")
            return int(group[b"pending"]) == int(group[b"lag"]) == 0

        await eventually(is_handled)
        assert handler.starts == ["a", "b"]
        assert await node.job_payload("a") is None
        assert await node.job_keys() == ["b"]


async def test_one_requeue_that_succeeds_hides_no_other_that_fails(server: EmbeddedServer) -> None:
    keys = [f"job-{number}" for number in range(MANY)]
    handler = Handler()
    async with behind_proxy(server) as (proxy, node), connect(server.url) as redis:
        await redis.execute(
            "HSET", content("job-payloads"), *[p for key in keys for p in (key, "")]
        )
        await redis.execute("HSET", content("jobs"), "dead", json.dumps(keys), "=rev", 1)
        await redis.execute("HSET", content("workers"), "dead", "1", "=rev", 1)
        rule = proxy.on("EVALSHA", Fault.DROP_REPLY, times=1, where=is_burial)
        await node.add_worker(handler)
        await rule.wait_hit()
        await until(lambda: len(handler.starts) >= MANY)
        assert sorted(handler.starts) == sorted(keys)

        async def are_all_owned() -> bool:
            return await node.job_keys() == sorted(keys)

        await eventually(are_all_owned)
        assert await redis.execute("HGET", content("jobs"), "dead") is None
        assert len(handler.starts) == MANY


async def test_a_write_that_redis_refused_does_not_stop_a_ticker(redis: Redis) -> None:
    async with (
        pool.open_node("p", redis, worker_ttl=30) as node,
        node.open_ticker("t", 0.05) as ticker,
    ):
        await anext(ticker)
        await redis.execute("CONFIG", "SET", "maxmemory", 1)
        with trio.move_on_after(0.5) as refused:  # several ticks fall due, and none can be written
            await anext(ticker)
        assert refused.cancelled_caught
        await redis.execute("CONFIG", "SET", "maxmemory", 0)
        with trio.fail_after(30):
            ticks = [await anext(ticker) for _ in range(3)]
        assert ticks == sorted(set(ticks))


async def test_what_redis_refuses_of_many_jobs_is_the_outcome_of_each(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=30) as node:
        await node.add_worker(handler)
        # A script that has acknowledged an event before may write: nothing was dispatched yet.
        await redis.execute("CONFIG", "SET", "maxmemory", 1)
        outcomes = await node.dispatch_many((key, b"") for key in ("a", "b"))
        await redis.execute("CONFIG", "SET", "maxmemory", 0)
        came_of = {key: type(error) for key, error in outcomes.items()}
        assert came_of == {"a": OutOfMemoryError, "b": OutOfMemoryError}
        assert await node.dispatch_many([("a", b"")]) == {"a": None}


async def test_a_watch_that_nobody_reads_stalls_no_sign_of_life_and_no_close(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        worker = await node.add_worker(handler)
        before = worker.id
        with node.watch(buffer_size=1) as watch:
            await node.dispatch_many((str(number), b"") for number in range(50))
            assert watch.lost > 0

            async def has_sign() -> bytes:
                sign: bytes = await redis.execute("HGET", content("worker-keepalive"), before)
                return sign

            sign = await has_sign()

            async def is_renewed() -> bool:
                return await has_sign() != sign

            await eventually(is_renewed)
            assert worker.id == before
            with trio.fail_after(30):
                await node.close()


async def test_workers_that_come_and_go_leave_no_entry_behind(redis: Redis) -> None:
    async def size() -> int:
        kept = [content(name) for name in ("workers", "worker-keepalive", "cleanup", "jobs")]
        return int(await redis.execute("DBSIZE")) + sum(
            [int(await redis.execute("HLEN", key)) for key in kept]
        )

    async def is_tidy() -> bool:
        """Tell whether no guard of a dispatch waits to be released."""
        return not await redis.execute("KEYS", "terzetto:pool:p:claim:*")

    async with pool.open_node("p", redis, worker_ttl=30) as node:
        sizes: list[int] = []
        for number in range(20):
            worker = await node.add_worker(Handler())
            await node.dispatch(str(number))
            await node.stop_job(str(number))
            await until(partial(is_idle, worker))
            await worker.close()
            await eventually(is_tidy)
            sizes.append(await size())
        assert sizes[-1] == sizes[1]


async def test_no_node_keeps_a_copy_of_the_payloads(redis: Redis) -> None:
    async with pool.open_node("p", redis) as node, pool.open_node("p", redis):
        await node.add_worker(Handler())
        await node.dispatch("a", b"payload")
        channels = [f"map:p:{name}:updates" for name in ("job-payloads", "jobs")]
        _, payloads, _, jobs = await redis.execute("PUBSUB", "NUMSUB", *channels)
        assert payloads == 0
        assert jobs > 0, "that is how a copy would be seen"


async def test_a_notification_looks_through_no_jobs(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=30) as node:
        await node.add_worker(handler)
        await node.dispatch_many((str(number), b"") for number in range(200))
        await redis.execute("CONFIG", "RESETSTAT")
        for number in range(20):
            await node.notify(str(number), b"note")
        await until(lambda: len(handler.notes) == 20)
        stats = (await redis.execute("INFO", "commandstats")).decode()
        calls = {line.split(":")[0].removeprefix("cmdstat_") for line in stats.splitlines()}
        assert "xadd" in calls
        assert not calls & {"hgetall", "hkeys", "hvals", "hscan", "scan", "keys"}
