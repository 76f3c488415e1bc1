"""A pool on a cluster: all of it in one slot by a hash tag, and a fail-over of its master."""

import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.errors import InvalidNameError, TerzettoError
from terzetto.pool._names import TOLD, Names
from terzetto.redis import Redis, connect
from terzetto.server import Cluster, EmbeddedServer, open_cluster
from terzetto.streaming import stream_key

TTL = 4.0
FAIL_OVER = 60.0  # seconds for the cluster to agree; the machine may be busy


@attrs.define
class Jobs:
    """What runs, in all workers of this process; it sees every overlap."""

    live: dict[str, bytes] = attrs.field(factory=dict[str, bytes])
    notes: list[tuple[str, bytes]] = attrs.field(factory=list[tuple[str, bytes]])
    overlaps: list[str] = attrs.field(factory=list[str])

    async def start(self, job: pool.Job) -> None:
        if job.key in self.live:
            self.overlaps.append(job.key)
        self.live[job.key] = job.payload
        await trio.lowlevel.checkpoint()

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        del self.live[key]

    async def notify(self, key: str, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.notes.append((key, payload))


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(FAIL_OVER):
        while not is_so():  # noqa: ASYNC110 - a state of several nodes
            await trio.sleep(0.02)


@asynccontextmanager
async def nodes(cluster: Cluster, number: int) -> AsyncGenerator[list[pool.Node]]:
    async with AsyncExitStack() as stack:
        opened: list[pool.Node] = []
        for _ in range(number):
            redis = await stack.enter_async_context(connect(cluster.url))
            node = pool.open_node(
                "mail-eu", redis, hash_tag="mail", worker_ttl=TTL, ack_grace_period=TTL
            )
            opened.append(await stack.enter_async_context(node))
        yield opened


async def keys_of_pool(cluster: Cluster) -> list[str]:
    found: set[bytes] = set()
    for master in await cluster.masters():
        async with connect(f"redis://127.0.0.1:{master.port}") as redis:
            found.update(await redis.execute("KEYS", "*"))
    return sorted(key.decode() for key in found)


async def master_of(cluster: Cluster, key: str) -> EmbeddedServer:
    async with connect(cluster.url) as redis:
        owner = str(redis.slot_owner(key))
    return next(one for one in await cluster.masters() if owner.endswith(f":{one.port}"))


async def test_the_node_of_a_worker_is_told_of_a_start_on_a_cluster_too() -> None:
    """Its stream is in the pool's slot, as all that the script of a dispatch names."""
    jobs = Jobs()
    async with (
        open_cluster(replicas=0) as cluster,
        nodes(cluster, 2) as (first, second),
        connect(cluster.url) as redis,
    ):
        await second.add_worker(jobs)
        names, numbers = Names(first.pool), count()
        stream = stream_key(names.node_stream(second.id))
        told = False
        with trio.fail_after(FAIL_OVER):
            while not told:  # until the first knows where the worker lives
                await first.dispatch(f"job-{next(numbers)}", b"x")
                entries = await redis.execute("XRANGE", stream, "-", "+")
                told = any(TOLD.encode() in fields for _, fields in entries)
        assert list(jobs.live) == [f"job-{number}" for number in range(next(numbers))]
        assert jobs.overlaps == []


async def test_a_pool_that_is_given_a_hash_tag_works_on_a_cluster() -> None:
    jobs = Jobs()
    async with open_cluster(replicas=0) as cluster, nodes(cluster, 2) as (first, second):
        assert first.pool == "{mail}-eu"
        for node in (first, second):
            await node.add_worker(jobs)
        await until(lambda: len(first.pool_workers) == 2)
        outcomes = await first.dispatch_many((f"job-{number}", b"x") for number in range(50))
        assert set(outcomes.values()) == {None}
        await second.stop_job("job-7")
        await until(lambda: len(jobs.live) == 49)
        await first.notify("job-8", b"hello")
        await until(lambda: jobs.notes == [("job-8", b"hello")])

        async def plan() -> pool.JobPlan:
            await trio.lowlevel.checkpoint()
            return pool.JobPlan(start={"planned": b""})

        async with (
            second.open_schedule("plans", 60, plan),
            first.open_ticker("ticks", 0.05) as ticker,
        ):
            await until(lambda: "planned" in jobs.live)
            await anext(ticker)
        own = [key for key in await keys_of_pool(cluster) if "mail" in key]
        assert own
        assert all("{mail}-eu" in key for key in own)
        await first.close()
        await until(lambda: len(second.pool_workers) == 1)
        await until(lambda: len(jobs.live) == 50)
        assert jobs.overlaps == []
        await second.shutdown()
        assert jobs.live == {}
        left = [key for key in await keys_of_pool(cluster) if "mail" in key]
        assert left == []


@attrs.define
class Traffic:
    """What goes on in a pool, right through a fail-over."""

    ticks: int = 0
    accepted: set[str] = attrs.field(factory=set[str])

    async def dispatch(self, node: pool.Node) -> None:
        """Dispatch one job after the other; what is refused or uncertain is not counted."""
        for number in count():
            with suppress(TerzettoError):
                await node.dispatch(f"job-{number}", b"x")
                self.accepted.add(f"job-{number}")
            await trio.sleep(0.05)

    async def tick(self, node: pool.Node) -> None:
        """Count the ticks of a ticker."""
        async with node.open_ticker("ticks", 0.2) as ticker:
            async for _ in ticker:
                self.ticks += 1

    async def goes_on(self) -> None:
        """Wait for more of both."""
        ticks, accepted = self.ticks, len(self.accepted)
        await until(lambda: self.ticks > ticks + 2 and len(self.accepted) > accepted + 20)


async def test_a_pool_outlives_the_master_that_keeps_it() -> None:
    jobs, traffic = Jobs(), Traffic()
    async with open_cluster() as cluster, nodes(cluster, 3) as (first, second, third):
        for node in (first, second):
            await node.add_worker(jobs)
        victim = await master_of(cluster, "{mail}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(traffic.dispatch, third)
            nursery.start_soon(traffic.tick, second)
            await traffic.goes_on()
            await victim.kill()
            with trio.fail_after(FAIL_OVER):
                await cluster.wait_ready()
            await traffic.goes_on()
            nursery.cancel_scope.cancel()

        with trio.fail_after(FAIL_OVER):
            # What a master had not passed on when it died is written again by who runs it.
            while not traffic.accepted <= set(await third.job_keys()):
                await trio.lowlevel.checkpoint()
        assert traffic.accepted <= jobs.live.keys()
        await third.stop_job("job-7")
        await until(lambda: "job-7" not in jobs.live)
        await third.notify("job-8", b"hello")
        await until(lambda: jobs.notes == [("job-8", b"hello")])
        await first.close()
        await until(lambda: traffic.accepted - {"job-7"} <= jobs.live.keys())
        assert jobs.overlaps == []
        await third.shutdown()
        assert jobs.live == {}
        assert [key for key in await keys_of_pool(cluster) if "mail" in key] == []


async def test_a_pool_needs_no_master_but_its_own() -> None:
    jobs = Jobs()
    without_others = ("cluster-require-full-coverage no",)
    async with (
        open_cluster(replicas=0, config=without_others) as cluster,
        connect(cluster.url) as redis,
        pool.open_node("{mail}", redis, worker_ttl=TTL, ack_grace_period=TTL) as node,
    ):
        await node.add_worker(jobs)
        own = await master_of(cluster, "{mail}")
        other = next(each for each in await cluster.masters() if each is not own)
        await other.kill()
        os.kill(own.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.dispatch, "job-1")
            await until(lambda: redis.statistics().in_flight)
            await own.kill()  # whether what was sent has run nobody knows
            await own.start()
        await until(lambda: "job-1" in jobs.live)
        await node.stop_job("job-1")
        await until(lambda: "job-1" not in jobs.live)
        assert jobs.overlaps == []
        await other.start()


async def test_a_pool_without_a_hash_tag_is_refused_on_a_cluster() -> None:
    async with open_cluster(replicas=0) as cluster, connect(cluster.url) as redis:
        for name in ("p", "p{}", "}p{"):
            with pytest.raises(InvalidNameError, match="hash tag"):
                pool.child(name, redis)


@pytest.mark.parametrize(
    ("name", "hash_tag", "called"),
    [
        ("mail", "mail", "{mail}"),
        ("mail-eu-mail", "mail", "{mail}-eu-mail"),
        ("eu:mail", "mail", "eu:{mail}"),
        ("{mail}-eu", "mail", "{mail}-eu"),
    ],
)
async def test_a_hash_tag_is_a_part_of_the_name(
    redis: Redis, name: str, hash_tag: str, called: str
) -> None:
    async with pool.open_node(name, redis, hash_tag=hash_tag) as node:
        assert node.pool == called
        assert await redis.execute("EXISTS", f"map:{called}:node-keepalive:content")


@pytest.mark.parametrize(
    ("name", "hash_tag"),
    [("mail", ""), ("mail", "post"), ("{mail}", "ail"), ("ma{il", "ma"), ("mail", "{mail}")],
)
async def test_what_can_be_no_hash_tag_is_refused(redis: Redis, name: str, hash_tag: str) -> None:
    with pytest.raises(InvalidNameError, match=r"hash tag|name"):
        pool.child(name, redis, hash_tag=hash_tag)
