"""A server and its tasks: how they are run, how they end, and what is written of them."""

import logging

import pytest
import trio
import trio.lowlevel

from terzetto.errors import InvalidOptionError
from terzetto.tasks import (
    LeaseLostError,
    RevokeTask,
    Router,
    ServerStateError,
    SkipRetry,
    TaskContext,
    TaskMessage,
    TaskState,
    open_server,
)
from terzetto.tasks._broker_values import CancelRequest
from tests.tasks.conftest import AnyBroker
from tests.tasks.serving import put, reaches, serving, task, until, until_true


async def test_tasks_run_once_each_as_many_at_once_as_there_are_slots(place: AnyBroker) -> None:
    router, ran, now, most = Router(), list[bytes](), 0, 0

    @router.task("x")
    async def work(payload: bytes) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.sleep(0.001)
        now -= 1
        ran.append(payload)

    await put(place, *(task(payload=b"%d" % n) for n in range(300)))
    async with serving(place, router, concurrency=7) as server:
        await until_true(lambda: len(ran) == 300)
        await server.shutdown()
        assert server.status == "closed"
    assert most == 7
    assert sorted(ran, key=int) == [b"%d" % n for n in range(300)]
    (info,) = await place.read_queues(["default"])
    assert info is not None
    assert info.processed == 300
    assert server.statistics().succeeded == 300


async def test_one_slot_takes_tasks_in_their_order(place: AnyBroker) -> None:
    router, ran = Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)
        await trio.lowlevel.checkpoint()

    await put(place, *(task(payload=b"%d" % n) for n in range(50)))
    async with serving(place, router, concurrency=1):
        await until_true(lambda: len(ran) == 50)
    assert ran == [b"%d" % n for n in range(50)]


async def test_an_idle_server_hears_of_a_task_without_polling(place: AnyBroker) -> None:
    router, ran = Router(), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.set()

    async with serving(place, router, poll_interval=3600.0):
        await until(lambda: _is_idle(place))
        await put(place, task())
        await ran.wait()


async def _is_idle(place: AnyBroker) -> bool:
    return any(state.info.status == "active" for state in await place.list_servers())


async def test_a_strict_server_empties_the_first_queue_first(place: AnyBroker) -> None:
    router, ran = Router(), list[str]()

    @router.task("x")
    async def work(payload: bytes, ctx: TaskContext) -> None:
        ran.append(ctx.queue)

    await put(place, *(task(queue=queue) for queue in ("low", "high") for _ in range(20)))
    async with serving(place, router, queues={"low": 1, "high": 2}, strict=True, concurrency=1):
        await until_true(lambda: len(ran) == 40)
    assert ran == ["high"] * 20 + ["low"] * 20


FAILURES: dict[str, BaseException] = {
    "error": ValueError("no"),
    "skip": SkipRetry("no use"),
    "revoke": RevokeTask("gone"),
    "group": BaseExceptionGroup("two", [ValueError("a"), SystemExit(3)]),
    "exit": SystemExit(3),
    "generator": GeneratorExit(),
    "surrogate": ValueError("\ud800"),
}


@pytest.mark.parametrize(
    ("kind", "state", "text"),
    [
        ("error", TaskState.RETRY, "ValueError: no"),
        ("skip", TaskState.ARCHIVED, "SkipRetry: no use"),
        ("revoke", None, ""),
        ("group", TaskState.RETRY, "BaseExceptionGroup: two (ValueError: a; SystemExit: 3)"),
        ("exit", TaskState.RETRY, "SystemExit: 3"),
        ("generator", TaskState.RETRY, "GeneratorExit"),
        ("surrogate", TaskState.RETRY, "ValueError: ?"),
        ("cancelled", TaskState.RETRY, "Cancelled"),
        ("hang", TaskState.RETRY, "context deadline exceeded"),
        ("unknown", TaskState.RETRY, "'unknown'"),
        ("fine", None, ""),
    ],
)
async def test_whatever_a_function_raises_decides_about_its_task_only(
    place: AnyBroker,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    state: TaskState | None,
    text: str,
) -> None:
    caplog.set_level(logging.CRITICAL, "terzetto.tasks")  # pytest cannot hand on a surrogate
    router, told = Router(), list[BaseException]()

    @router.task("fail:")
    async def fail(payload: bytes, ctx: TaskContext) -> None:
        raise FAILURES[ctx.type.removeprefix("fail:")]

    @router.task("cancelled")
    async def stray(payload: bytes) -> None:
        caught: BaseException | None = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep(1)
            except trio.Cancelled as cancelled:
                caught = cancelled
        assert caught is not None
        raise caught

    @router.task("hang")
    async def hang(payload: bytes) -> None:
        await trio.sleep_forever()

    @router.task("fine")
    async def fine(payload: bytes) -> None: ...

    async def note(ctx: TaskContext, error: BaseException) -> None:
        told.append(error)
        raise KeyError("a hook that fails itself")

    kind = f"fail:{kind}" if kind in FAILURES else kind
    (task_id,) = await put(place, task(kind, timeout=1, retention=60 if state else 0))
    async with serving(place, router, error_handler=note):
        info = await reaches(place, task_id, state)
        (fine_id,) = await put(place, task("fine"))
        await reaches(place, fine_id, None)
    assert len(told) == (kind != "fine")
    if info is not None:
        assert text in info.message.error
        assert info.message.retried == (1 if state is TaskState.RETRY else 0)


def soon(retried: int, error: BaseException, message: TaskMessage) -> float:
    return 0.01 * retried


def is_failure(error: BaseException) -> bool:
    return not isinstance(error, BlockingIOError)


async def test_retries_count_up_with_their_delay_until_the_task_is_archived(
    place: AnyBroker,
) -> None:
    router, seen = Router(), list[tuple[int, int]]()

    @router.task("x")
    async def fail(payload: bytes, ctx: TaskContext) -> None:
        seen.append((ctx.retried, ctx.max_retry))
        raise ValueError(str(ctx.retried))

    (task_id,) = await put(place, task(max_retry=2))
    async with serving(place, router, retry_delay=soon):
        info = await reaches(place, task_id, TaskState.ARCHIVED)
    assert info is not None
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert info.message.error == "ValueError: 2"
    (figures,) = await place.read_queues(["default"])
    assert figures is not None
    assert (figures.processed, figures.failed) == (3, 3)


async def test_an_error_that_is_no_failure_uses_up_no_retry(place: AnyBroker) -> None:
    router, seen = Router(), list[int]()

    @router.task("x")
    async def fail(payload: bytes, ctx: TaskContext) -> None:
        seen.append(ctx.retried)
        if len(seen) < 4:
            raise BlockingIOError("later")

    (task_id,) = await put(place, task(max_retry=1))
    async with serving(
        place,
        router,
        retry_delay=soon,
        is_failure=is_failure,
    ):
        await reaches(place, task_id, None)
    assert seen == [0, 0, 0, 0]
    (figures,) = await place.read_queues(["default"])
    assert figures is not None
    assert (figures.processed, figures.failed) == (1, 0)


async def test_results_are_kept_with_completed_tasks(place: AnyBroker) -> None:
    router = Router()

    @router.task("returned")
    async def give(payload: bytes) -> bytes:
        return b"given"

    @router.task("written")
    async def write(payload: bytes, ctx: TaskContext) -> None:
        await ctx.write_result(b"first")
        await ctx.write_result(b"second")

    ids = await put(place, task("returned", retention=60), task("written", retention=60))
    async with serving(place, router):
        infos = [await reaches(place, task_id, TaskState.COMPLETED) for task_id in ids]
    assert [info and info.result for info in infos] == [b"given", b"second"]


async def test_a_result_cannot_be_written_once_the_attempt_is_over(place: AnyBroker) -> None:
    router, kept = Router(), list[TaskContext]()

    @router.task("x")
    async def keep(payload: bytes, ctx: TaskContext) -> None:
        kept.append(ctx)

    (task_id,) = await put(place, task(retention=60))
    async with serving(place, router):
        await reaches(place, task_id, TaskState.COMPLETED)
        with pytest.raises(Exception, match="lease expired"):
            await kept[0].write_result(b"late")


async def test_a_running_task_can_be_cancelled_and_is_tried_again(place: AnyBroker) -> None:
    router, running, ended = Router(), trio.Event(), list[str]()

    @router.task("x")
    async def hang(payload: bytes, ctx: TaskContext) -> None:
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.append(ctx.queue)

    (task_id,) = await put(place, task(id="same"))
    await put(place, task(id="same", queue="other"))
    async with serving(place, router, queues={"default": 1, "other": 1}) as server:
        await until_true(lambda: server.statistics().running == 2)
        await place.send_cancel(CancelRequest(task_id="nobody"))
        await place.send_cancel(CancelRequest(task_id=task_id, queue="other", drop=True))
        dropped = await reaches(place, "same", TaskState.ARCHIVED, queue="other")
        assert ended == ["other"]
        await place.send_cancel(CancelRequest(task_id=task_id))
        info = await reaches(place, task_id, TaskState.RETRY)
    assert info is not None
    assert dropped is not None
    assert info.message.error == dropped.message.error == "context canceled"
    assert info.message.retried == 1


async def test_a_paused_queue_gives_nothing_until_it_goes_on(place: AnyBroker) -> None:
    router, ran = Router(), list[str]()

    @router.task("x")
    async def work(payload: bytes, ctx: TaskContext) -> None:
        ran.append(ctx.queue)

    await put(place, task(queue="still"), task())
    await place.pause("still")
    async with serving(place, router, queues={"default": 1, "still": 5}):
        await until_true(lambda: ran)
        await put(place, task(queue="still"), task())
        await until_true(lambda: len(ran) == 2)
        assert ran == ["default"] * 2
        await place.resume("still")
        await until_true(lambda: len(ran) == 4)


async def test_a_function_that_waits_holds_up_none_that_was_taken_with_it(place: AnyBroker) -> None:
    router, running, finish = Router(), list[bytes](), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        running.append(payload)
        if payload == b"waits":
            await finish.wait()

    kinds = [b"waits" if number % 3 else b"does not" for number in range(64)]
    await put(place, *(task(payload=kind) for kind in kinds))
    async with serving(place, router, concurrency=64):
        await until_true(lambda: len(running) == 64)
        assert running == kinds  # in their order
        finish.set()


async def test_closing_lets_tasks_finish_and_hands_back_those_that_do_not(
    place: AnyBroker,
) -> None:
    router, running, finish = Router(), list[str](), trio.Event()

    @router.task("short")
    async def short(payload: bytes) -> None:
        running.append("short")
        await finish.wait()

    @router.task("long")
    async def long(payload: bytes) -> None:
        running.append("long")
        await trio.sleep_forever()

    short_id, long_id = await put(place, task("short", retention=60), task("long", retried=3))
    async with (
        open_server(place, concurrency=2, shutdown_timeout=2.0) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        await until_true(lambda: len(running) == 2)
        await put(place, task("long", id="later"))
        nursery.start_soon(server.close)
        await until_true(lambda: server.status == "stopped")
        finish.set()
    assert server.is_closed
    await reaches(place, short_id, TaskState.COMPLETED)
    first, second = await place.list_tasks("default", TaskState.PENDING, first=0, count=5)
    assert (first.id, second.id) == (long_id, "later")  # next to be taken
    assert first.message.retried == 3
    assert await place.list_servers() == []


async def test_shutdown_waits_for_what_runs_and_fetches_no_more(place: AnyBroker) -> None:
    router, running, finish = Router(), trio.Event(), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        running.set()
        await finish.wait()

    first, second = await put(place, task(retention=60), task())
    async with serving(place, router, concurrency=1, shutdown_timeout=0.0) as server:
        await running.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.shutdown)
            await until_true(lambda: server.status == "stopped")
            await trio.sleep(0.3)  # the span in which close would have handed it back
            assert not server.is_closed
            finish.set()
    assert await reaches(place, first, TaskState.COMPLETED)
    assert await reaches(place, second, TaskState.PENDING)


async def test_cancelling_the_block_hands_back_within_its_time(place: AnyBroker) -> None:
    router, running = Router(), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        running.set()
        await trio.sleep_forever()

    (task_id,) = await put(place, task())
    with trio.CancelScope() as scope:
        async with (
            open_server(place, shutdown_timeout=0.1) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(server.run, router)
            await running.wait()
            scope.cancel()
    assert await reaches(place, task_id, TaskState.PENDING)


async def test_a_server_runs_once(place: AnyBroker) -> None:
    router = Router()
    async with open_server(place) as server:
        with pytest.raises(InvalidOptionError, match="no function"):
            await server.run(router)
        assert server.status == "new"

        @router.task("x")
        async def work(payload: bytes) -> None: ...

        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run, router)
            await until_true(lambda: server.status == "active")
            with pytest.raises(ServerStateError):
                await server.run(router)
            await server.close()
    with pytest.raises(ServerStateError):
        await server.run(router)
    await server.close()
    await server.shutdown()
    assert "closed" in repr(server)


async def test_what_a_server_is_running_can_be_seen(place: AnyBroker) -> None:
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> None:
        await trio.sleep_forever()

    await put(place, task(payload=b"p", timeout=100))

    async def is_shown() -> bool:
        return any(state.workers for state in await place.list_servers())

    async with serving(
        place, router, queues={"default": 3, "low": 1}, concurrency=4, shutdown_timeout=0.0
    ) as server:
        await until(is_shown)
        (shown,) = await place.list_servers()
    info, (worker,) = shown.info, shown.workers
    assert (info.server_id, info.concurrency, info.status) == (server.id, 4, "active")
    assert (dict(info.queues), info.strict_priority) == ({"default": 3, "low": 1}, False)
    assert (worker.task_type, worker.payload, worker.queue) == ("x", b"p", "default")
    assert abs(worker.deadline - worker.started_at - 100) < 0.01


async def test_health_is_told(place: AnyBroker) -> None:
    router, told = Router(), list[BaseException | None]()

    @router.task("x")
    async def work(payload: bytes) -> None: ...

    async def hear(error: BaseException | None) -> None:
        told.append(error)
        raise ValueError("a hook that fails itself")

    async with serving(place, router, health_check=hear, health_interval=0.3):
        await until_true(lambda: len(told) >= 3)
    assert set(told) == {None}


async def test_a_function_whose_lease_was_lost_is_cancelled_and_nothing_is_written(
    place: AnyBroker,
) -> None:
    router, running, told = Router(), trio.Event(), list[BaseException]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        running.set()
        await trio.sleep_forever()

    async def note(ctx: TaskContext, error: BaseException) -> None:
        told.append(error)

    (task_id,) = await put(place, task(retried=1))
    async with serving(place, router, error_handler=note, lease=60.0) as server:
        await running.wait()
        (stolen,) = await place.take_expired("default", grace=-120.0)  # before its time
        await until_true(lambda: told)
        await until_true(lambda: server.statistics().unwritten == 0)
        info = await place.read_task("default", task_id)
    assert isinstance(told[0], LeaseLostError)
    assert server.statistics().lost == 1
    assert info is not None
    assert (info.state, info.message) == (TaskState.ACTIVE, stolen.message)
    assert await place.complete(stolen)
