"""Servers that die, sleep, or lose Redis: no task is lost, none completed twice in the record."""

from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.tasks import Router, TaskContext, TaskState
from terzetto.tasks._broker_values import Enqueue
from terzetto.tasks._redis_broker import RedisBroker
from terzetto.testing import Program, open_program, open_proxy
from tests.tasks.serving import put, reaches, serving, task, until_true

PROGRAM = Path(__file__).with_name("task_program.py")
STEPS = ("dequeued", "started", "finished", "written")


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def count(log: Path, event: str) -> Counter[str]:
    return Counter(line[2] for line in lines(log) if line[1] == event)


def is_ready(log: Path, name: str) -> bool:
    return [name, "ready", "-"] in lines(log)


def sleep(seconds: float, queue: str = "default") -> Enqueue:
    return task("sleep", str(seconds).encode(), retention=600, queue=queue)


def program(
    url: str, log: Path, name: str, *, queue: str = "default", where: str = ""
) -> AbstractAsyncContextManager[Program]:
    return open_program(PROGRAM, url, name, queue, log, where)


async def test_a_server_may_die_at_any_step(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    broker, log = RedisBroker(redis), tmp_path / "log"
    ids = {step: (await put(broker, sleep(0.01, queue=step)))[0] for step in STEPS}
    async with AsyncExitStack() as stack:
        victims = [
            await stack.enter_async_context(program(server.url, log, step, queue=step, where=step))
            for step in STEPS
        ]
        for victim in victims:
            assert await victim.wait() == -9
        router = Router()

        @router.task("sleep")
        async def again(payload: bytes, ctx: TaskContext) -> bytes:
            return b"again"

        async with serving(broker, router, queues=dict.fromkeys(STEPS, 1)):
            for step, task_id in ids.items():
                info = await reaches(broker, task_id, TaskState.COMPLETED, queue=step)
                assert info is not None
                assert info.result == (b"written" if step == "written" else b"again")
                # One that died is counted as a failed attempt, and told.
                assert info.message.retried == (step != "written")
                text = "" if step == "written" else "asynq: task lease expired"
                assert info.message.error == text
    for figures in await broker.read_queues(STEPS):
        assert figures is not None
        assert figures.processed - figures.failed == 1  # completed once in the record
        assert (figures.active, figures.retry, figures.pending) == (0, 0, 0)


async def test_what_a_killed_server_held_is_run_by_another(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    broker, log = RedisBroker(redis), tmp_path / "log"
    ids = await put(broker, *(sleep(0.05) for _ in range(40)))
    async with program(server.url, log, "victim", where="held") as victim:
        assert await victim.wait() == -9
    active = await broker.list_tasks("default", TaskState.ACTIVE, first=0, count=100)
    held = {one.id for one in active} - set(count(log, "start"))
    assert held
    async with program(server.url, log, "other"):
        for task_id in ids:
            await reaches(broker, task_id, TaskState.COMPLETED)
    assert {count(log, "start")[task_id] for task_id in held} == {1}
    assert set(count(log, "end")) == set(ids)


async def test_a_server_that_slept_too_long_cannot_write_over_anothers_outcome(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    broker, log = RedisBroker(redis), tmp_path / "log"
    (task_id,) = await put(broker, sleep(1.5))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(program(server.url, log, "first"))
        await until_true(lambda: count(log, "start"))
        first.pause()
        await stack.enter_async_context(program(server.url, log, "second"))
        info = await reaches(broker, task_id, TaskState.COMPLETED)
        first.resume()
        first.terminate()
        assert await first.wait() == 0
        after = await broker.read_task("default", task_id)
    assert info == after
    assert info is not None
    assert info.result == b"second"
    assert ["first", "closed", "1"] in lines(log)  # it lost one, and wrote nothing
    (figures,) = await broker.read_queues(["default"])
    assert figures is not None
    assert (figures.processed, figures.failed) == (2, 1)


async def test_nothing_is_lost_while_servers_come_and_go(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    broker, log = RedisBroker(redis), tmp_path / "log"
    ids = await put(broker, *(sleep(0.02) for _ in range(200)))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(program(server.url, log, "last"))
        for number in range(3):
            name = f"victim-{number}"
            victim = await stack.enter_async_context(program(server.url, log, name))
            await until_true(partial(is_ready, log, name))
            ids += await put(broker, *(sleep(0.01) for _ in range(20)))
            await victim.kill()
        leaver = await stack.enter_async_context(program(server.url, log, "leaver"))
        await until_true(partial(is_ready, log, "leaver"))
        leaver.terminate()
        assert await leaver.wait() == 0
        for task_id in ids:
            await reaches(broker, task_id, TaskState.COMPLETED)
    (figures,) = await broker.read_queues(["default"])
    assert figures is not None
    assert figures.completed == 260
    assert figures.processed - figures.failed == 260


@pytest.mark.parametrize("fault", ["killed", "cut", "hung"])
async def test_while_redis_is_away_tasks_go_on_and_are_written_afterwards(
    server: EmbeddedServer, fault: str
) -> None:
    """Redis is away for longer than a lease lasts; with one server, and with two."""
    router, running, finish = Router(), list[str](), trio.Event()

    @router.task("x")
    async def work(payload: bytes, ctx: TaskContext) -> bytes:
        running.append(ctx.id)
        await finish.wait()
        return b"once"

    async with open_proxy(server.url) as proxy, connect(server.url) as direct:
        broker = RedisBroker(direct)
        ids = await put(broker, *(task(retention=600) for _ in range(6)))
        async with (
            connect(proxy.url) as one,
            connect(proxy.url) as two,
            serving(RedisBroker(one), router, concurrency=3, lease=4.0) as first,
            serving(RedisBroker(two), router, concurrency=3, lease=4.0) as second,
        ):
            await until_true(lambda: len(running) == 6)
            if fault == "killed":
                await server.kill()
            elif fault == "cut":
                await proxy.refuse()
                proxy.cut()
            else:
                proxy.hold()
            await trio.sleep(2.0)
            finish.set()
            await trio.sleep(2.5)  # a lease lasts 4 s
            if fault == "killed":
                await server.start()
            elif fault == "cut":
                await proxy.accept()
            else:
                proxy.release()
            (later,) = await put(broker, task(retention=600))
            for task_id in (*ids, later):
                info = await reaches(broker, task_id, TaskState.COMPLETED)
                assert info is not None
                assert info.message.retried == 0
            assert not first.is_closed
            assert not second.is_closed
    assert sorted(running) == sorted([*ids, later])  # none ran twice


async def test_servers_open_and_close_while_redis_is_away(server: EmbeddedServer) -> None:
    router, running = Router(), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        running.set()
        await trio.sleep_forever()

    async with open_proxy(server.url) as proxy, connect(server.url) as direct:
        broker = RedisBroker(direct)
        (task_id,) = await put(broker, task())
        async with connect(proxy.url) as redis:
            async with serving(RedisBroker(redis), router, shutdown_timeout=0.2):
                await running.wait()
                await proxy.refuse()
                proxy.cut()
            # It could not hand its task back; the next one finds it orphaned.
            info = await broker.read_task("default", task_id)
            assert info is not None
            assert info.state is TaskState.ACTIVE
            running = trio.Event()
            async with serving(RedisBroker(redis), router, shutdown_timeout=0.2) as late:
                await until_true(lambda: late.status == "active")
                await proxy.accept()
                await running.wait()
        await reaches(broker, task_id, TaskState.PENDING)
