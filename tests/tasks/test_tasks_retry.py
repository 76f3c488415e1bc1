"""What becomes of a task after an attempt: asynq's decisions, and its default delay."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terzetto.tasks import RevokeTask, SkipRetry, TaskCancelledError, TaskTimeoutError
from terzetto.tasks._attempt import attempt_deadline
from terzetto.tasks._message import TaskMessage
from terzetto.tasks._retry import (
    Fate,
    LeaseLostError,
    RetryPolicy,
    default_retry_delay,
    error_text,
    says,
)
from terzetto.tasks._task import DEFAULT_TIMEOUT


def task(*, retried: int = 0, max_retry: int = 25, retention: int = 0) -> TaskMessage:
    return TaskMessage(
        type="x", id="1", queue="q", retried=retried, max_retry=max_retry, retention=retention
    )


@given(st.integers(0, 30))
@settings(max_examples=60)
def test_the_default_delay_is_asynqs(retried: int) -> None:
    delay = default_retry_delay(retried, ValueError(), task())
    rest = delay - retried**4 - 15
    assert rest % (retried + 1) == 0
    assert 0 <= rest // (retried + 1) < 30


def test_the_default_delay_spreads_over_its_whole_range() -> None:
    first = {default_retry_delay(0, ValueError(), task()) for _ in range(2000)}
    assert first == {float(15 + extra) for extra in range(30)}


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "skip", "revoke"),
    [
        (ValueError(), False, False),
        (SkipRetry("no use"), True, False),
        (RevokeTask("gone"), False, True),
        (caused(ValueError(), SkipRetry()), True, False),
        (caused(OSError(), caused(ValueError(), RevokeTask())), False, True),
        (ExceptionGroup("g", [ValueError(), SkipRetry()]), True, False),
        (ExceptionGroup("g", [ValueError(), RevokeTask()]), False, False),
        (ExceptionGroup("g", [RevokeTask(), ExceptionGroup("h", [RevokeTask()])]), False, True),
        (BaseExceptionGroup("g", [KeyError(), SystemExit()]), False, False),
    ],
)
def test_what_an_error_says(error: BaseException, *, skip: bool, revoke: bool) -> None:
    assert says(error, SkipRetry) == skip
    assert says(error, RevokeTask) == revoke


def test_an_error_that_is_its_own_cause_is_judged_too() -> None:
    error = ValueError()
    error.__cause__ = caused(KeyError(), error)
    assert not says(error, SkipRetry)


def no(error: BaseException) -> bool:
    return False


def yes(error: BaseException) -> bool:
    return True


@pytest.mark.parametrize(
    ("error", "of", "is_failure", "fate", "counts"),
    [
        (None, task(), yes, Fate.DONE, True),
        (None, task(retention=60), yes, Fate.COMPLETE, True),
        (RevokeTask(), task(retention=60), yes, Fate.DONE, True),
        (RevokeTask(), task(retried=25), yes, Fate.DONE, True),
        (SkipRetry(), task(), no, Fate.ARCHIVE, True),
        (ValueError(), task(retried=25), no, Fate.ARCHIVE, True),
        (ValueError(), task(max_retry=0), yes, Fate.ARCHIVE, True),
        (ValueError(), task(retried=24), yes, Fate.RETRY, True),
        (ValueError(), task(retried=24), no, Fate.RETRY, False),
        (TaskTimeoutError(), task(), yes, Fate.RETRY, True),
        (TaskCancelledError(), task(), yes, Fate.RETRY, True),
    ],
)
def test_the_decision_table(
    *,
    error: BaseException | None,
    of: TaskMessage,
    is_failure: Callable[[BaseException], bool],
    fate: Fate,
    counts: bool,
) -> None:
    policy = RetryPolicy(delay=lambda n, _error, _task: 7.0 + n, is_failure=is_failure)
    verdict = policy.judge(of, error)
    assert verdict.fate is fate
    assert verdict.is_failure == counts
    if fate is Fate.RETRY:
        assert verdict.delay == 7.0 + of.retried
        assert verdict.complaint == ""


@pytest.mark.parametrize("delay", [-1.0, math.nan, math.inf, "soon", None, ValueError("own")])
def test_a_delay_that_is_none_is_replaced_and_told(delay: object) -> None:
    def broken(n: int, error: BaseException, of: TaskMessage) -> float:
        if isinstance(delay, Exception):
            raise delay
        return delay  # type: ignore[return-value] # pyright: ignore[reportReturnType] - that is the case

    def is_failure(error: BaseException) -> bool:
        raise LookupError("mine")

    verdict = RetryPolicy(delay=broken, is_failure=is_failure).judge(task(), ValueError("x"))
    assert verdict.fate is Fate.RETRY
    assert 15 <= verdict.delay < 45
    assert verdict.is_failure
    assert "LookupError: mine" in verdict.complaint
    assert "retry_delay" in verdict.complaint
    assert verdict.text == "ValueError: x"


def test_what_ends_attempts_from_outside_has_asynqs_texts() -> None:
    assert error_text(TaskTimeoutError()) == "context deadline exceeded"
    assert error_text(TaskCancelledError()) == "context canceled"
    assert error_text(LeaseLostError()) == "asynq: task lease expired"
    assert len(error_text(ValueError("x" * 10**6))) == 4000


@given(st.integers(0, 10**12), st.integers(0, 2**62), st.floats(0, 4e9))
@settings(max_examples=100)
def test_an_attempt_ends_at_the_earlier_of_timeout_and_deadline(
    timeout: int, deadline: int, now: float
) -> None:
    message = TaskMessage(type="x", id="1", queue="q", timeout=timeout, deadline=deadline)
    until = attempt_deadline(message, now)
    if timeout:
        assert until <= now + timeout
    if deadline:
        assert until <= deadline
    if not timeout and not deadline:
        assert until == now + DEFAULT_TIMEOUT
    assert until in (now + timeout, float(deadline), now + DEFAULT_TIMEOUT, 253_402_300_799.0)
