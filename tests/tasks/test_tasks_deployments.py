"""One application on every kind of deployment: producers, a server, schedulers, an inspector.

The steps below it have a contract of their own; this is all of it at work, with the
queues in different slots of a cluster.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from terzetto.redis import Redis, connect
from terzetto.tasks import (
    Client,
    ConcurrencyLimit,
    DuplicateTaskError,
    Grouping,
    Inspector,
    Periodic,
    Router,
    Task,
    TaskContext,
    TaskFailedError,
    TaskMessage,
    TaskState,
    open_scheduler,
    open_server,
)
from terzetto.tasks.testing import MemoryBroker
from tests.tasks.serving import QUICK, until, until_true

QUEUES = {"notifications": 3, "webhooks": 2, "images": 1}  # of a cluster, on a master each


@asynccontextmanager
async def open_place(deployment: str) -> AsyncGenerator[Redis | MemoryBroker]:
    """Return what clients and servers are opened with, empty."""
    if deployment == "memory":
        yield MemoryBroker()
        return
    async with connect(deployment) as redis:
        await redis.execute("FLUSHALL")
        yield redis


class Application:
    """Functions that note what they were given."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.router = Router()
        for pattern, function in (
            ("echo", self.echo),
            ("once", self.once),
            ("fail", self.fail),
            ("hang", self.hang),
            ("limited", self.limited),
        ):
            self.router.handle(pattern, function)

    async def echo(self, payload: bytes, ctx: TaskContext) -> bytes:
        self.ran.append((ctx.queue, payload.decode()))
        return payload.upper()

    async def once(self, payload: bytes, ctx: TaskContext) -> bytes:
        if not ctx.retried:
            raise ValueError("the first time")
        return await self.echo(payload, ctx)

    async def fail(self, payload: bytes) -> None:
        raise ValueError("as told")

    async def hang(self, payload: bytes, ctx: TaskContext) -> None:
        self.ran.append((ctx.queue, "hangs"))
        await trio.sleep_forever()

    async def limited(self, payload: bytes) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await trio.sleep(0.01)
        self.at_once -= 1

    async def aggregate(self, group: str, tasks: Sequence[TaskMessage]) -> Task:
        # Those that joined in one second have no order.
        return Task("echo", group.encode() + b"".join(sorted(each.payload for each in tasks)))


async def test_an_application_works_on_every_deployment(deployment: str) -> None:
    app = Application()
    async with open_place(deployment) as place, AsyncExitStack() as stack:
        client, inspector = Client(place), Inspector(place)
        server = await stack.enter_async_context(
            open_server(
                place,
                retry_delay=at_once,
                queues=QUEUES,
                grouping=Grouping(aggregate=app.aggregate, max_size=2, grace=1.0),
                limits=[ConcurrencyLimit(name="limited", count=2, pattern="limited")],
                **QUICK,
            )
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(server.run, app.router)

        # Work, its results, its failures.
        handles = [
            await client.enqueue(Task("echo", queue.encode()), queue=queue, retention=60)
            for queue in QUEUES
        ]
        assert [await handle.result() for handle in handles] == [
            queue.upper().encode() for queue in QUEUES
        ]
        again = await client.enqueue(Task("once", b"again"), queue="webhooks", retention=60)
        assert await again.result() == b"AGAIN"
        failing = await client.enqueue(Task("fail", max_retry=1), queue="images")
        with pytest.raises(TaskFailedError, match="as told"):
            await failing.result()

        # Later, unique, limited, in groups.
        later = await client.enqueue(Task("echo", b"later"), queue="images", process_in=0.2)
        assert later.state is TaskState.SCHEDULED
        unique = Task("hang", b"u", queue="notifications", unique=60)
        hanging = await client.enqueue(unique)
        with pytest.raises(DuplicateTaskError):
            await client.enqueue(unique)
        some = await client.enqueue_many(
            [Task("limited", queue=queue) for queue in QUEUES for _ in range(4)]
        )
        assert len(some) == 12
        await client.enqueue_many(
            [Task("part", part, queue="webhooks", group="g") for part in (b"1", b"2")]
        )
        await until_true(lambda: {("images", "later"), ("webhooks", "g12")} <= set(app.ran))

        # What can be seen and steered.
        await until_true(lambda: ("notifications", "hangs") in app.ran)
        await hanging.cancel(drop=True)
        with pytest.raises(TaskFailedError, match="context canceled"):
            await hanging.result()
        await until(lambda: is_done(inspector, "limited"))
        assert app.most_at_once <= 2
        assert await inspector.list_queues() == sorted(QUEUES)
        (seen,) = await inspector.list_servers()
        assert dict(seen.info.queues) == QUEUES
        counted = await inspector.queue_info("images")
        assert (counted.completed, counted.archived) == (1, 1)
        await inspector.pause_queue("images")
        waiting = await client.enqueue(Task("echo", b"paused"), queue="images", retention=60)
        await inspector.resume_queue("images")
        assert await waiting.result() == b"PAUSED"

        # Schedulers; that they enqueue a tick once is in the contract.
        entry = Periodic("@every 1s", Task("echo", b"tick"), queue="notifications")
        for _ in range(2):
            await stack.enter_async_context(open_scheduler(place, entries=[entry]))
        await until_true(lambda: ("notifications", "tick") in app.ran)
        await until(lambda: are_shown(inspector, 2))
        nursery.cancel_scope.cancel()


def at_once(_retried: int, _error: BaseException, _task: TaskMessage) -> float:
    return 0.0


async def are_shown(inspector: Inspector, count: int) -> bool:
    """Tell whether so many schedulers are seen, each with the one entry."""
    entries = await inspector.list_scheduler_entries()
    return [entry.spec for entry in entries] == ["@every 1s"] * count


async def is_done(inspector: Inspector, kind: str) -> bool:
    """Tell whether no queue has a task of this type any more."""
    for queue in QUEUES:
        for state in (TaskState.PENDING, TaskState.ACTIVE, TaskState.RETRY, TaskState.SCHEDULED):
            if any(info.message.type == kind for info in await inspector.list_tasks(queue, state)):
                return False
    return True
