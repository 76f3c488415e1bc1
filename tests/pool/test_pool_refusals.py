"""Redis refuses writes for a while (read only, no memory, no replica): what goes on after it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from terzetto import pool
from terzetto.redis import Redis, connect
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
