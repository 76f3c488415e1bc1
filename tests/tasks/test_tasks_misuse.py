"""What is of the wrong type is refused where it is given, by an error that names it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from terzetto.errors import InvalidOptionError
from terzetto.tasks import (
    Client,
    ConcurrencyLimit,
    Grouping,
    Inspector,
    Periodic,
    RateLimit,
    Router,
    Task,
    TaskMessage,
    TaskState,
    open_scheduler,
    open_server,
    server_child,
)
from terzetto.tasks.testing import MemoryBroker


@pytest.fixture
def memory() -> MemoryBroker:
    return MemoryBroker()


async def aggregate(group: str, tasks: Sequence[TaskMessage]) -> Task:
    pytest.fail("it was called")


async def work(payload: bytes) -> None: ...


def not_async(*arguments: object) -> None:
    pytest.fail("it was called")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("queues", ["a", "b"]),
        ("queues", "low"),
        ("strict", "x"),
        ("strict", 1),
        ("retry_delay", 3),
        ("retry_delay", work),
        ("is_failure", True),
        ("is_failure", work),
        ("error_handler", 3),
        ("error_handler", not_async),
        ("health_check", "ping"),
        ("health_check", not_async),
        ("grouping", 3),
        ("grouping", aggregate),
        ("limits", 3),
        ("limits", [3]),
        ("limits", "mail"),
        ("limits", RateLimit(name="mail", count=1)),
    ],
)
def test_a_server_is_not_opened_with_an_option_of_another_type(
    memory: MemoryBroker, option: str, value: object
) -> None:
    wrong: dict[str, Any] = {option: value}
    router = Router()
    router.handle("x", work)
    with pytest.raises(InvalidOptionError, match=f"^{option} is .*: give "):
        open_server(memory, **wrong)
    with pytest.raises(InvalidOptionError, match=f"^{option} is .*: give "):
        server_child(memory, router, **wrong)


async def test_a_server_takes_the_limits_of_any_iterable_and_keeps_them(
    memory: MemoryBroker,
) -> None:
    """Also of a generator, which can be gone through once, and a list that grows later."""
    given = [RateLimit(name="mail", count=1), ConcurrencyLimit(name="disk", count=1)]
    limits: Any = (each for each in given)
    async with open_server(memory, limits=limits) as server:
        assert server.options.limits == tuple(given)


@pytest.mark.parametrize("router", [None, "x", work, Router])
async def test_a_server_does_not_run_without_a_router(
    memory: MemoryBroker,
    router: Any,  # noqa: ANN401 - what an untyped caller may give
) -> None:
    async with open_server(memory) as server:
        with pytest.raises(InvalidOptionError, match="give a Router"):
            await server.run(router)
        assert server.status == "new"
    with pytest.raises(InvalidOptionError, match="give a Router"):
        server_child(memory, router)


@pytest.mark.parametrize("function", [3, not_async, partial(not_async, 1)])
def test_tasks_of_groups_are_made_one_by_an_async_function_only(function: object) -> None:
    wrong: Any = function
    with pytest.raises(InvalidOptionError, match=r"aggregate is .*: give an async function"):
        Grouping(aggregate=wrong)


@pytest.mark.parametrize("option", ["provider", "before_enqueue", "after_enqueue"])
@pytest.mark.parametrize("function", [3, not_async])
def test_a_scheduler_is_not_opened_with_a_hook_that_is_not_async(
    memory: MemoryBroker, option: str, function: object
) -> None:
    wrong: dict[str, Any] = {option: function, "entries": [Periodic("@daily", Task("x"))]}
    with pytest.raises(InvalidOptionError, match=f"^{option} is .*: give an async function$"):
        open_scheduler(memory, **wrong)


class NotAClient:
    """Such as redis-py's, which has no such thing."""


@pytest.mark.parametrize("redis", ["redis://:secret@127.0.0.1:6379", None, NotAClient()])
@pytest.mark.parametrize("make", [Client, Inspector, open_server, open_scheduler])
def test_what_is_no_client_is_refused_and_no_password_told(
    make: Callable[[Any], object], redis: object
) -> None:
    with pytest.raises(InvalidOptionError, match="give a client of terzetto") as caught:
        make(redis)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("task", ["email:send", None, b"x", 3])
async def test_what_is_no_task_is_not_enqueued(memory: MemoryBroker, task: Any) -> None:  # noqa: ANN401 - as above
    client = Client(memory)
    with pytest.raises(InvalidOptionError, match="is no Task: give Task"):
        await client.enqueue(task)
    with pytest.raises(InvalidOptionError, match="is no Task: give Task"):
        await client.enqueue_many([Task("x"), task], queue="low")
    assert await Inspector(memory).list_queues() == []


@pytest.mark.parametrize("state", ["pending", "PENDING", None, 3])
async def test_a_state_of_tasks_is_a_task_state(memory: MemoryBroker, state: Any) -> None:  # noqa: ANN401 - as above
    await Client(memory).enqueue(Task("x"))
    inspector = Inspector(memory)
    for act in (
        inspector.list_tasks,
        inspector.run_all,
        inspector.archive_all,
        inspector.delete_all,
    ):
        with pytest.raises(InvalidOptionError, match=r"state is .*: give a TaskState"):
            await act("default", state)
    assert len(await inspector.list_tasks("default", TaskState.PENDING)) == 1
