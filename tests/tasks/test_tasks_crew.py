"""The hands of a server: attempts that share a task and a cancel scope know nothing of it.

And what they tell of attempts that fail.
"""

import contextvars
import logging
from collections.abc import Callable

import pytest
import trio

from terzetto.tasks import RevokeTask, Router, TaskContext, TaskMessage, TaskState
from terzetto.tasks._broker_values import CancelRequest
from terzetto.tasks._crew import CrewActor
from tests.tasks.conftest import AnyBroker
from tests.tasks.serving import put, reaches, serving, task, until_true

# Context variables ------------------------------------------------------------------


async def test_each_attempt_has_context_variables_of_its_own(place: AnyBroker) -> None:
    router, seen = Router(), list[str]()
    variable = contextvars.ContextVar("variable", default="fresh")

    @router.task("x")
    async def work(payload: bytes) -> None:
        seen.append(variable.get())
        variable.set("used")
        await trio.lowlevel.checkpoint()

    await put(place, *(task() for _ in range(10)))
    async with serving(place, router, concurrency=1):
        await until_true(lambda: len(seen) == 10)
    assert seen == ["fresh"] * 10


class Incomparable:
    """A value that ends the program if somebody compares it."""

    def __eq__(self, other: object) -> bool:
        raise SystemExit("compared")

    __hash__ = None  # type: ignore[assignment] # what cannot be compared cannot be hashed


@pytest.mark.parametrize("make", [object, Incomparable, list])  # of lists, one equals the other
async def test_attempts_that_wait_for_nothing_have_context_variables_of_their_own(
    place: AnyBroker, make: Callable[[], object]
) -> None:
    """They run one right after the other in one task."""
    router, seen, fresh = Router(), list[object](), make()
    variable = contextvars.ContextVar[object]("variable")
    variable.set(fresh)

    @router.task("x")
    async def work(payload: bytes) -> None:
        seen.append(variable.get())
        variable.set(make())

    await put(place, *(task() for _ in range(40)))
    async with serving(place, router, concurrency=10):
        await until_true(lambda: len(seen) == 40)
    assert all(each is fresh for each in seen)


# Scopes that are shared ---------------------------------------------------------------


async def test_attempts_that_share_a_scope_have_deadlines_of_their_own(place: AnyBroker) -> None:
    """Those that wait for nothing run one right after the other in one cancel scope."""
    router, timeouts = Router(), (100, 50, 50, 200, 100)
    left = list[tuple[float, float]]()

    @router.task("x")
    async def work(payload: bytes, ctx: TaskContext) -> None:
        scope_has = trio.current_effective_deadline() - trio.current_time()
        left.append((scope_has, ctx.deadline_at - place.now()))

    await put(place, *(task(timeout=seconds) for seconds in timeouts))
    async with serving(place, router, concurrency=10):
        await until_true(lambda: len(left) == len(timeouts))
    for (scope_has, attempt_has), timeout in zip(left, timeouts, strict=True):
        assert scope_has == pytest.approx(attempt_has, abs=0.005)
        assert timeout - 1 < attempt_has <= timeout


async def test_attempts_that_share_a_scope_end_a_millisecond_too_early_at_most(
    place: AnyBroker,
) -> None:
    router, early = Router(), list[float]()

    @router.task("x")
    async def compute(payload: bytes, ctx: TaskContext) -> None:
        # A stall between the two makes the scope look later, and never earlier.
        scope_has = trio.current_effective_deadline() - trio.current_time()
        early.append(ctx.deadline_at - place.now() - scope_has)
        end = trio.current_time() + 0.003  # so much later is the next one's deadline
        while trio.current_time() < end:
            pass

    await put(place, *(task(timeout=50) for _ in range(10)))
    async with serving(place, router, concurrency=10):
        await until_true(lambda: len(early) == 10)
    assert max(early) < 0.0015  # clocks may be set right by a little meanwhile


@pytest.mark.parametrize("seconds", [1, 100])
async def test_what_ends_one_of_them_ends_no_other(place: AnyBroker, seconds: int) -> None:
    router, waits = Router(), trio.Event()

    @router.task("quick")
    async def quick(payload: bytes) -> None: ...

    @router.task("hang")
    async def hang(payload: bytes) -> None:
        waits.set()
        await trio.sleep_forever()

    before = [task("quick", retention=60, timeout=1) for _ in range(4)]
    after = [task("quick", retention=60) for _ in range(5)]
    *quick_ones, hung = await put(place, *before, *after, task("hang", timeout=seconds))
    async with serving(place, router, concurrency=10) as server:
        await waits.wait()
        if seconds > 1:
            await place.send_cancel(CancelRequest(task_id=hung))
        for task_id in quick_ones:
            await reaches(place, task_id, TaskState.COMPLETED)
        ended = await reaches(place, hung, TaskState.RETRY)
        assert server.statistics().retried == 1
    assert ended is not None
    assert ended.message.error == f"context {'canceled' if seconds > 1 else 'deadline exceeded'}"


async def test_a_scope_that_was_cancelled_is_not_the_next_ones(place: AnyBroker) -> None:
    """Its hand goes on at the very moment at which another task waits for one."""
    router, following, begun = Router(), list[str](), list[bytes]()

    @router.task("stubborn")
    async def stubborn(payload: bytes, ctx: TaskContext) -> None:
        crew = server.core and server.core.crew
        assert isinstance(crew, CrewActor)
        (attempt,) = (one for one in crew.core.running.values() if one.lease.message.id == ctx.id)
        with trio.CancelScope(shield=True):
            await place.send_cancel(CancelRequest(task_id=ctx.id))
            await until_true(lambda: attempt.reason)
            following.extend(await put(place, task("x", retention=60)))
            while crew.core.busy == 1 and len(begun) < len(following):
                await trio.lowlevel.checkpoint()

    @router.task("x")
    async def work(payload: bytes) -> None:
        begun.append(payload)
        await trio.lowlevel.checkpoint()

    async with serving(place, router, concurrency=2) as server:
        for _ in range(20):  # which of the two hands takes it is trio's choice
            (stubborn_one,) = await put(place, task("stubborn", retention=60))
            await reaches(place, stubborn_one, TaskState.COMPLETED)
            await reaches(place, following[-1], TaskState.COMPLETED)
        assert server.statistics().retried == 0


# What is told of failures ------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what was logged of tasks that did not end well."""
    return [record for record in caplog.records if "a task " in record.getMessage()]


async def test_each_failure_of_a_task_is_one_warning_with_its_traceback(
    place: AnyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the last one only, after up to 25 retries."""
    router = Router()
    errors = [ValueError("no 0"), ValueError("no 1"), ValueError("no 2")]

    @router.task("x")
    async def work(payload: bytes, ctx: TaskContext) -> None:
        raise errors[ctx.retried]

    caplog.set_level(logging.INFO, "terzetto.tasks")
    (task_id,) = await put(place, task(max_retry=2))
    async with serving(place, router, retry_delay=at_once):
        await reaches(place, task_id, TaskState.ARCHIVED)
    records = told(caplog)
    assert [record.levelno for record in records] == [logging.WARNING] * 3
    texts = ["a task failed ", "a task failed ", "a task failed for good "]
    for record, error, text in zip(records, errors, texts, strict=True):
        assert record.getMessage().startswith(text)
        assert f"'ValueError: {error}'" in record.getMessage()
        assert task_id in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[1] is error
        assert record.exc_info[2] is not None


def never(error: BaseException) -> bool:
    return False


def at_once(retried: int, error: BaseException, message: TaskMessage) -> float:
    return 0.0


async def test_an_error_that_is_no_failure_is_no_warning(
    place: AnyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """As the application says; it may come again and again."""
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> None:
        raise BlockingIOError("busy")

    @router.task("revoked")
    async def revoked(payload: bytes) -> None:
        raise RevokeTask("not wanted any more")

    caplog.set_level(logging.INFO, "terzetto.tasks")
    busy, gone = await put(place, task(), task("revoked"))
    async with serving(place, router, is_failure=never):
        await reaches(place, busy, TaskState.RETRY)
        await reaches(place, gone, None)
    (record,) = told(caplog)
    assert record.levelno == logging.INFO
    assert "BlockingIOError: busy" in record.getMessage()
    assert record.exc_info is None
