"""The node that routed a start is gone before it acknowledged it; what becomes of the job.

In most of these the router is played by hand, up to where it dies: it has the event and has
sent it to the worker's stream. Its answer, and with it the acknowledgement, never comes.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.pool import _scripts
from terzetto.pool._asking import Asked, Asking, Claim
from terzetto.pool._codec import JobBody, encode_envelope, encode_job
from terzetto.pool._keys import add_if_exists
from terzetto.pool._names import SINK, START, Names
from terzetto.pool._store import Store
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.streaming import stream_key
from terzetto.testing import Fault, open_proxy

NAMES: Final = Names("p")
STREAM: Final = stream_key(NAMES.stream)
FAR: Final = 30.0  # a grace that is over long after these tests


@attrs.define
class Jobs:
    """Jobs that end when and as they are told; `retries` of their starts are put off."""

    retries: int = 0
    starts: list[str] = attrs.field(factory=list[str])
    may_end: trio.Event = attrs.field(factory=trio.Event)
    error: Exception | None = None

    async def run(self, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        self.starts.append(job.key)
        if len(self.starts) <= self.retries:
            raise pool.JobRetryError("not now")
        task_status.started()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


async def route_and_die(redis: Redis, worker: pool.Worker, topic: bytes | None = None) -> str:
    """Do what a node does until a worker elsewhere has its start; returns the event's id."""
    await redis.execute("XGROUP", "CREATECONSUMER", STREAM, SINK, "dead")
    body = encode_job(JobBody("k", "dead", b"", 1))
    # Read for the dead one in the same step, so that the living one does not route it first.
    asked = Asked("k", body, "token", "a worker of the dead", "1", "dead")
    asking = Asking([asked], guard_for=FAR, limit=10)
    [claim] = await Store(redis, NAMES).claim(asking)
    assert isinstance(claim, Claim)
    assert claim.is_read
    stream, envelope = NAMES.worker_stream(worker.id), encode_envelope("dead", body)
    if topic is None:
        assert await redis.execute(*add_if_exists(stream, START, envelope, topic=claim.event_id))
    else:
        assert await redis.execute(*add_if_exists(stream, START, envelope), "t", topic)
    return claim.event_id


async def waits(redis: Redis, event_id: str) -> bool:
    """Tell whether an event is there, and will come again."""
    pending = await redis.execute("XPENDING", STREAM, SINK, event_id, event_id, 1)
    assert bool(pending) == bool(await redis.execute("XRANGE", STREAM, event_id, event_id))
    return bool(pending)


@asynccontextmanager
async def open_worker(redis: Redis, jobs: Jobs) -> AsyncGenerator[tuple[pool.Node, pool.Worker]]:
    async with pool.open_node("p", redis, worker_ttl=FAR, ack_grace_period=FAR) as node:
        yield node, await node.add_worker(jobs.run, max_restarts=0)


async def test_a_stopped_job_does_not_rise_when_the_router_of_its_start_is_dead(
    redis: Redis,
) -> None:
    jobs = Jobs()
    async with open_worker(redis, jobs) as (node, worker):
        event_id = await route_and_die(redis, worker)
        await until(lambda: worker.jobs)
        assert await waits(redis, event_id), "it is not known yet that the start was answered"
        await node.stop_job("k")
        await until(lambda: node.counts.get("job_stopped"))
        assert not await waits(redis, event_id)


@pytest.mark.parametrize("crash", [None, ValueError("broken")])
async def test_a_job_that_has_ended_does_not_rise_when_the_router_of_its_start_is_dead(
    redis: Redis, crash: Exception | None
) -> None:
    jobs = Jobs(error=crash)
    async with open_worker(redis, jobs) as (node, worker):
        event_id = await route_and_die(redis, worker)
        await until(lambda: worker.jobs)
        jobs.may_end.set()
        await until(lambda: node.counts.get("job_ended" if crash is None else "dead_letter"))
        assert not await waits(redis, event_id)


async def test_a_job_that_has_moved_is_sent_again_once_when_the_router_of_its_start_is_dead(
    redis: Redis,
) -> None:
    """The event that moved it stands for it now: whoever stops it knows of that one."""
    jobs = Jobs()
    async with open_worker(redis, jobs) as (node, worker):
        event_id = await route_and_die(redis, worker)
        await until(lambda: node.counts.get("job_started"))  # it is answered for by then
        await worker.close()
        assert not await waits(redis, event_id)
        await node.add_worker(jobs.run)
        await until(lambda: len(jobs.starts) == 2)
        assert await node.job_payload("k") == b""


async def test_a_start_that_was_put_off_comes_again_when_its_router_is_dead(redis: Redis) -> None:
    """Nothing has begun, so its event is all there is of it."""
    jobs = Jobs(retries=1)
    async with open_worker(redis, jobs) as (node, worker):
        event_id = await route_and_die(redis, worker)
        await until(lambda: jobs.starts)
        await until(lambda: not worker.jobs)
        assert await waits(redis, event_id)
        await worker.close()
        assert await waits(redis, event_id)
        assert await node.job_keys() == []


@pytest.mark.parametrize("topic", [b"", b"k", b"1-1 ", b"\xff-1", b"9" * 20 + b"-1", b"-", b"-1"])
async def test_a_start_whose_topic_is_no_id_starts_and_stops(redis: Redis, topic: bytes) -> None:
    """As from a node in Go, or anybody."""
    jobs = Jobs()
    async with open_worker(redis, jobs) as (node, worker):
        event_id = await route_and_die(redis, worker, topic)
        await until(lambda: worker.jobs)
        await node.stop_job("k")
        await until(lambda: node.counts.get("job_stopped"))
        assert await waits(redis, event_id)


async def routed(redis: Redis, worker: pool.Worker) -> list[str]:
    """Return the topics of the starts on a worker's stream."""
    entries = await redis.execute("XRANGE", stream_key(NAMES.worker_stream(worker.id)), "-", "+")
    fields = [dict(zip(entry[::2], entry[1::2], strict=True)) for _, entry in entries]
    return [each[b"t"].decode() for each in fields if each[b"n"] == b"j"]


async def test_a_router_whose_acknowledgement_never_comes_leaves_no_event_behind(
    server: EmbeddedServer, redis: Redis
) -> None:
    jobs = Jobs()
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as link,
        open_worker(redis, jobs) as (node, worker),
        pool.open_node("p", link, worker_ttl=FAR, ack_grace_period=FAR) as router,
    ):
        await until(lambda: node.pool_workers == router.pool_workers)
        held = proxy.on(
            "EVALSHA",
            Fault.HOLD,
            times=None,
            where=lambda words: _scripts.CLAIM.sha.encode() in words,  # it dispatches nothing
        )
        number = 0
        while not await routed(redis, worker):  # each is read by one of the two
            body = encode_job(JobBody(f"far-{number}", "of a peer in Go", b"", 1))
            await Store(redis, NAMES).send(START, body)
            number += 1
            await until(lambda: len(jobs.starts) == number)  # noqa: B023 - it waits here
        await held.wait_hit()
        [event_id] = await routed(redis, worker)
        assert await waits(redis, event_id)
        jobs.may_end.set()
        await until(lambda: not worker.jobs)
        assert not await waits(redis, event_id)
        assert len(jobs.starts) == number
        held.release()
