"""Workers that come and go while jobs run, are dispatched and are stopped."""

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.pool._ring import Member, place
from terzetto.redis import connect
from terzetto.server import EmbeddedServer

TTL = 3.0


@attrs.define
class Ledger:
    """What runs where; it sees every overlap."""

    live: dict[str, str] = attrs.field(factory=dict[str, str])
    overlaps: list[str] = attrs.field(factory=list[str])
    payloads: dict[str, bytes] = attrs.field(factory=dict[str, bytes])


@attrs.define
class Handler:
    ledger: Ledger
    worker: pool.Worker | None = None

    async def start(self, job: pool.Job) -> None:
        if job.key in self.ledger.live:
            self.ledger.overlaps.append(job.key)
        self.ledger.live[job.key] = "" if self.worker is None else self.worker.id
        self.ledger.payloads[job.key] = job.payload
        await trio.lowlevel.checkpoint()

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        del self.ledger.live[key]


async def until(is_so: Callable[[], object], within: float = 40.0) -> None:
    with trio.fail_after(within):
        while not is_so():  # noqa: ASYNC110 - a state of several nodes
            await trio.sleep(0.02)


@asynccontextmanager
async def nodes(url: str, name: str, count: int) -> AsyncGenerator[list[pool.Node]]:
    async with AsyncExitStack() as stack:
        opened: list[pool.Node] = []
        for _ in range(count):
            redis = await stack.enter_async_context(connect(url))
            node = pool.open_node(name, redis, worker_ttl=TTL, ack_grace_period=TTL)
            opened.append(await stack.enter_async_context(node))
        yield opened


async def add(node: pool.Node, ledger: Ledger) -> pool.Worker:
    handler = Handler(ledger)
    handler.worker = await node.add_worker(handler)
    return handler.worker


@pytest.mark.parametrize("seed", range(4))
async def test_churn_loses_no_job_and_runs_none_twice(server: EmbeddedServer, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's dice
    ledger = Ledger()
    keys = {f"job-{number}": str(number).encode() for number in range(100)}
    async with nodes(server.url, "p", 3) as opened:
        workers = [await add(chance.choice(opened), ledger) for _ in range(2)]
        await opened[0].dispatch_many(keys.items())
        for turn in range(12):
            async with trio.open_nursery() as nursery:
                for node in opened:
                    key = f"late-{turn}-{node.id}"
                    keys[key] = b"late"
                    nursery.start_soon(node.dispatch, key, b"late")
                if len(workers) > 1 and chance.random() < 0.5:
                    nursery.start_soon(workers.pop(chance.randrange(len(workers))).close)
                else:
                    workers.append(await add(chance.choice(opened), ledger))
        ring = sorted(
            Member(number, worker_id) for number, worker_id in enumerate(opened[0].pool_workers)
        )
        assert {member.worker_id for member in ring} == {worker.id for worker in workers}
        await until(lambda: {key: place(key, ring) for key in keys} == where(workers))
        await until(lambda: set(ledger.live) == set(keys))
        assert ledger.overlaps == []
        assert ledger.payloads == keys
        assert await opened[0].job_keys() == sorted(keys)


def where(workers: list[pool.Worker]) -> dict[str, str]:
    return {key: worker.id for worker in workers for key in worker.jobs}
