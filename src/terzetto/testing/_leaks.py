"""Finds tasks that a test leaves behind."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import trio

from terzetto.errors import TerzettoError


class TaskLeakError(TerzettoError, AssertionError):
    """Tasks that were started inside the block still run after it."""


def _tasks(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _tasks(child)


def _all_tasks() -> dict[trio.lowlevel.Task, None]:
    root = trio.lowlevel.current_root_task()
    return dict.fromkeys(_tasks(root)) if root is not None else {}


@asynccontextmanager
async def no_task_leaks(*, patience: float = 1.0) -> AsyncGenerator[None]:
    """Fail if a task that was started inside the block is still there after it.

    Tasks that are on their way out have `patience` seconds to be gone. All
    tasks of the run are looked at, system tasks too.

    Raises:
        TaskLeakError: some stayed; the text has their names.
    """
    before = _all_tasks()
    yield
    with trio.move_on_after(patience):
        # No event tells that any one task of a run has ended.
        while any(task not in before for task in _all_tasks()):  # noqa: ASYNC110 - see above
            await trio.sleep(patience / 100)
    left = [task.name for task in _all_tasks() if task not in before]
    if left:
        raise TaskLeakError(f"left running: {', '.join(left)}; stop them before the end")
