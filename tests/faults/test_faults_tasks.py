"""Task servers that are killed and masters that fail over: every task is completed in the end."""

import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from terzetto.redis import connect
from terzetto.server import EmbeddedServer, open_cluster
from terzetto.tasks import TaskState
from terzetto.tasks._redis_broker import RedisBroker
from terzetto.testing import Program, open_program
from tests.faults.fleet import scaled
from tests.faults.record import say
from tests.tasks.serving import put, reaches, task, until, until_true
from tests.tasks.test_tasks_processes import PROGRAM, count, is_ready

pytestmark = pytest.mark.timeout(1800)

SERVERS = 4
CONCURRENCY = 8  # of each
QUEUE = "default"


@attrs.define(eq=False)
class Workers:
    """Processes with one task server each."""

    url: str
    log: Path
    stack: AsyncExitStack
    alive: dict[str, Program] = attrs.field(factory=dict[str, Program])
    started: int = 0

    async def add(self) -> None:
        """Start one more and wait until it serves."""
        self.started += 1
        name = f"server-{self.started}"
        self.alive[name] = await self.stack.enter_async_context(
            open_program(PROGRAM, self.url, name, QUEUE, self.log, "")
        )
        await until_true(partial(is_ready, self.log, name))

    async def kill(self, name: str) -> None:
        await self.alive.pop(name).kill()


@asynccontextmanager
async def open_workers(url: str, directory: Path) -> AsyncGenerator[Workers]:
    async with AsyncExitStack() as stack:
        workers = Workers(url, directory / "log", stack)
        for _ in range(SERVERS):
            await workers.add()
        yield workers


async def wait_completed(broker: RedisBroker, expected: int, within: float) -> int:
    """Wait until so many tasks are completed; return how many are."""
    completed = 0
    with trio.move_on_after(within):
        while completed < expected:
            await trio.sleep(0.2)
            (figures,) = await broker.read_queues([QUEUE])
            completed = 0 if figures is None else figures.completed
    return completed


async def test_kills_lose_no_task(server: EmbeddedServer, tmp_path: Path) -> None:
    """Four servers, 10,000 tasks, 100 kills."""
    rounds, each = scaled(100), 100
    chance = random.Random(1)  # noqa: S311 - to be repeated
    async with connect(server.url) as redis, open_workers(server.url, tmp_path) as workers:
        broker, ids = RedisBroker(redis), list[str]()
        for _ in range(rounds):
            entries = [task("sleep", b"0.02", retention=86_400) for _ in range(each)]
            ids += await put(broker, *entries)
            await workers.kill(chance.choice(list(workers.alive)))
            await workers.add()
        completed = await wait_completed(broker, len(ids), within=120)
        (figures,) = await broker.read_queues([QUEUE])
        starts = count(workers.log, "start")
        assert figures is not None
        say(f"{completed} of {len(ids)} completed, {starts.total()} attempts, {rounds} kills")
        assert completed == len(ids)
        assert figures.processed - figures.failed == len(ids)  # none completed twice
        assert (figures.pending, figures.active, figures.retry, figures.archived) == (0, 0, 0, 0)
        assert set(starts) == set(ids)


async def test_the_task_of_a_killed_server_runs_again_within_35_seconds(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """With the options that servers have by default; asynq's takes one to two minutes."""
    log = tmp_path / "log"
    async with connect(server.url) as redis, AsyncExitStack() as stack:
        broker = RedisBroker(redis)
        first = await stack.enter_async_context(
            open_program(PROGRAM, server.url, "first", QUEUE, log, "", "default")
        )
        await until_true(partial(is_ready, log, "first"))
        (task_id,) = await put(broker, task("sleep", b"600"))
        await until_true(lambda: count(log, "start").total() == 1)

        async def lease_end() -> float:
            end: float = await redis.execute("ZSCORE", broker.keys(QUEUE).lease, task_id)
            return end

        first_end = await lease_end()
        await stack.enter_async_context(
            open_program(PROGRAM, server.url, "second", QUEUE, log, "", "default")
        )
        await until_true(partial(is_ready, log, "second"))

        async def is_renewed() -> bool:
            return await lease_end() > first_end

        await until(is_renewed)
        await first.kill()
        began = trio.current_time()
        await until_true(lambda: count(log, "start").total() == 2)
        taken = trio.current_time() - began
    say(f"the task of a killed server ran again after {taken:.1f} s")
    assert 20 < taken <= 35


async def test_redis_may_be_gone_for_a_minute(server: EmbeddedServer, tmp_path: Path) -> None:
    """Twice as long as a lease lasts, with default options: functions end, and nothing is lost."""
    log, names = tmp_path / "log", ("first", "second")
    async with connect(server.url) as redis, AsyncExitStack() as stack:
        broker = RedisBroker(redis)
        programs = [
            await stack.enter_async_context(
                open_program(PROGRAM, server.url, name, QUEUE, log, "", "default")
            )
            for name in names
        ]
        for name in names:
            await until_true(partial(is_ready, log, name))
        ids = await put(broker, *(task("sleep", b"20", retention=600) for _ in range(12)))
        await until_true(lambda: count(log, "start").total() == len(ids))
        await server.kill()
        await trio.sleep(60)  # the outage itself
        assert count(log, "end").total() == len(ids)
        await server.start()
        (later,) = await put(broker, task("sleep", b"0", retention=600))
        for task_id in (*ids, later):
            info = await reaches(broker, task_id, TaskState.COMPLETED)
            assert info is not None
            assert info.message.retried == 0
        for program in programs:
            program.terminate()
            assert await program.wait() == 0
    say("Redis was gone for a minute: 12 tasks ended meanwhile, and their outcomes were written")
    assert set(count(log, "start").values()) == {1}


async def test_fail_overs_lose_no_task(tmp_path: Path) -> None:
    """1,000 tasks a round, and the master of their queue killed 10 times."""
    rounds, each = scaled(10), 1000
    async with (
        open_cluster(node_timeout=2.0) as cluster,
        connect(cluster.url) as redis,
        open_workers(cluster.url, tmp_path) as workers,
    ):
        broker, ids = RedisBroker(redis), list[str]()
        for _ in range(rounds):
            entries = [task("sleep", b"0.2", retention=86_400) for _ in range(each)]
            ids += await put(broker, *entries)
            # A second of replication is what a producer gets with WAIT 1.
            await trio.sleep(1.0)
            master, *_ = await broker.find_nodes(QUEUE)
            (victim,) = [
                member
                for member in cluster.members
                if str(member.port) == master.address.rpartition(":")[2]
            ]
            await victim.kill()
            # More than what was running: the new master has given tasks.
            ends = count(workers.log, "end").total() + SERVERS * CONCURRENCY
            await until_true(partial(has_ended, workers.log, ends))
            await victim.start()
            await cluster.wait_ready()
        completed = await wait_completed(broker, len(ids), within=120)
        missing = [
            task_id
            for task_id in ids
            if (info := await broker.read_task(QUEUE, task_id)) is None
            or info.state is not TaskState.COMPLETED
        ]
        say(f"{completed} of {len(ids)} completed, {rounds} fail-overs")
        assert missing == []


def has_ended(log: Path, ends: int) -> bool:
    return count(log, "end").total() > ends
