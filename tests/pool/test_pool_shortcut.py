"""Dispatches to a worker of the same node: read in the step that sends them, never lost."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.pool import _scripts
from terzetto.pool._asking import Asked, Asking, Claim
from terzetto.pool._assign import read_list
from terzetto.pool._claims import Bid
from terzetto.pool._codec import Ack, JobBody, encode_ack, encode_job
from terzetto.pool._dispatch import Waiting
from terzetto.pool._keys import add_if_exists
from terzetto.pool._names import RETURN, Names
from terzetto.pool._router import Router
from terzetto.pool._store import Store
from terzetto.redis import Redis, connect
from terzetto.rmap import content_key
from terzetto.server import EmbeddedServer
from terzetto.streaming import stream_key
from terzetto.testing import Fault, Proxy, open_proxy

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


@asynccontextmanager
async def open_behind_proxy(server: EmbeddedServer) -> AsyncGenerator[tuple[Proxy, pool.Node]]:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        pool.open_node("p", redis, worker_ttl=5, ack_grace_period=FAR) as node,
    ):
        yield proxy, node


def is_claim(words: Sequence[bytes]) -> bool:
    """Tell whether a command is a dispatch's script, and one that claims something."""
    return _scripts.CLAIM.sha.encode() in words and len(words) > 15 and words[-1].isdigit()


async def until_read(redis: Redis) -> None:
    """Wait until somebody has read all events of the pool."""
    with trio.fail_after(20):
        while (await redis.execute("XINFO", "GROUPS", stream_key(NAMES.stream)))[0][b"lag"]:  # noqa: ASYNC110 - a state of Redis
            await trio.sleep(0.005)


async def until_settled(redis: Redis) -> None:
    """Wait until nothing is left behind of the dispatches that are over."""
    with trio.fail_after(20):
        while await redis.execute("XLEN", stream_key(NAMES.stream)):  # noqa: ASYNC110 - a state of Redis
            await trio.sleep(0.005)


async def claim_for(
    redis: Redis,
    consumer: str,
    key: str = "k",
    *,
    worker_id: str = "w",
    created: str = "1",
    node_id: str = "nobody",
) -> Claim:
    """Send the start of a job as a node does, for a consumer and a worker."""
    body = encode_job(JobBody(key, node_id, b"payload", 1))
    asked = Asked(key, body, key, worker_id, created, consumer)
    asking = Asking([asked], guard_for=1.0, limit=10)
    [claim] = await Store(redis, NAMES).claim(asking)
    assert isinstance(claim, Claim)
    return claim


async def owned(redis: Redis, worker_id: str) -> list[str]:
    """Return what a worker owns, in Redis."""
    stored = await redis.execute("HGET", content_key(NAMES.jobs), worker_id)
    return [] if stored is None else read_list(stored.decode())


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
        assert not (await claim_for(redis, "a stranger", "a")).is_read
        assert await consumers(redis) == mine, "no consumer is made that shows no life"
        assert (await claim_for(redis, mine[0], "b")).is_read


async def test_an_event_is_not_read_before_those_that_wait(redis: Redis) -> None:
    stream = stream_key(NAMES.stream)
    await redis.execute("XGROUP", "CREATE", stream, "events", "$", "MKSTREAM")
    await redis.execute("XGROUP", "CREATECONSUMER", stream, "events", "me")
    first = await redis.execute("XADD", stream, "9-0", "n", "s", "p", "x")
    second = await claim_for(redis, "me", "a")
    assert not second.is_read
    assert await pending(redis) == []
    read = await redis.execute("XREADGROUP", "GROUP", "events", "you", "STREAMS", stream, ">")
    ids = [entry_id for entry_id, _ in read[stream.encode()]]
    assert ids == [first, second.event_id.encode()], "each once, in their order"
    assert (await claim_for(redis, "me", "b")).is_read


async def test_a_start_that_was_read_for_a_node_that_never_got_it_comes_again(
    server: EmbeddedServer,
) -> None:
    """As when the node dies, or its caller, after Redis has sent the reply."""
    handler = Handler()
    handler.may_start.set()
    async with open_two(server, 1.0) as (node, redis):
        await node.add_worker(handler)
        [consumer] = await consumers(redis)
        assert (await claim_for(redis, consumer)).is_read
        await until(lambda: handler.starts)
        assert handler.starts == ["k"]
        assert await node.job_payload("k") == b"payload"


async def test_what_a_cancelled_dispatch_left_behind_starts_at_once(
    server: EmbeddedServer,
) -> None:
    """Its event was read for the node, so that no sink would bring it for a grace period."""
    handler = Handler()
    handler.may_start.set()
    async with open_behind_proxy(server) as (proxy, node):
        await node.add_worker(handler)
        await node.dispatch("warm-up")
        held = proxy.on("EVALSHA", Fault.HOLD_REPLY, where=is_claim)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.dispatch, "a")
            await held.wait_hit()
            nursery.cancel_scope.cancel()
        held.release()
        await until(lambda: "a" in handler.starts)
        with pytest.raises(pool.JobExistsError):
            await node.dispatch("a")
        assert handler.starts == ["warm-up", "a"]


async def test_a_start_for_a_worker_of_this_node_waits_for_one_script(
    server: EmbeddedServer,
) -> None:
    """The key is claimed, and the job is its worker's, in one step."""
    handler = Handler()
    handler.may_start.set()
    async with open_behind_proxy(server) as (proxy, node):
        worker = await node.add_worker(handler)
        await node.dispatch("warm-up")
        held = proxy.on(
            "EVALSHA",
            Fault.HOLD,
            times=None,
            where=lambda words: _scripts.LEDGER.sha.encode() in words,
        )
        try:
            with trio.fail_after(20):
                await node.dispatch("a")
            assert held.hits == 0
        finally:
            held.release()
        async with connect(server.url) as redis:
            assert await owned(redis, worker.id) == ["warm-up", "a"]
            assert await node.job_payload("a") == b""


async def test_a_worker_that_left_or_joined_anew_owns_nothing_by_a_claim(
    server: EmbeddedServer,
) -> None:
    async with open_two(server, FAR) as (node, redis):
        worker = await node.add_worker(Handler())
        [consumer] = await consumers(redis)
        claim = await claim_for(redis, consumer, worker_id=worker.id, created="1")
        assert (claim.is_read, claim.is_owned) == (True, False)
        assert await owned(redis, worker.id) == []


async def test_a_claim_takes_no_job_from_its_owner(redis: Redis) -> None:
    """A peer may have written itself down as the owner before it stored the payload."""
    stream = stream_key(NAMES.stream)
    await redis.execute("XGROUP", "CREATE", stream, "events", "$", "MKSTREAM")
    await redis.execute("XGROUP", "CREATECONSUMER", stream, "events", "me")
    await redis.execute("HSET", content_key(NAMES.workers), "w", "1", "other", "2")
    await redis.execute("HSET", content_key(NAMES.jobs), "other", '["k"]')
    assert not (await claim_for(redis, "me")).is_owned
    assert await owned(redis, "w") == []
    assert (await claim_for(redis, "me", "free")).is_owned
    assert await owned(redis, "w") == ["free"]


async def test_a_claim_whose_reply_was_lost_is_known_again(server: EmbeddedServer) -> None:
    handler = Handler()
    handler.may_start.set()
    async with open_behind_proxy(server) as (proxy, node):
        worker = await node.add_worker(handler)
        await node.dispatch("warm-up")
        for number in range(5):
            lost = proxy.on("EVALSHA", Fault.DROP_REPLY, where=is_claim)
            with trio.fail_after(20):
                await node.dispatch(f"key {number}")
            assert lost.hits == 1
        assert handler.starts == ["warm-up", *(f"key {number}" for number in range(5))]
        async with connect(server.url) as redis:
            assert await owned(redis, worker.id) == handler.starts


async def test_a_claim_that_is_asked_again_when_another_node_is_done_with_it_starts_nothing(
    server: EmbeddedServer,
) -> None:
    """The reply is lost, and the link stays away until the job has run and ended elsewhere."""
    handler = Handler()
    handler.may_start.set()
    async with open_behind_proxy(server) as (proxy, node), connect(server.url) as redis:
        worker = await node.add_worker(handler)
        await node.dispatch("warm-up")
        await until_settled(redis)
        await proxy.refuse()
        lost = proxy.on("EVALSHA", Fault.DROP_REPLY, where=is_claim)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.dispatch, "a")
                await lost.wait_hit()
                assert await owned(redis, worker.id) == ["warm-up", "a"]
                await run_elsewhere(redis, worker, node.id, "a")
                await proxy.accept()
        assert await node.job_payload("a") is None
        assert await owned(redis, worker.id) == handler.starts == ["warm-up"]


async def run_elsewhere(redis: Redis, worker: pool.Worker, node_id: str, key: str) -> None:
    """Do what another node does with a start that has come round to it, until the job is over.

    It takes the event, takes the job from `worker`, ends it, answers and acknowledges.
    """
    stream, store = stream_key(NAMES.stream), Store(redis, NAMES)
    [[event_id, *_]] = await redis.execute("XPENDING", stream, "events", "-", "+", 2)
    await redis.execute("XCLAIM", stream, "events", "another", 0, event_id)
    created = (await redis.execute("HGET", content_key(NAMES.workers), worker.id)).decode()
    assert await store.change_jobs(worker.id, created, [("end", key, b"", "")]) == [1]
    answer = encode_ack(Ack(event_id.decode(), ""))
    await redis.execute(*add_if_exists(NAMES.node_stream(node_id), RETURN, answer))
    await redis.execute("XACK", stream, "events", event_id)
    await redis.execute("XDEL", stream, event_id)


async def test_orders_for_a_job_wait_until_its_claim_is_answered(server: EmbeddedServer) -> None:
    """Its worker owns it in Redis before it knows; a stop that comes first comes after."""
    heard: list[str] = []

    class Listener:
        async def start(self, job: pool.Job) -> None:
            await trio.lowlevel.checkpoint()
            heard.append(f"start {job.key}")

        async def stop(self, key: str) -> None:
            await trio.lowlevel.checkpoint()
            heard.append(f"stop {key}")

    async with open_behind_proxy(server) as (proxy, node), connect(server.url) as redis:
        await node.add_worker(Listener())
        async with pool.open_node("p", redis, client_only=True) as client:
            held = proxy.on("EVALSHA", Fault.HOLD_REPLY, where=is_claim)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.dispatch, "a")
                await held.wait_hit()
                await client.stop_job("a")
                await until_read(redis)
                assert heard == []
                held.release()
            await until(lambda: len(heard) == 2)
    assert heard == ["start a", "stop a"]


async def test_a_claim_that_is_answered_when_its_event_has_come_round_starts_it_once(
    server: EmbeddedServer,
) -> None:
    """It was read for this node, which heard of it only after its grace period."""
    handler = Handler()
    handler.may_start.set()
    async with open_two(server, 0.5) as (node, redis):
        worker = await node.add_worker(handler)
        life = await node._seat.wait_up()  # pyright: ignore[reportPrivateUsage] - no reply is so late by itself
        router = life.core.claims.router
        assert isinstance(router, Router)
        job = JobBody("k", node.id, b"payload", 1)
        keeper = router.worker_for(job, trio.current_time())
        created = "" if keeper is None else keeper.created
        claim = await claim_for(
            redis, router.consumer, worker_id=worker.id, created=created, node_id=node.id
        )
        assert claim.is_owned
        await until(lambda: len(router))
        assert handler.starts == []
        router.take(Bid(job, encode_job(job), "k", Waiting(), keeper), claim, trio.current_time())
        await until(lambda: handler.starts)
        await until(lambda: not len(router))
        assert handler.starts == worker.jobs == ["k"]


async def test_a_worker_that_leaves_before_its_claim_is_answered_lets_the_job_go(
    server: EmbeddedServer,
) -> None:
    first, second = Handler(), Handler()
    second.may_start.set()
    async with open_behind_proxy(server) as (proxy, node), connect(server.url) as redis:
        worker = await node.add_worker(first)
        async with pool.open_node("p", redis, worker_ttl=5, ack_grace_period=FAR) as other:
            held = proxy.on("EVALSHA", Fault.HOLD_REPLY, where=is_claim)
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(node.dispatch, "a")
                    await held.wait_hit()
                    nursery.start_soon(worker.close)
                    await until(lambda: worker.id not in node.pool_workers)
                    await other.add_worker(second)
                    held.release()
            assert (first.starts, second.starts) == ([], ["a"])
            assert await owned(redis, worker.id) == []


async def test_who_dispatches_a_key_again_does_not_meet_its_own_guard(redis: Redis) -> None:
    """What a dispatch leaves behind is settled before the next claim of its node."""
    ends = 0

    async def run(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        nonlocal ends
        task_status.started()
        await trio.lowlevel.checkpoint()
        ends += 1

    async with pool.open_node("p", redis) as node:
        await node.add_worker(run)
        for number in range(30):
            with trio.fail_after(20):
                await node.dispatch("a")
                while await node.job_payload("a") is not None:
                    await trio.lowlevel.checkpoint()
            assert ends == number + 1


async def test_what_has_started_is_not_counted_as_queued_by_the_next_claim(redis: Redis) -> None:
    handler = Handler()
    handler.may_start.set()
    async with pool.open_node("p", redis, max_queued_jobs=1) as node:
        await node.add_worker(handler)
        for number in range(30):
            await node.dispatch(str(number))
    assert len(handler.starts) == 30


async def test_what_a_dispatch_leaves_behind_is_settled_though_no_other_follows(
    redis: Redis,
) -> None:
    handler = Handler()
    handler.may_start.set()
    async with pool.open_node("p", redis) as node:
        await node.add_worker(handler)
        await node.dispatch("a")
        await until_read(redis)
        with trio.fail_after(20):
            while await redis.execute("HEXISTS", content_key(NAMES.pending), "a"):  # noqa: ASYNC110 - a state of Redis
                await trio.sleep(0.005)
        await until_settled(redis)
        assert await redis.execute("KEYS", "terzetto:pool:p:claim:*") == []


async def test_many_dispatches_at_once_are_settled_whatever_each_comes_to(redis: Redis) -> None:
    handler = Handler()
    handler.may_start.set()
    async with pool.open_node("p", redis) as node, pool.open_node("p", redis) as other:
        await node.add_worker(handler)
        outcomes: list[str] = []

        async def dispatch(by: pool.Node, key: str) -> None:
            try:
                await by.dispatch(key)
            except pool.JobExistsError:
                outcomes.append("exists")
            else:
                outcomes.append("started")

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    for by in (node, other, node):
                        nursery.start_soon(dispatch, by, str(number))
        assert sorted(handler.starts) == sorted(map(str, range(100)))
        assert (outcomes.count("started"), outcomes.count("exists")) == (100, 200)


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


async def test_a_handler_sees_the_context_in_which_its_node_was_opened(redis: Redis) -> None:
    """Its job may be started by the task that read a reply of Redis, or an event."""
    place: ContextVar[str] = ContextVar("place", default="where Redis was connected")
    seen: list[str] = []

    class Looker:
        async def start(self, job: pool.Job) -> None:
            await trio.lowlevel.checkpoint()
            seen.append(f"{job.key} {place.get()}")

        async def stop(self, _: str) -> None:
            await trio.lowlevel.checkpoint()

    place.set("where the node was opened")
    async with (
        pool.open_node("p", redis) as node,
        pool.open_node("p", redis, client_only=True) as client,
    ):
        place.set("where the worker was added")
        await node.add_worker(Looker())
        place.set("where it was dispatched")
        await node.dispatch("here")
        await client.dispatch("there")
    assert seen == ["here where the node was opened", "there where the node was opened"]
