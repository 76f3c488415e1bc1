"""One node, one worker: both forms of handler, refusals, notifications, the ends of jobs."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.errors import ClosedError, InvalidNameError, InvalidOptionError
from terzetto.redis import Redis


@attrs.define
class Recorder:
    """A handler that notes what it is told."""

    stopped: list[str] = attrs.field(factory=list[str])
    notes: list[tuple[str, bytes]] = attrs.field(factory=list[tuple[str, bytes]])
    live: dict[str, bytes] = attrs.field(factory=dict[str, bytes])

    async def start(self, job: pool.Job) -> None:
        if job.payload == b"refuse":
            raise ValueError("no such user")
        self.live[job.key] = job.payload

    async def stop(self, key: str) -> None:
        if self.live[key] == b"stubborn":
            raise RuntimeError("not now")
        self.stopped.append(key)
        del self.live[key]

    async def notify(self, key: str, payload: bytes) -> None:
        self.notes.append((key, payload))


async def eventually(ask: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(20):
        while not await ask():  # noqa: ASYNC110 - what is asked for is in Redis
            await trio.sleep(0.01)


async def gone(node: pool.Node, key: str) -> None:
    async def is_gone() -> bool:
        return await node.job_payload(key) is None and key not in await node.job_keys()

    await eventually(is_gone)


async def test_a_job_runs_is_notified_and_is_stopped(redis: Redis) -> None:
    handler = Recorder()
    async with pool.open_node("p", redis, worker_ttl=1, ack_grace_period=1) as node:
        worker = await node.add_worker(handler)
        assert node.pool_workers == [worker.id]
        await node.dispatch("a", b"payload")
        assert handler.live == {"a": b"payload"}
        assert worker.jobs == ["a"]
        assert await node.job_keys() == ["a"]
        assert await node.job_payload("a") == b"payload"
        await node.notify("a", b"hello")
        await node.stop_job("a")
        await gone(node, "a")
        assert handler.notes == [("a", b"hello")]
        assert handler.stopped == ["a"]
    assert node.is_closed
    with pytest.raises(ClosedError):
        await node.dispatch("b")


async def test_a_start_that_fails_tells_the_dispatcher_and_frees_the_key(redis: Redis) -> None:
    handler = Recorder()
    async with pool.open_node("p", redis) as node:
        await node.add_worker(handler)
        with pytest.raises(pool.JobStartError) as caught:
            await node.dispatch("a", b"refuse")
        assert caught.value.type_name == "ValueError"
        assert caught.value.text == "no such user"
        assert await node.job_payload("a") is None
        await node.dispatch("a", b"fine")
        assert handler.live == {"a": b"fine"}


async def test_a_key_that_runs_is_refused(redis: Redis) -> None:
    async with pool.open_node("p", redis) as node:
        await node.add_worker(Recorder())
        await node.dispatch("a")
        with pytest.raises(pool.JobExistsError, match="running"):
            await node.dispatch("a")


async def test_a_key_that_is_being_started_is_refused(redis: Redis) -> None:
    go = trio.Event()
    starting = trio.Event()

    async def slow(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        starting.set()
        await go.wait()
        task_status.started()
        await trio.sleep_forever()

    async with pool.open_node("p", redis) as node:
        await node.add_worker(slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.dispatch, "a")
            await starting.wait()
            with pytest.raises(pool.JobExistsError):
                await node.dispatch("a")
            go.set()


async def test_a_stop_that_fails_leaves_the_job(redis: Redis) -> None:
    handler = Recorder()
    async with pool.open_node("p", redis) as node:
        await node.add_worker(handler)
        await node.dispatch("a", b"stubborn")
        await node.stop_job("a")
        await node.notify("a", b"still there?")
        await eventually(lambda: seen(handler))
        assert await node.job_keys() == ["a"]
        handler.live["a"] = b""


async def seen(handler: Recorder) -> bool:
    await trio.lowlevel.checkpoint()
    return bool(handler.notes)


async def test_a_function_runs_as_a_task_until_it_is_stopped(redis: Redis) -> None:
    heard: list[bytes] = []
    ended = trio.Event()

    async def serve(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            async for note in job.notifications:
                heard.append(note)  # noqa: PERF401 - it is looked at meanwhile
        finally:
            ended.set()

    async with pool.open_node("p", redis) as node:
        worker = await node.add_worker(serve)
        await node.dispatch("a")
        for note in (b"1", b"2", b""):
            await node.notify("a", note)
        await node.stop_job("a")
        await gone(node, "a")
        assert ended.is_set()
        assert heard == [b"1", b"2", b""]
        assert worker.jobs == []


async def test_a_job_ends_when_its_function_returns(redis: Redis) -> None:
    async def brief(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        if job.payload == b"say":
            task_status.started()
        await trio.lowlevel.checkpoint()

    async with pool.open_node("p", redis) as node:
        await node.add_worker(brief)
        for payload in (b"say", b"say nothing"):
            await node.dispatch("a", payload)
            await gone(node, "a")


async def test_a_function_that_raises_before_it_started_refuses_the_job(redis: Redis) -> None:
    async def refuse(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError(job.key)

    async with pool.open_node("p", redis) as node:
        await node.add_worker(refuse)
        with pytest.raises(pool.JobStartError, match="KeyError"):
            await node.dispatch("a")
        assert await node.job_keys() == []


async def test_a_crash_restarts_the_function_until_the_cap(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[str] = []

    async def crash(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        runs.append(job.key)
        raise ValueError("again")

    async with pool.open_node("p", redis) as node:
        await node.add_worker(crash, max_restarts=2, backoff=0.01)
        with node.watch() as watch:
            await node.dispatch("a")
            await gone(node, "a")
            events = [await watch.next() for _ in range(5)]
        assert runs == ["a"] * 3
        told = [(event.kind, event.text) for event in events if event.kind != "job_started"]
        assert told == [
            ("job_restarted", "ValueError: again"),
            ("job_restarted", "ValueError: again"),
            ("job_crashed", "ValueError: again"),
            ("dead_letter", "ValueError: again"),
        ]
    crashes = [record for record in caplog.records if "ValueError: again" in record.message]
    traced = [record.exc_info for record in crashes if record.exc_info is not None]
    assert [info[0] for info in traced] == [ValueError] * 3
    assert all(info[2] is not None for info in traced)


async def test_a_group_that_refuses_a_job_is_told_with_its_members(redis: Redis) -> None:
    async def refuse(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        raise ExceptionGroup("both", [ValueError(job.key), KeyError()])

    async with pool.open_node("p", redis) as node:
        await node.add_worker(refuse)
        with pytest.raises(pool.JobStartError) as refused:
            await node.dispatch("a")
    assert refused.value.type_name == "ExceptionGroup"
    assert refused.value.text == "both (ValueError: a; KeyError)"


@pytest.mark.parametrize("key", ["", "a=b", "\udcff", "k" * 70_000])
async def test_bad_keys_are_refused_before_redis_is_touched(redis: Redis, key: str) -> None:
    async with pool.open_node("p", redis) as node:

        async def nothing_is_asked() -> bool:
            before = await what_ran(redis)
            for call in (node.dispatch(key), node.stop_job(key), node.notify(key, b"")):
                with pytest.raises(InvalidNameError):
                    await call
            return await what_ran(redis) == before

        # The node has something of its own to ask now and then, but not all the time.
        await eventually(nothing_is_asked)


async def test_what_is_no_payload_is_refused_before_redis_is_touched(redis: Redis) -> None:
    text: Any = "no bytes"
    async with pool.open_node("p", redis) as node:

        async def nothing_is_asked() -> bool:
            before = await what_ran(redis)
            for call in (node.dispatch("a", text), node.notify("a", text)):
                with pytest.raises(TypeError):
                    await call
            return await what_ran(redis) == before

        await eventually(nothing_is_asked)  # see above


async def what_ran(redis: Redis) -> list[bytes]:
    """Return how often each command ran on the server, but for this one."""
    stats: bytes = await redis.execute("INFO", "commandstats")
    return [line for line in stats.split() if not line.startswith(b"cmdstat_info:")]


@pytest.mark.parametrize(
    ("key", "payload"),
    [
        ("a,b:c{d}", b"\0\xff=,:{}"),
        ("\0", b""),
        ("ключ / 鍵\n", b"x" * 10_000_000),
        ('"quoted\\"', b"\r\n"),
    ],
)
async def test_odd_keys_and_payloads_come_through_unchanged(
    redis: Redis, key: str, payload: bytes
) -> None:
    handler = Recorder()
    async with pool.open_node("p", redis) as node:
        await node.add_worker(handler)
        await node.dispatch(key, payload)
        assert handler.live == {key: payload}
        assert await node.job_keys() == [key]
        assert await node.job_payload(key) == payload
        with pytest.raises(pool.JobExistsError):
            await node.dispatch(key)
        await node.stop_job(key)
        await gone(node, key)


async def test_a_client_only_node_dispatches_and_runs_nothing(redis: Redis) -> None:
    handler = Recorder()
    async with (
        pool.open_node("p", redis, client_only=True) as client,
        pool.open_node("p", redis) as node,
    ):
        await node.add_worker(handler)
        await client.dispatch("a", b"1")
        assert handler.live == {"a": b"1"}
        with trio.fail_after(20):
            while client.pool_workers != node.pool_workers:  # noqa: ASYNC110 - a copy that follows
                await trio.sleep(0.01)
        assert len(client.pool_workers) == 1
        async with pool.open_node("p", redis, client_only=True) as late:
            assert late.pool_workers == node.pool_workers
        with pytest.raises(pool.JobStartError):
            await client.dispatch("b", b"refuse")
        await client.stop_job("a")
        await gone(client, "a")
        with pytest.raises(InvalidOptionError):
            await client.add_worker(handler)
        with pytest.raises(InvalidOptionError):
            await client.shutdown()


async def test_what_a_client_dispatches_before_the_first_node_waits_for_it(redis: Redis) -> None:
    handler = Recorder()
    async with (
        pool.open_node("p", redis, client_only=True) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.dispatch, "a")

        async def is_sent() -> bool:
            return bool(await redis.execute("EXISTS", "pulse:stream:p:pool"))

        await eventually(is_sent)
        async with pool.open_node("p", redis) as node:
            await node.add_worker(handler)
            await eventually(lambda: has(handler, "a"))


async def has(handler: Recorder, key: str) -> bool:
    await trio.lowlevel.checkpoint()
    return key in handler.live


async def test_a_pool_at_its_limit_refuses_and_loses_nothing(redis: Redis) -> None:
    handler = Recorder()
    async with pool.open_node("p", redis, max_queued_jobs=5) as node:
        full: list[str] = []

        async def dispatch(key: str) -> None:
            try:
                await node.dispatch(key)
            except pool.PoolFullError:
                full.append(key)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(dispatch, str(number))
            with trio.fail_after(20):
                while len(full) < 7:  # noqa: ASYNC110 - a state, not an event
                    await trio.sleep(0.01)
            assert handler.live == {}
            await node.add_worker(handler)
        assert len(full) == 7
        assert len(handler.live) == 5
        assert set(full) | set(handler.live) == {str(number) for number in range(12)}


async def test_many_jobs_keep_below_the_limit_of_a_pool_if_few_are_under_way(redis: Redis) -> None:
    handler = Recorder()
    async with (
        pool.open_node("p", redis, max_queued_jobs=5) as node,
        trio.open_nursery() as nursery,
    ):
        jobs = [(str(number), b"") for number in range(40)]
        outcomes: dict[str, object] = {}

        async def dispatch() -> None:
            outcomes.update(await node.dispatch_many(jobs, at_a_time=5))

        nursery.start_soon(dispatch)

        async def are_sent() -> bool:
            return bool(await redis.execute("XLEN", "pulse:stream:p:pool") == 5)

        await eventually(are_sent)
        await node.add_worker(handler)
        nursery.cancel_scope.deadline = trio.current_time() + 20
    assert outcomes == dict.fromkeys((key for key, _ in jobs), None)


async def test_a_dispatch_that_nobody_answers_is_unknown(redis: Redis) -> None:
    async with pool.open_node("p", redis, ack_grace_period=0.2) as node:
        with pytest.raises(pool.DispatchUnknownError):
            await node.dispatch("a")
        with pytest.raises(pool.DispatchUnknownError):
            await node.dispatch("a")


async def test_a_dispatch_ends_when_its_node_closes(redis: Redis) -> None:
    async with pool.open_node("p", redis) as node, trio.open_nursery() as nursery:

        async def dispatch() -> None:
            with pytest.raises(pool.DispatchUnknownError, match="closed"):
                await node.dispatch("a")

        nursery.start_soon(dispatch)

        async def is_sent() -> bool:
            return bool(await redis.execute("XLEN", "pulse:stream:p:pool"))

        await eventually(is_sent)
        with trio.fail_after(20):
            await node.close()


async def test_many_jobs_are_dispatched_at_once(redis: Redis) -> None:
    handler = Recorder()
    async with pool.open_node("p", redis) as node:
        await node.add_worker(handler)
        await node.dispatch("3")
        jobs = [(str(number), b"refuse" if number == 5 else b"") for number in range(200)]
        outcomes = await node.dispatch_many(jobs)
        assert list(outcomes) == [key for key, _ in jobs]
        failed = {key: type(error) for key, error in outcomes.items() if error is not None}
        assert failed == {"3": pool.JobExistsError, "5": pool.JobStartError}
        assert len(handler.live) == 199
        with pytest.raises(InvalidNameError):
            await node.dispatch_many([("fine", b""), ("", b"")])
        assert "fine" not in handler.live


async def test_a_job_that_is_put_off_is_offered_again(redis: Redis) -> None:
    tries: list[str] = []

    async def later(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        tries.append(job.key)
        if len(tries) < 4:
            raise pool.JobRetryError
        task_status.started()
        await trio.sleep_forever()

    async with pool.open_node("p", redis) as node:
        await node.add_worker(later)
        await node.dispatch("a")
        assert tries == ["a"] * 4


async def test_a_job_that_reads_no_notifications_holds_up_nobody(redis: Redis) -> None:
    async def deaf(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    async with pool.open_node("p", redis, max_queued_jobs=0) as node:
        worker = await node.add_worker(deaf)
        await node.dispatch("a")
        async with trio.open_nursery() as nursery:
            for _ in range(1200):
                nursery.start_soon(node.notify, "a", b"x" * 100)
        await node.dispatch("b")
        await node.stop_job("a")
        await gone(node, "a")
        assert worker.jobs == ["b"]


async def test_a_node_that_crashes_comes_back_with_its_workers_and_jobs(redis: Redis) -> None:
    handler = Recorder()

    async def crash() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with pool.open_node("p", redis, worker_ttl=1, ack_grace_period=1) as node:
        worker = await node.add_worker(handler)
        before = worker.id
        await node.dispatch("a", b"payload")
        life = await node._seat.wait_up()  # pyright: ignore[reportPrivateUsage] - nothing outside makes a node crash
        life._ctx.start_soon(crash)  # pyright: ignore[reportPrivateUsage] - a fault from inside
        with trio.fail_after(20):
            while worker.id == before or worker.jobs != ["a"]:  # noqa: ASYNC110 - another task
                await trio.sleep(0.01)
        await node.dispatch("b")
        assert handler.live == {"a": b"payload", "b": b""}
        assert handler.stopped == ["a"]


async def test_a_cancelled_dispatch_frees_its_key(redis: Redis) -> None:
    handler = Recorder()
    async with pool.open_node("p", redis) as node:
        with trio.move_on_after(0.05):
            await node.dispatch("a")

        async def is_free() -> bool:
            return not await redis.execute("HEXISTS", "map:p:pending-jobs:content", "a")

        await eventually(is_free)
        await node.add_worker(handler)
        await eventually(lambda: has(handler, "a"))
