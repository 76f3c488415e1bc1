"""Helpers for tests of task servers: tasks, servers that run, and waiting for what must come."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import trio

from terzetto.tasks import Router, Server, TaskInfo, TaskMessage, TaskState, open_server
from terzetto.tasks._broker import Broker
from terzetto.tasks._broker_values import Enqueue
from tests.tasks.conftest import AnyBroker

QUICK: Final[dict[str, Any]] = {
    "heartbeat_interval": 0.3,
    "lease": 3.0,
    "recover_interval": 0.2,
    "forward_interval": 0.2,
    "janitor_interval": 0.2,
    "poll_interval": 0.2,
    "shutdown_timeout": 2.0,
}
"""Options for a server whose tests should not take the time that real ones do."""

_numbers = count(1)


def task(kind: str = "x", payload: bytes = b"", *, queue: str = "default", **more: Any) -> Enqueue:  # noqa: ANN401 - fields of TaskMessage
    """Return a task that can be enqueued; `process_at` is the entry's, the rest the message's."""
    process_at = more.pop("process_at", 0.0)
    unique_for = more.pop("unique_for", 0)
    fields: dict[str, Any] = {"max_retry": 25, "timeout": 1800, "id": f"task-{next(_numbers)}"}
    fields.update(more)
    message = TaskMessage(type=kind, payload=payload, queue=queue, **fields)
    return Enqueue(message=message, process_at=process_at, unique_for=unique_for)


async def put(broker: Broker, *entries: Enqueue) -> list[str]:
    """Enqueue tasks; return their ids."""
    await broker.enqueue(entries)
    return [entry.message.id for entry in entries]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds; the test's own time-out is the limit."""
    while True:
        if await condition():
            return
        await trio.sleep(0.01)


async def until_true(condition: Callable[[], object]) -> None:
    """Wait until something holds that needs no waiting to look at."""
    while True:
        if condition():
            return
        await trio.sleep(0.01)


async def reaches(
    broker: AnyBroker, task_id: str, state: TaskState | None, *, queue: str = "default"
) -> TaskInfo | None:
    """Wait until a task is in a state, None: until it is gone; return what is known of it."""
    while True:
        info = await broker.read_task(queue, task_id)
        if (None if info is None else info.state) is state:
            return info
        await trio.sleep(0.01)


@asynccontextmanager
async def serving(
    broker: Broker,
    router: Router,
    **options: Any,  # noqa: ANN401 - those of open_server
) -> AsyncGenerator[Server]:
    """Serve for the time of a block, quickly unless the options say otherwise."""
    async with (
        open_server(broker, **{**QUICK, **options}) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        yield server
        nursery.cancel_scope.cancel()
