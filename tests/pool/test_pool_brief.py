"""Handlers whose start waits for nothing: it is carried out without a task of its own."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.pool import _scripts
from terzetto.pool._names import Names
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.streaming import stream_key
from terzetto.testing import Fault, open_proxy

STREAM: Final = stream_key(Names("p").stream)
FAR: Final = 30.0  # a TTL or grace that is over long after these tests


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


@attrs.define
class Brief:
    """Notes what it is told; starts call `work`, and wait for nothing."""

    work: Callable[[pool.Job], object]
    heard: list[str] = attrs.field(factory=list[str])

    async def start(self, job: pool.Job) -> None:
        self.heard.append(f"start {job.key}")
        self.work(job)

    async def stop(self, key: str) -> None:
        self.heard.append(f"stop {key}")


@asynccontextmanager
async def open_pair(redis: Redis) -> AsyncGenerator[tuple[pool.Node, pool.Node]]:
    """Open a node, and a client of its pool."""
    async with (
        pool.open_node("p", redis, worker_ttl=FAR, ack_grace_period=FAR) as node,
        pool.open_node("p", redis, worker_ttl=FAR, client_only=True) as client,
    ):
        yield node, client


async def test_a_start_without_await_needs_no_task(redis: Redis) -> None:
    tasks: list[str] = []
    handler = Brief(lambda _: tasks.append(trio.lowlevel.current_task().name))
    async with open_pair(redis) as (node, client):
        worker = await node.add_worker(handler)
        await node.dispatch("here")
        assert worker.jobs == ["here"]
        with trio.fail_after(20):
            while not any("reader of p:node:" in name for name in tasks):  # it knows the home then
                await client.dispatch(f"there {len(tasks)}")
        assert not tasks[0].endswith("_run"), "the name of a lane's task"
        with pytest.raises(pool.JobExistsError):
            await node.dispatch("here")


async def test_a_start_without_await_that_fails_tells_the_dispatcher_and_frees_the_key(
    redis: Redis,
) -> None:
    def refuse(job: pool.Job) -> None:
        raise ValueError(f"not {job.key}")

    handler = Brief(refuse)
    async with open_pair(redis) as (node, client):
        worker = await node.add_worker(handler)
        for each in (node, node, client, client):
            with pytest.raises(pool.JobStartError, match="ValueError: not a"):
                await each.dispatch("a")
        assert handler.heard == ["start a"] * 4, "each time it is called once"
        assert worker.jobs == await node.job_keys() == []
        assert await node.job_payload("a") is None


async def test_a_start_without_await_sees_its_context_and_leaves_nothing_in_it(
    redis: Redis,
) -> None:
    place: ContextVar[str] = ContextVar("place", default="where Redis was connected")
    seen: list[str] = []

    def look(job: pool.Job) -> None:
        seen.append(place.get())
        place.set(f"where {job.key} was started")

    place.set("where the node was opened")
    async with open_pair(redis) as (node, client):
        place.set("where the worker was added")
        await node.add_worker(Brief(look))
        place.set("where it was dispatched")
        for number, each in enumerate((node, client, node, client)):
            await each.dispatch(str(number))
        assert place.get() == "where it was dispatched"
    assert seen == ["where the node was opened"] * 4


async def test_what_a_start_without_await_raises_that_is_no_exception_comes_out_of_the_node(
    redis: Redis,
) -> None:
    class End(BaseException):
        pass

    def end(_: pool.Job) -> None:
        raise End

    with pytest.raises(End):
        async with pool.open_node("p", redis) as node:
            await node.add_worker(Brief(end))
            await node.dispatch("a")
    assert await redis.execute("PING"), "it did not end the link, in whose task it was raised"


async def test_a_stop_that_waits_for_a_start_without_await_comes_after_it(
    server: EmbeddedServer,
) -> None:
    handler = Brief(lambda _: None)
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as link,
        connect(server.url) as redis,
        pool.open_node("p", link, worker_ttl=FAR, ack_grace_period=FAR) as node,
        pool.open_node("p", redis, worker_ttl=FAR, client_only=True) as client,
    ):
        await node.add_worker(handler)
        held = proxy.on(
            "EVALSHA", Fault.HOLD_REPLY, where=lambda words: _scripts.CLAIM.sha.encode() in words
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.dispatch, "a")
            await held.wait_hit()
            await client.stop_job("a")
            with trio.fail_after(20):
                while (await redis.execute("XINFO", "GROUPS", STREAM))[0][b"lag"]:  # noqa: ASYNC110 - a state of Redis
                    await trio.sleep(0.005)
            assert handler.heard == []
            held.release()
        await until(lambda: len(handler.heard) == 2)
    assert handler.heard == ["start a", "stop a"]
