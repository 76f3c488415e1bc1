"""Dispatches to a worker of another node: the start is read for that node, which is told of it."""

import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.pool import _scripts
from terzetto.pool._asking import Asked, Asking, Claim
from terzetto.pool._assign import read_list
from terzetto.pool._codec import JobBody, encode_job
from terzetto.pool._keys import own_key
from terzetto.pool._names import SINK, START, TOLD, Names
from terzetto.pool._store import Store
from terzetto.redis import Redis, connect
from terzetto.rmap import content_key
from terzetto.server import EmbeddedServer
from terzetto.streaming import stream_key
from terzetto.testing import Fault, Proxy, open_proxy

NAMES: Final = Names("p")
STREAM: Final = stream_key(NAMES.stream)
HOMES: Final = own_key(NAMES, "homes")
FAR: Final = 30.0  # a TTL or grace that is over long after these tests


@attrs.define
class Handler:
    """Counts starts; stops wait for an event, if there is one."""

    starts: list[str] = attrs.field(factory=list[str])
    may_stop: trio.Event | None = None

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        self.starts.append(job.key)

    async def stop(self, _: str) -> None:
        if self.may_stop is not None:
            await self.may_stop.wait()
        else:
            await trio.lowlevel.checkpoint()


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


async def told(redis: Redis, node_id: str) -> int:
    """Return how many starts a node was told of."""
    entries = await redis.execute("XRANGE", stream_key(NAMES.node_stream(node_id)), "-", "+")
    return sum(fields[fields.index(b"n") + 1] == TOLD.encode() for _, fields in entries)


async def consumer_of(redis: Redis) -> str:
    """Return the only consumer of the pool's sink."""
    [consumer] = await redis.execute("XINFO", "CONSUMERS", STREAM, SINK)
    name: bytes = consumer[b"name"]
    return name.decode()


async def owned(redis: Redis, worker_id: str) -> list[str]:
    """Return what a worker owns, in Redis."""
    stored = await redis.execute("HGET", content_key(NAMES.jobs), worker_id)
    return [] if stored is None else read_list(stored.decode())


@attrs.frozen
class World:
    """A node behind a proxy, a client of its pool, and a link beside them."""

    proxy: Proxy
    node: pool.Node
    client: pool.Node
    redis: Redis
    _numbers: "count[int]" = attrs.field(factory=count)

    async def until_known(self) -> None:
        """Dispatch until the node is told of it: the client knows where its worker lives."""
        before = await told(self.redis, self.node.id)
        with trio.fail_after(20):
            while await told(self.redis, self.node.id) == before:
                await self.client.dispatch(f"probe {next(self._numbers)}")

    async def claim_for(self, worker: pool.Worker, key: str, *, node_id: str) -> Claim:
        """Send a start as the client does, but have another node told, or nobody."""
        created = await self.redis.execute("HGET", content_key(NAMES.workers), worker.id)
        consumer = await consumer_of(self.redis)
        body = encode_job(JobBody(key, self.client.id, b"payload", 1))
        asked = Asked(key, body, key, worker.id, created.decode(), consumer, node_id)
        asking = Asking([asked], guard_for=0.5, limit=10)
        [claim] = await Store(self.redis, NAMES).claim(asking)
        assert isinstance(claim, Claim)
        return claim

    async def tell(self, event_id: str, worker_id: str, key: str) -> None:
        """Tell the node of a start, as the script does."""
        body = encode_job(JobBody(key, self.client.id, b"payload", 1))
        words = (event_id.encode(), worker_id.encode())
        head = b"".join(struct.pack("<i", len(word)) + word for word in words)
        stream = stream_key(NAMES.node_stream(self.node.id))
        await self.redis.execute("XADD", stream, "*", "n", TOLD, "p", head + b"\x01" + body)


@asynccontextmanager
async def open_world(
    server: EmbeddedServer, *, ttl: float = FAR, grace: float = FAR
) -> AsyncGenerator[World]:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as link,
        connect(server.url) as redis,
        pool.open_node("p", link, worker_ttl=ttl, ack_grace_period=grace) as node,
        pool.open_node(
            "p", redis, worker_ttl=ttl, ack_grace_period=grace, client_only=True
        ) as client,
    ):
        yield World(proxy, node, client, redis)


def is_ledger(words: Sequence[bytes]) -> bool:
    return _scripts.LEDGER.sha.encode() in words


def ends_a_job(words: Sequence[bytes]) -> bool:
    return is_ledger(words) and b"end" in words


async def test_a_start_for_a_worker_of_another_node_waits_for_one_script(
    server: EmbeddedServer,
) -> None:
    """The key is claimed, the job is its worker's, and the node is told, in one step."""
    handler = Handler()
    async with open_world(server) as world:
        worker = await world.node.add_worker(handler)
        await world.until_known()
        held = world.proxy.on("EVALSHA", Fault.HOLD, times=None, where=is_ledger)
        try:
            with trio.fail_after(20):
                await world.client.dispatch("a", b"payload")
            assert held.hits == 0
        finally:
            held.release()
        assert handler.starts[-1] == "a"
        assert await world.node.job_payload("a") == b"payload"
        assert (await owned(world.redis, worker.id))[-1] == "a"


async def test_a_start_that_fails_in_another_node_tells_the_dispatcher(
    server: EmbeddedServer,
) -> None:
    class Refuses(Handler):
        async def start(self, job: pool.Job) -> None:
            await super().start(job)
            if job.key == "bad":
                raise ValueError("not this one")

    async with open_world(server) as world:
        worker = await world.node.add_worker(Refuses())
        await world.until_known()
        before = await told(world.redis, world.node.id)
        for _ in range(2):
            with pytest.raises(pool.JobStartError, match="not this one"):
                await world.client.dispatch("bad")
        assert await told(world.redis, world.node.id) == before + 2
        assert "bad" not in await owned(world.redis, worker.id)


async def test_a_start_that_comes_while_one_before_it_fails_is_tried_for_itself(
    server: EmbeddedServer,
) -> None:
    """The first dispatch was cancelled, so its key was free again as soon as its start failed."""
    is_starting, may_fail = trio.Event(), trio.Event()
    tries: list[bytes] = []

    class Picky(Handler):
        async def start(self, job: pool.Job) -> None:
            await super().start(job)
            tries.append(job.payload)
            if job.payload == b"bad":
                is_starting.set()
                await may_fail.wait()
                raise ValueError("bad payload")

    async with open_world(server) as world, trio.open_nursery() as nursery:
        worker = await world.node.add_worker(Picky())
        await world.until_known()
        with trio.CancelScope() as first:
            async with trio.open_nursery() as inner:
                inner.start_soon(world.client.dispatch, "a", b"bad")
                await is_starting.wait()
                first.cancel()
        held = world.proxy.on("EVALSHA", Fault.HOLD_REPLY, where=ends_a_job)
        may_fail.set()
        await held.wait_hit()
        nursery.start_soon(world.client.dispatch, "a", b"good")
        with trio.fail_after(20):
            while "a" not in await owned(world.redis, worker.id):  # noqa: ASYNC110 - a state of Redis
                await trio.sleep(0.01)
        held.release()
        await until(lambda: b"good" in tries)
        assert "a" in worker.jobs
        assert "a" in await owned(world.redis, worker.id)


async def test_where_nobody_is_at_home_a_dispatch_takes_the_long_road(
    server: EmbeddedServer,
) -> None:
    """What is written down is of a sink, or a node, that is no more; it is corrected by a beat."""
    handler = Handler()
    async with open_world(server, ttl=3) as world:
        worker = await world.node.add_worker(handler)
        await world.until_known()
        right = await world.redis.execute("HGET", HOMES, worker.id)
        for wrong in (f"{world.node.id} nobody", f"nobody {await consumer_of(world.redis)}", "x"):
            await world.redis.execute("HSET", HOMES, worker.id, wrong)
            await world.node.add_worker(Handler())  # so that the homes are read
            for number in range(20):
                with trio.fail_after(20):
                    await world.client.dispatch(f"{wrong} {number}")
        assert await consumer_of(world.redis) == right.decode().partition(" ")[2]
        with trio.fail_after(20):
            while await world.redis.execute("HGET", HOMES, worker.id) != right:  # noqa: ASYNC110 - a state of Redis
                await trio.sleep(0.05)
        await world.until_known()


async def test_a_node_is_told_of_no_more_than_its_stream_holds(server: EmbeddedServer) -> None:
    """Its stream is cut at a thousand events or so: where many wait, they go the long road."""
    async with open_world(server) as world:
        await world.node.add_worker(Handler())
        await world.until_known()
        consumer = await consumer_of(world.redis)
        for number in range(251):
            await world.redis.execute("XADD", STREAM, "*", "n", "none", "p", str(number))
        words = ("GROUP", SINK, consumer, "COUNT", 300, "STREAMS", STREAM, ">")
        await world.redis.execute("XREADGROUP", *words)
        before = await told(world.redis, world.node.id)
        await world.client.dispatch("a")
        assert await told(world.redis, world.node.id) == before


async def test_a_job_that_its_worker_never_heard_of_is_let_go_when_it_leaves(
    server: EmbeddedServer,
) -> None:
    """Nothing waits for the TTL: the event is pending, and comes again."""
    first, second = Handler(), Handler()
    async with open_world(server, grace=1) as world:
        worker = await world.node.add_worker(first)
        deaf = NAMES.node_stream("deaf")
        await world.redis.execute("XADD", stream_key(deaf), "*", "n", "i", "p", "deaf")
        claim = await world.claim_for(worker, "a", node_id="deaf")
        assert claim.is_owned
        assert await owned(world.redis, worker.id) == ["a"]
        await worker.close()
        assert await owned(world.redis, worker.id) == []
        assert await world.redis.execute("HGET", content_key(NAMES.workers), worker.id) is None
        assert await world.redis.execute("HEXISTS", HOMES, worker.id) == 0
        await world.node.add_worker(second)
        await until(lambda: second.starts)
        assert (first.starts, second.starts) == ([], ["a"])
        assert await world.node.job_payload("a") == b"payload"


async def test_a_job_whose_worker_is_leaving_runs_elsewhere_though_its_last_jobs_are_slow(
    server: EmbeddedServer,
) -> None:
    may_stop = trio.Event()
    first, second = Handler(may_stop=may_stop), Handler()
    async with open_world(server) as world:
        worker = await world.node.add_worker(first, grace=FAR)
        await world.client.dispatch("slow")
        deaf = NAMES.node_stream("deaf")
        await world.redis.execute("XADD", stream_key(deaf), "*", "n", "i", "p", "deaf")
        claim = await world.claim_for(worker, "a", node_id="deaf")
        assert claim.is_owned
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.close)
            await until(lambda: worker.id not in world.node.pool_workers)
            await world.node.add_worker(second)
            await world.tell(claim.event_id, worker.id, "a")
            await until(lambda: "a" in second.starts)
            assert "slow" in worker.jobs
            may_stop.set()
        assert first.starts == ["slow"]


async def test_what_a_node_is_told_late_is_left_to_come_round(server: EmbeddedServer) -> None:
    """It was paused; by now another node may have the event, or be done with it."""
    handler = Handler()
    async with open_world(server, grace=2) as world:
        worker = await world.node.add_worker(handler)
        seconds, _ = await world.redis.execute("TIME")
        await world.tell(f"{int(seconds) * 1000 - 1500}-0", worker.id, "late")
        await world.until_known()
        assert "late" not in handler.starts
        assert await owned(world.redis, worker.id) == handler.starts


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x03\x00\x00\x001-1", b"\x01\x00\x00\x00x\x01\x00\x00\x00w\x01", b"\xff" * 40],
)
async def test_a_node_that_is_told_nonsense_lives_on(
    server: EmbeddedServer, payload: bytes
) -> None:
    async with open_world(server) as world:
        await world.node.add_worker(Handler())
        stream = stream_key(NAMES.node_stream(world.node.id))
        await world.redis.execute("XADD", stream, "*", "n", TOLD, "p", payload)
        await until(lambda: world.node.counts.get("dead_letter"))
        await world.until_known()


async def test_homes_of_workers_that_peers_have_buried_are_swept(server: EmbeddedServer) -> None:
    async with open_world(server, grace=0.5) as world:
        worker = await world.node.add_worker(Handler())
        await world.redis.execute("HSET", HOMES, "buried by Go", "a b")
        with trio.fail_after(20):
            while await world.redis.execute("HKEYS", HOMES) != [worker.id.encode()]:  # noqa: ASYNC110 - a state of Redis
                await trio.sleep(0.05)


async def test_a_start_of_a_peer_is_routed_to_a_worker_that_has_a_home(
    server: EmbeddedServer,
) -> None:
    handler = Handler()
    async with open_world(server) as world:
        await world.node.add_worker(handler)
        before = await told(world.redis, world.node.id)
        body = encode_job(JobBody("a", "a peer in Go", b"", 1))
        await Store(world.redis, NAMES).send(START, body)
        await until(lambda: handler.starts)
        assert await told(world.redis, world.node.id) == before
