"""What becomes of a task when its attempt is over: done, kept, tried again, or archived. Pure.

Theory of operation. An attempt ends without an error or with one. The table:

    no error, no retention        -> DONE: deleted, counted as processed
    no error, a retention         -> COMPLETE: kept for that long
    an error that is RevokeTask   -> DONE, whatever the retention
    SkipRetry, or retries used up -> ARCHIVE; `is_failure` is not asked
    another error, a failure      -> RETRY after a delay, one retry used up
    another error, no failure     -> RETRY after a delay, no retry used up, nothing counted

An error "is" one of the two if it is an instance, if one of its causes is (``raise
X from SkipRetry()``), or, for a group: SkipRetry if one member is, RevokeTask only
if all members are, so that a revocation hides no other error.

The two functions of the user's that are asked may themselves raise or answer
nonsense; then the default holds, and the verdict says so for the log.
"""

import enum
import math
import random
from collections.abc import Callable
from typing import Any, Final, cast

import attrs

from terzetto._shared._functions import is_async
from terzetto._shared._texts import describe_error
from terzetto.errors import InvalidOptionError
from terzetto.tasks._errors import TaskError
from terzetto.tasks._message import TaskMessage

_LONGEST_DELAY: Final = 10.0**9  # thirty years
_LONGEST_TEXT: Final = 4000  # characters of an error that are kept with the task
_DEEPEST: Final = 100  # causes of an error that are looked at


class SkipRetry(TaskError):  # noqa: N818 - what a task function says, as trio.Cancelled is
    """Raised by a task function: trying again is of no use, archive the task at once."""


class RevokeTask(TaskError):  # noqa: N818 - likewise
    """Raised by a task function: the task has no purpose any more, delete it."""


class UnknownTaskTypeError(TaskError, LookupError):
    """The router has nothing for a task's type; the task is retried like after any error."""


class AttemptError(TaskError):
    """An attempt was ended from outside; the root of those that say why.

    Error handlers get these; the texts are those that asynq's own servers write.
    """


class TaskTimeoutError(AttemptError):
    """The attempt ran, or would have begun, past the task's timeout or deadline."""

    def __str__(self) -> str:
        return "context deadline exceeded"


class TaskCancelledError(AttemptError):
    """Somebody asked for the running task to be cancelled."""

    def __str__(self) -> str:
        return "context canceled"


class LeaseLostError(AttemptError):
    """The worker lost its lease on the task: another may have it, so nothing is written."""

    def __str__(self) -> str:
        return "asynq: task lease expired"


class Fate(enum.Enum):
    """What is written for an attempt that is over."""

    DONE = "done"
    COMPLETE = "complete"
    RETRY = "retry"
    ARCHIVE = "archive"


RetryDelay = Callable[[int, BaseException, TaskMessage], float]
"""From the retries so far (0 at the first failure), the error and the task: seconds to wait."""

IsFailure = Callable[[BaseException], bool]
"""Whether an error uses up a retry and counts as failed; the task is tried again in any case."""


def default_retry_delay(retried: int, error: BaseException, task: TaskMessage) -> float:
    """Return the seconds that asynq waits by default: n to the 4th, and 15, and some chance.

    That is 15 to 44 s after the first failure, 16 to 74 s after the second, and
    about 20 days for the whole of the 25 retries.
    """
    del error, task
    n = min(retried, 1000)
    return float(n**4 + 15 + random.randrange(30) * (n + 1))  # noqa: S311 - to spread the load


def always_failure(error: BaseException) -> bool:
    """Return True: by default every error is a failure."""
    del error
    return True


@attrs.frozen(kw_only=True)
class Verdict:
    """What is to be written.

    Attributes:
        fate: which of the four.
        delay: seconds until a retry is due.
        is_failure: whether a retry is used up and the failure counted.
        text: the error's text.
        complaint: what the user's own function for delay or failure did wrong.
    """

    fate: Fate
    delay: float = 0.0
    is_failure: bool = True
    text: str = ""
    complaint: str = ""


_DONE: Final = Verdict(fate=Fate.DONE)
_COMPLETE: Final = Verdict(fate=Fate.COMPLETE)


def _plain_function(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    option = "retry_delay" if attribute.name == "delay" else attribute.name
    if not callable(value) or is_async(value):
        raise InvalidOptionError(f"{option} is {value!r:.200}: give a function, not an async one")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How a server judges attempts.

    Attributes:
        delay: how long to wait before the next attempt.
        is_failure: which errors use up retries.
    """

    delay: RetryDelay = attrs.field(default=default_retry_delay, validator=_plain_function)
    is_failure: IsFailure = attrs.field(default=always_failure, validator=_plain_function)

    def judge(self, task: TaskMessage, error: BaseException | None) -> Verdict:
        """Return what becomes of `task` after an attempt that ended with `error`, or well."""
        if error is None:
            return _COMPLETE if task.retention > 0 else _DONE
        if says(error, RevokeTask):
            return _DONE
        text = error_text(error)
        if task.retried >= task.max_retry or says(error, SkipRetry):
            return Verdict(fate=Fate.ARCHIVE, text=text)
        complaints: list[str] = []
        is_failure = self._ask_failure(error, complaints)
        delay = self._ask_delay(task, error, complaints)
        return Verdict(
            fate=Fate.RETRY,
            delay=delay,
            is_failure=is_failure,
            text=text,
            complaint="; ".join(complaints),
        )

    def _ask_failure(self, error: BaseException, complaints: list[str]) -> bool:
        try:
            return bool(self.is_failure(error))
        except KeyboardInterrupt:
            raise
        except BaseException as own:  # noqa: BLE001 - a boundary of user code
            complaints.append(f"is_failure raised {describe_error(own)}")
            return True

    def _ask_delay(self, task: TaskMessage, error: BaseException, complaints: list[str]) -> float:
        try:
            delay = self.delay(task.retried, error, task)
            if 0 <= delay < math.inf:
                return min(float(delay), _LONGEST_DELAY)
            complaints.append(f"retry_delay returned {delay!r}")
        except KeyboardInterrupt:
            raise
        except BaseException as own:  # noqa: BLE001 - a boundary of user code
            complaints.append(f"retry_delay raised {describe_error(own)}")
        return default_retry_delay(task.retried, error, task)


def says(error: BaseException, kind: type[SkipRetry | RevokeTask]) -> bool:
    """Tell whether an error is, wraps, or as a group holds, one of `kind`.

    Beyond a hundred causes, or a hundred groups in groups, nothing is looked at.
    """
    return _says(error, kind, _DEEPEST, {})


def _says(
    error: BaseException, kind: type[SkipRetry | RevokeTask], depth: int, known: dict[int, bool]
) -> bool:
    if id(error) in known or depth == 0:
        return known.get(id(error), False)
    known[id(error)] = False  # what an error says that is in itself
    known[id(error)] = says_it = _chain_says(error, kind, depth, known)
    return says_it


def _chain_says(
    error: BaseException, kind: type[SkipRetry | RevokeTask], depth: int, known: dict[int, bool]
) -> bool:
    link: BaseException | None = error
    for _ in range(_DEEPEST):
        if link is None:
            return False
        if isinstance(link, kind):
            return True
        if isinstance(link, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", link)
            members = [_says(member, kind, depth - 1, known) for member in group.exceptions]
            if all(members) if kind is RevokeTask else any(members):
                return True
        link = link.__cause__
    return False


def error_text(error: BaseException) -> str:
    """Return the text of an error that is kept with the task."""
    text = str(error) if isinstance(error, AttemptError) else describe_error(error)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
