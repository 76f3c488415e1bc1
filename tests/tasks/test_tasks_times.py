"""What takes its time, on a virtual clock and with the options that servers have by default."""

from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from terzetto.tasks import Router, Scheduler, Server, TaskContext, TaskState, open_scheduler
from terzetto.tasks import open_server as open_default_server
from terzetto.tasks.testing import MemoryBroker
from tests.tasks.serving import put, reaches, task, until_true


@pytest.fixture
async def broker(autojump_clock: MockClock) -> MemoryBroker:
    return MemoryBroker()


class Served:
    """A router that notes when its functions begin, and a server that serves it."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.starts: list[float] = []
        self.seconds = 0.0
        self.errors: list[Exception] = []
        self.router = Router()
        self.router.handle("x", self.work)

    async def work(self, payload: bytes, ctx: TaskContext) -> None:
        self.starts.append(self.broker.now())
        await trio.sleep(self.seconds)
        if self.errors:
            raise self.errors[0]


@pytest.fixture
async def served(broker: MemoryBroker) -> AsyncGenerator[Served]:
    served = Served(broker)
    async with open_default_server(broker) as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.run, served.router)
        yield served
        nursery.cancel_scope.cancel()


async def test_the_task_of_a_dead_server_runs_again_within_35_seconds(
    autojump_clock: MockClock, served: Served
) -> None:
    broker = served.broker
    await trio.sleep(60)
    await broker.pause("default")  # a server that is not ours takes it
    (task_id,) = await put(broker, task())
    await broker.resume("default")
    (lease,) = await broker.dequeue(["default"], 1)
    assert lease.message.id == task_id
    began = broker.now()
    await reaches(broker, task_id, None)
    assert 30 <= served.starts[0] - began <= 35


async def test_a_task_of_a_dead_server_whose_retries_are_used_up_is_archived(
    autojump_clock: MockClock, served: Served
) -> None:
    broker = served.broker
    await broker.pause("default")
    (task_id,) = await put(broker, task(max_retry=2, retried=2))
    await broker.resume("default")
    assert await broker.dequeue(["default"], 1)
    info = await reaches(broker, task_id, TaskState.ARCHIVED)
    assert info is not None
    assert info.message.error == "asynq: task lease expired"
    assert served.starts == []


async def test_a_task_may_take_longer_than_a_lease_lasts(
    autojump_clock: MockClock, served: Served
) -> None:
    served.seconds = 200.0
    (task_id,) = await put(served.broker, task(timeout=2000))
    async with open_default_server(served.broker) as other, trio.open_nursery() as nursery:
        nursery.start_soon(other.run, served.router)  # it would take the task over
        await trio.sleep(199)
        await reaches(served.broker, task_id, None)
        nursery.cancel_scope.cancel()
    assert len(served.starts) == 1


async def test_retries_come_after_asynqs_delays(autojump_clock: MockClock, served: Served) -> None:
    served.errors.append(ValueError("no"))
    (task_id,) = await put(served.broker, task(max_retry=3))
    await trio.sleep(15 + 16 + 31)
    while len(served.starts) < 4:  # noqa: ASYNC110 - filled by the function
        await trio.sleep(5)
    await reaches(served.broker, task_id, TaskState.ARCHIVED)
    gaps = [late - early for early, late in zip(served.starts, served.starts[1:], strict=False)]
    for retried, gap in enumerate(gaps):
        least = retried**4 + 15
        assert least <= gap <= least + 30 * (retried + 1) + 2


async def test_scheduled_tasks_start_when_they_are_due(
    autojump_clock: MockClock, served: Served
) -> None:
    at = served.broker.now() + 12.3
    (task_id,) = await put(served.broker, task(process_at=at))
    await reaches(served.broker, task_id, None)
    assert 0 <= served.starts[0] - at <= 1.1


async def test_completed_tasks_go_when_their_retention_is_over(
    autojump_clock: MockClock, served: Served
) -> None:
    (task_id,) = await put(served.broker, task(retention=100))
    await reaches(served.broker, task_id, TaskState.COMPLETED)
    began = served.broker.now()
    await trio.sleep(98)
    await reaches(served.broker, task_id, None)
    assert 99 <= served.broker.now() - began <= 110


# Cancelling --------------------------------------------------------------------------


def waits(server: Server, scheduler: Scheduler) -> dict[str, Callable[[], Awaitable[None]]]:
    return {
        "server.shutdown": server.shutdown,
        "server.close": server.close,
        "scheduler.run": scheduler.run,
    }


@pytest.mark.parametrize("name", ["server.shutdown", "server.close", "scheduler.run"])
async def test_a_wait_that_is_cancelled_ends_at_once(
    autojump_clock: MockClock, broker: MemoryBroker, name: str
) -> None:
    served = Served(broker)
    served.seconds = 3.0
    (task_id,) = await put(broker, task(retention=60))
    async with (
        open_default_server(broker) as server,
        open_scheduler(broker) as scheduler,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, served.router)
        await until_true(lambda: served.starts)
        with trio.move_on_after(0.5) as scope:
            await waits(server, scheduler)[name]()
        assert scope.cancelled_caught
        assert not scheduler.is_closed
        nursery.cancel_scope.cancel()
    # What ran has had its time all the same.
    assert await reaches(broker, task_id, TaskState.COMPLETED)


async def test_cancelling_run_takes_no_more_tasks_and_lets_the_others_finish(
    autojump_clock: MockClock, broker: MemoryBroker
) -> None:
    served = Served(broker)
    served.seconds = 3.0
    (first,) = await put(broker, task(retention=60))
    async with open_default_server(broker) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run, served.router)
            await until_true(lambda: served.starts)
            nursery.cancel_scope.cancel()
        assert server.status == "stopped"
        (second,) = await put(broker, task())
        await reaches(broker, first, TaskState.COMPLETED)
        await trio.sleep(60)
    assert await reaches(broker, second, TaskState.PENDING)
