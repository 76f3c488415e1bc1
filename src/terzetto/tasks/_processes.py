"""Processes for task functions that compute; they are made when needed and end with the server.

The library trio-parallel keeps them; it has no type annotations to read, so what
is used of it is typed here.
"""

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import trio
import trio_parallel  # type: ignore[import-untyped] # it has annotations but does not say so

RunInProcess = Callable[..., Awaitable[Any]]


async def keep_processes(task_status: trio.TaskStatus[RunInProcess]) -> None:
    """Keep processes until cancelled; reports what runs a function in one of them.

    That takes the function, its arguments and `limiter`. Cancelling it kills the process.
    """
    library: Any = trio_parallel
    async with library.open_worker_context(idle_timeout=math.inf) as workers:
        task_status.started(cast("RunInProcess", partial(workers.run_sync, kill_on_cancel=True)))
        await trio.sleep_forever()
