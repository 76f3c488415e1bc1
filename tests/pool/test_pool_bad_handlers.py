"""Handlers that raise, hang, and ignore being cancelled: a bad job never takes a worker down."""

import functools
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis


async def eventually(ask: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(20):
        while not await ask():  # noqa: ASYNC110 - what is asked for is in Redis
            await trio.sleep(0.01)


@attrs.define
class Hanging:
    """Its stop hangs for the keys that it is told."""

    hangs: set[str] = attrs.field(factory=set[str])
    stopped: list[str] = attrs.field(factory=list[str])

    async def start(self, _: pool.Job) -> None:
        await trio.lowlevel.checkpoint()

    async def stop(self, key: str) -> None:
        if key in self.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.stopped.append(key)


async def test_a_stop_that_hangs_is_given_up_and_leaves_the_job(redis: Redis) -> None:
    handler = Hanging({"bad"})
    async with pool.open_node("p", redis) as node:
        worker = await node.add_worker(handler, grace=0.1)
        for key in ("bad", "good"):
            await node.dispatch(key)
            await node.stop_job(key)

        async def is_stopped() -> bool:
            # The worker hears a little later than Redis that the job is gone.
            return await node.job_payload("good") is None and worker.jobs == ["bad"]

        await eventually(is_stopped)
        assert handler.stopped == ["good"]
        handler.hangs.clear()
        await node.stop_job("bad")

        async def is_over() -> bool:
            return await node.job_payload("bad") is None

        await eventually(is_over)
        await node.dispatch("bad")


async def test_a_node_closes_although_handlers_hang(redis: Redis) -> None:
    handler = Hanging({"bad"})
    async with pool.open_node("p", redis, client_only=True) as client:
        async with pool.open_node("p", redis) as node:
            await node.add_worker(handler, grace=0.1)
            await node.dispatch("bad", b"payload")
            await node.dispatch("good")
        assert handler.stopped == ["good"]
        assert await client.job_payload("bad") == b"payload"
        with pytest.raises(pool.JobExistsError):
            await client.dispatch("bad")


async def test_a_function_that_ignores_its_cancelling_is_given_up_after_its_grace(
    redis: Redis,
) -> None:
    go = trio.Event()

    async def stubborn(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        with trio.CancelScope(shield=True):
            await go.wait()

    async with pool.open_node("p", redis) as node:
        worker = await node.add_worker(stubborn, grace=0.1)
        await node.dispatch("a")
        with node.watch():
            await node.stop_job("a")
            await node.notify("a", b"")
            await node.dispatch("b")
        assert sorted(worker.jobs) == ["a", "b"]
        go.set()
        for key in ("a", "b"):
            await node.stop_job(key)

        async def is_over() -> bool:
            return not await node.job_keys()

        await eventually(is_over)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ValueError("\udcff lone \ud800"),
        ValueError(""),
        trio.TooSlowError(),
        StopIteration("odd"),
    ],
    ids=repr,
)
async def test_whatever_a_start_raises_reaches_the_dispatcher(
    redis: Redis, error: Exception
) -> None:
    @attrs.define
    class Raising:
        async def start(self, _: pool.Job) -> None:
            await trio.lowlevel.checkpoint()
            raise error

        async def stop(self, _: str) -> None:
            await trio.lowlevel.checkpoint()

    async def function(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    async with pool.open_node("p", redis) as node:
        for handler in (Raising(), function):
            worker = await node.add_worker(handler)
            with pytest.raises(pool.JobStartError) as caught:
                await node.dispatch("a")
            name = "RuntimeError" if isinstance(error, StopIteration) else type(error).__name__
            assert caught.value.type_name == name
            assert node.pool_workers == [worker.id]
            await worker.close()


async def test_a_handler_may_dispatch_stop_and_ask_while_it_starts(redis: Redis) -> None:
    async with pool.open_node("p", redis) as node:

        async def parent(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
            if job.key == "parent":
                await node.dispatch("child")
                assert "child" in await node.job_keys()
                await node.stop_job("child")
            task_status.started()
            await trio.sleep_forever()

        await node.add_worker(parent)
        with trio.fail_after(20):
            await node.dispatch("parent")
        await eventually(lambda: only(node, "parent"))


async def only(node: pool.Node, key: str) -> bool:
    return await node.job_keys() == [key]


async def test_a_job_that_stops_itself_ends_once(redis: Redis) -> None:
    async with pool.open_node("p", redis) as node:

        async def suicidal(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await node.stop_job(job.key)
            await trio.sleep_forever()

        await node.add_worker(suicidal)
        for _ in range(3):
            await node.dispatch("a")

            async def is_over() -> bool:
                return await node.job_payload("a") is None

            await eventually(is_over)


class _SyncStop(Hanging):
    def stop(self, key: str) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - that is the test
        self.stopped.append(key)


def _sync(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()


@pytest.mark.parametrize("handler", [None, 3, "text", object(), Hanging, _SyncStop(), _sync, print])
async def test_what_is_no_handler_is_refused(redis: Redis, handler: object) -> None:
    async with pool.open_node("p", redis) as node:
        with pytest.raises(InvalidOptionError):
            await node.add_worker(handler)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
        assert node.pool_workers == []
        assert node.workers == []


@attrs.define
class Called:
    async def __call__(self, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()


async def _with_more(extra: str, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()


@functools.wraps(_with_more)
def _wrapper(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> Awaitable[None]:
    return _with_more("", job, task_status=task_status)


HANDLERS: list[pool.Handler] = [Called(), functools.partial(_with_more, "extra"), _wrapper]


@pytest.mark.parametrize("handler", HANDLERS)
async def test_odd_functions_are_handlers(redis: Redis, handler: pool.Handler) -> None:
    async with pool.open_node("p", redis) as node:
        await node.add_worker(handler)
        await node.dispatch("a")


@pytest.mark.parametrize(
    "options",
    [
        {"grace": float("nan")},
        {"grace": "1"},
        {"backoff": -1},
        {"backoff": 1e10},
        {"max_restarts": 1.5},
        {"max_restarts": None},
        {"max_restarts": -1},
    ],
)
async def test_bad_policies_are_refused(redis: Redis, options: dict[str, float]) -> None:
    async with pool.open_node("p", redis) as node:
        with pytest.raises(InvalidOptionError, match=next(iter(options))):
            await node.add_worker(Hanging(), **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
        assert node.pool_workers == []


@pytest.mark.parametrize(
    "options",
    [
        {"worker_ttl": 0},
        {"worker_ttl": float("nan")},
        {"ack_grace_period": -1},
        {"worker_shutdown_ttl": float("inf")},
        {"job_sink_block_duration": 0},
        {"max_queued_jobs": -1},
        {"max_queued_jobs": 1.5},
        {"max_queued_jobs": True},
        {"worker_ttl": "30"},
        {"ack_grace_period": None},
        {"ack_grace_period": 1e10},
        {"client_only": "no"},
        {"client_only": 1},
    ],
)
async def test_bad_options_are_refused_before_redis_is_touched(
    redis: Redis, options: dict[str, float]
) -> None:
    with pytest.raises(InvalidOptionError):
        pool.child("p", redis, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test


@pytest.mark.parametrize("size", [0, -1, 1.5, "10", None, True])
async def test_bad_buffers_of_watches_are_refused(redis: Redis, size: int) -> None:
    async with pool.open_node("p", redis, client_only=True) as node:
        with pytest.raises(InvalidOptionError, match="buffer_size"), node.watch(buffer_size=size):
            pass


async def test_a_function_that_says_twice_that_it_has_started_runs_once(redis: Redis) -> None:
    runs: list[str] = []

    async def eager(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        runs.append(job.key)
        task_status.started()
        task_status.started()
        await trio.sleep_forever()

    async with pool.open_node("p", redis) as node:
        worker = await node.add_worker(eager)
        await node.dispatch("a")
        await node.dispatch("b")
        assert sorted(worker.jobs) == sorted(runs) == ["a", "b"]
        await node.stop_job("a")
        with trio.fail_after(20):
            while worker.jobs != ["b"]:  # noqa: ASYNC110 - a state of several tasks
                await trio.sleep(0.01)


@pytest.mark.parametrize("closes", [True, False])
async def test_a_job_that_closed_its_notifications_and_crashed_has_those_that_follow(
    redis: Redis, *, closes: bool
) -> None:
    runs: list[list[bytes]] = []

    async def follow(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        runs.append([])
        task_status.started()
        try:
            async for note in job.notifications:
                runs[-1].append(note)
                if note == b"bad":
                    raise ValueError(note)
        finally:
            if closes:
                job.notifications.close()

    async with pool.open_node("p", redis) as node:
        worker = await node.add_worker(follow, backoff=0.01)
        await node.dispatch("a")
        for note in (b"1", b"bad", b"2", b"bad", b"3"):
            await node.notify("a", note)
        with trio.fail_after(20):
            while runs[-1:] != [[b"3"]]:  # noqa: ASYNC110 - a state of several tasks
                await trio.sleep(0.01)
        assert runs == [[b"1", b"bad"], [b"2", b"bad"], [b"3"]]
        assert worker.jobs == ["a"]
        assert await node.dead_letters() == []


async def test_a_job_that_closes_its_notifications_gets_none_and_holds_up_nobody(
    redis: Redis,
) -> None:
    async def deaf(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        job.notifications.close()
        task_status.started()
        await trio.sleep_forever()

    async with pool.open_node("p", redis) as node:
        worker = await node.add_worker(deaf)
        await node.dispatch("a")
        for _ in range(3):
            await node.notify("a", b"note")
        await node.stop_job("a")
        with trio.fail_after(20):
            while worker.jobs:  # noqa: ASYNC110 - a state of several tasks
                await trio.sleep(0.01)
