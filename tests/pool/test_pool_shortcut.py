"""Dispatches to a worker of the same node: read in the step that sends them, never lost."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import attrs
import pytest
import trio
import trio.testing

from terzetto import pool
from terzetto._shared._logging import default_logger
from terzetto.pool import _scripts
from terzetto.pool._codec import JobBody, encode_job
from terzetto.pool._core import Releases
from terzetto.pool._names import Names
from terzetto.pool._store import Claim, Store
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.streaming import stream_key
from terzetto.testing import Fault, open_proxy

NAMES = Names("p")
FAR = 30.0  # a grace that is over long after these tests


@attrs.define
class Handler:
    """Counts starts; each waits until it may go on."""

    starts: list[str] = attrs.field(factory=list[str])
    may_start: trio.Event = attrs.field(factory=trio.Event)

    async def start(self, job: pool.Job) -> None:
        self.starts.append(job.key)
        await self.may_start.wait()

    async def stop(self, _: str) -> None:
        await trio.lowlevel.checkpoint()


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


async def pending(redis: Redis) -> list[str]:
    """Return the consumers of the events that are pending in the pool."""
    entries = await redis.execute("XPENDING", stream_key(NAMES.stream), "events", "-", "+", 100)
    return [consumer.decode() for _, consumer, *_ in entries]


async def consumers(redis: Redis) -> list[str]:
    found = await redis.execute("XINFO", "CONSUMERS", stream_key(NAMES.stream), "events")
    return [consumer[b"name"].decode() for consumer in found]


@asynccontextmanager
async def open_two(server: EmbeddedServer, grace: float) -> AsyncGenerator[tuple[pool.Node, Redis]]:
    """Open a node, and a link beside it."""
    async with (
        connect(server.url) as redis,
        connect(server.url) as another,
        pool.open_node("p", redis, worker_ttl=5, ack_grace_period=grace) as node,
    ):
        yield node, another


async def claim_for(redis: Redis, consumer: str, key: str = "k") -> Claim:
    """Send the start of a job as a node does, for a consumer."""
    body = encode_job(JobBody(key, "nobody", b"payload", 1))
    claim = await Store(redis, NAMES).claim(
        key, body, token=key, guard_for=1.0, limit=10, consumer=consumer
    )
    assert isinstance(claim, Claim)
    return claim


async def test_a_start_for_a_worker_of_this_node_is_pending_with_it_at_once(
    server: EmbeddedServer,
) -> None:
    handler = Handler()
    async with open_two(server, FAR) as (node, redis), trio.open_nursery() as nursery:
        await node.add_worker(handler)
        names = await consumers(redis)
        nursery.start_soon(node.dispatch, "a")
        await until(lambda: handler.starts)
        assert await pending(redis) == names, "until it has started"
        handler.may_start.set()
    assert handler.starts == ["a"]


async def test_an_event_is_not_read_out_of_turn_nor_for_strangers(server: EmbeddedServer) -> None:
    async with open_two(server, FAR) as (_node, redis):
        mine = await consumers(redis)
        assert not (await claim_for(redis, "a stranger", "a")).is_handed
        assert await consumers(redis) == mine, "no consumer is made that shows no life"
        assert (await claim_for(redis, mine[0], "b")).is_handed


async def test_an_event_is_not_read_before_those_that_wait(redis: Redis) -> None:
    stream = stream_key(NAMES.stream)
    await redis.execute("XGROUP", "CREATE", stream, "events", "$", "MKSTREAM")
    await redis.execute("XGROUP", "CREATECONSUMER", stream, "events", "me")
    await redis.execute("XADD", stream, "*", "n", "s", "p", "x")
    assert not (await claim_for(redis, "me")).is_handed
    assert await pending(redis) == []


async def test_a_start_that_was_read_for_a_node_that_never_got_it_comes_again(
    server: EmbeddedServer,
) -> None:
    """As when the node dies, or its caller, after Redis has sent the reply."""
    handler = Handler()
    handler.may_start.set()
    async with open_two(server, 1.0) as (node, redis):
        await node.add_worker(handler)
        [consumer] = await consumers(redis)
        assert (await claim_for(redis, consumer)).is_handed
        await until(lambda: handler.starts)
        assert handler.starts == ["k"]
        assert await node.job_payload("k") == b"payload"


async def test_what_a_cancelled_dispatch_left_behind_starts_at_once(
    server: EmbeddedServer,
) -> None:
    """Its event was read for the node, so that no sink would bring it for a grace period."""
    handler = Handler()
    handler.may_start.set()
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        pool.open_node("p", redis, worker_ttl=5, ack_grace_period=FAR) as node,
    ):
        await node.add_worker(handler)
        await node.dispatch("warm-up")
        held = proxy.on(
            "EVALSHA",
            Fault.HOLD_REPLY,
            times=1,
            where=lambda words: _scripts.CLAIM.sha.encode() in words,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.dispatch, "a")
            await held.wait_hit()
            nursery.cancel_scope.cancel()
        held.release()
        await until(lambda: "a" in handler.starts)
        with pytest.raises(pool.JobExistsError):
            await node.dispatch("a")
        assert handler.starts == ["warm-up", "a"]


@attrs.define
class SlowStore:
    """Releases guards when it is told that it may."""

    released: list[str] = attrs.field(factory=list[str])
    turns: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(0))

    async def release(self, claims: Sequence[tuple[str, str]]) -> list[str]:
        await self.turns.acquire()
        self.released += [token for _, token in claims]
        return [""] * len(claims)


async def test_who_dispatches_a_key_again_waits_for_its_guard(nursery: trio.Nursery) -> None:
    """Nobody else waits for it: the job that has started holds the key itself."""
    store = SlowStore()
    releases = Releases(cast("Store", store), default_logger("pool"))
    nursery.start_soon(releases.run)
    releases.put("a", "1")
    await trio.testing.wait_all_tasks_blocked()
    releases.put("a", "2")
    releases.put("b", "3")
    done: list[str] = []

    async def wait(key: str) -> None:
        await releases.wait(key)
        done.append(key)

    await releases.wait("another")
    for key in ("a", "b"):
        nursery.start_soon(wait, key)
    store.turns.release()
    await trio.testing.wait_all_tasks_blocked()
    assert (store.released, done) == (["1"], [])
    store.turns.release()
    await trio.testing.wait_all_tasks_blocked()
    assert (store.released, sorted(done)) == (["1", "2", "3"], ["a", "b"])


async def test_a_key_is_free_when_its_dispatch_has_failed(redis: Redis) -> None:
    async def refuse(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        del task_status
        await trio.lowlevel.checkpoint()
        raise ValueError("no")

    async with pool.open_node("p", redis) as node, pool.open_node("p", redis) as other:
        await node.add_worker(refuse)
        for each in (node, other) * 5:
            with pytest.raises(pool.JobStartError):
                await each.dispatch("a")
