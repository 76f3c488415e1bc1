"""Hooks of the user's that raise: what a server says of it, and does instead."""

from collections.abc import Sequence
from typing import NoReturn

import pytest

from terzetto.tasks import ConcurrencyLimit, Grouping, Router, Task, TaskMessage, TaskState
from tests.tasks.conftest import AnyBroker
from tests.tasks.serving import put, reaches, serving, task, until_true


def fail(*_: object) -> NoReturn:
    raise LookupError("of a hook")


async def fail_later(*_: object) -> NoReturn:
    fail()


async def aggregate(group: str, tasks: Sequence[TaskMessage]) -> Task:
    fail()


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """Return what was logged of an event, each with the error whose traceback stands there."""
    return [
        f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}"
        for record in caplog.records
        if record.name == "terzetto.tasks" and record.getMessage().startswith(event)
    ]


async def test_what_hooks_raise_is_logged_and_the_defaults_hold(
    place: AnyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> None:
        raise ValueError("of a function")

    task_id, _ = await put(place, task(), task("mail", group="ann"))
    before = place.now()
    async with serving(
        place,
        router,
        retry_delay=fail,
        is_failure=fail,
        error_handler=fail_later,
        health_check=fail_later,
        health_interval=0.3,
        limits=[ConcurrencyLimit(name="l", count=1, key=fail)],
        grouping=Grouping(aggregate=aggregate, max_size=1),
    ):
        failed = await reaches(place, task_id, TaskState.RETRY)
        events = ("the health check failed", "a group could not be aggregated")
        await until_true(lambda: all(said(caplog, event) for event in events))
    assert failed is not None
    assert (failed.message.retried, failed.message.error) == (1, "ValueError: of a function")
    assert failed.next_process_at is not None
    assert failed.next_process_at > before + 14  # asynq's delay; the clocks may differ a bit
    for event in ("the error handler failed", *events):
        assert "LookupError('of a hook')" in said(caplog, event)[0]
    (complaint,) = said(caplog, "a hook of the server's did not work")
    assert "is_failure raised LookupError: of a hook" in complaint
    assert "retry_delay raised LookupError: of a hook" in complaint
    (unlimited,) = said(caplog, "the key of a limit failed")
    assert "LookupError: of a hook" in unlimited
