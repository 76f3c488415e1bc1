"""Processes for task functions that compute; they are made when needed and end with the server.

The library trio-parallel keeps them; it has no type annotations to read, so what
is used of it is typed here.
"""

import math
from collections.abc import Awaitable, Callable
from multiprocessing.spawn import get_preparation_data
from typing import Any

import trio
import trio_parallel  # type: ignore[import-untyped] # it has annotations but does not say so

from terzetto.errors import InvalidOptionError
from terzetto.tasks._errors import TaskError

RunInProcess = Callable[..., Awaitable[Any]]

_GUARD = "if __name__ == '__main__':"


class FunctionProcessError(TaskError):
    """The process that a function ran in ended without an answer; the task is tried again."""


def check_main_module() -> None:
    """Refuse to serve in a process that was made for a function and is importing the main module.

    It would be a whole server beside the one that waits for it, and outlive that one.

    Raises:
        InvalidOptionError: it is such a process, so the main module has no guard.
    """
    try:
        get_preparation_data("")
    except RuntimeError:
        raise InvalidOptionError(
            "a process for a function with run_in='process' imports the program's main module,"
            f" and that starts a server: put what starts the program below {_GUARD}"
        ) from None


async def keep_processes(task_status: trio.TaskStatus[RunInProcess]) -> None:
    """Keep processes until cancelled; reports what runs a function in one of them.

    That takes the function, its arguments and `limiter`. Cancelling it kills the process.
    """
    library: Any = trio_parallel
    async with library.open_worker_context(idle_timeout=math.inf) as workers:

        async def run(*call: object, limiter: trio.CapacityLimiter) -> object:
            try:
                return await workers.run_sync(*call, kill_on_cancel=True, limiter=limiter)
            except library.BrokenWorkerError as error:
                raise FunctionProcessError(_describe_end(error.args[-1].exitcode)) from error

        task_status.started(run)
        await trio.sleep_forever()


def _describe_end(code: int | None) -> str:
    """Return what is to be said of a process that ended with an exit code, as Python gives it."""
    if code is not None and code < 0:
        return f"the process of the function was ended by signal {-code}"
    return (
        f"the process of the function ended with code {code}: its standard error may say why;"
        f" if it could not import the main module, see to it that all it starts is below {_GUARD}"
    )
