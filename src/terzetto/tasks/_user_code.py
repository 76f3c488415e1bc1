"""Where code of the user's ends: what it raises is its own, but for what belongs around it.

Task functions and the hooks of servers and schedulers may raise anything, SystemExit
too. That is judged or logged, and ends neither a server nor a scheduler.
"""

import math

import trio

from terzetto._shared._texts import describe_error, each_error


class TaskExitError(Exception):
    """A task function raised what is no `Exception`, such as SystemExit; it is the cause."""


def own_error(raised: BaseException) -> BaseException:
    """Return the error that a function is judged by; raise what belongs to a scope around it."""
    if isinstance(raised, Exception):
        return raised
    raise_foreign(raised)
    error = TaskExitError(f"the task function raised {describe_error(raised)}")
    error.__cause__ = raised
    return error


def raise_foreign(raised: BaseException) -> None:
    """Raise KeyboardInterrupt, and a cancellation of a scope around user code; return otherwise."""
    if isinstance(raised, Exception):
        return
    if _holds(raised, KeyboardInterrupt):
        raise raised
    if _holds(raised, trio.Cancelled) and trio.current_effective_deadline() == -math.inf:
        raise raised


def _holds(raised: BaseException, kind: type[BaseException]) -> bool:
    return any(isinstance(each, kind) for each in each_error(raised))
