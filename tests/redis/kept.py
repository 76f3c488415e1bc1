"""Servers that are kept up for several tests, in a thread with a trio of its own.

For tests that do not harm them. They save the seconds that it takes to form a group.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

import trio

T = TypeVar("T")


@contextmanager
def kept(opening: Callable[[], AbstractAsyncContextManager[T]]) -> Generator[T]:
    """Keep what `opening` opens for the time of a block; raise what goes wrong there."""
    opened: list[tuple[T, Callable[[], None]]] = []
    failed: list[BaseException] = []
    answered = threading.Event()

    async def keep() -> None:
        over = trio.Event()
        token = trio.lowlevel.current_trio_token()
        async with opening() as it:
            opened.append((it, lambda: token.run_sync_soon(over.set)))
            answered.set()
            await over.wait()

    def run() -> None:
        try:
            trio.run(keep)
        except BaseException as error:  # noqa: BLE001 - a skip is one, too; it is raised below
            failed.append(error)
        finally:
            answered.set()

    thread = threading.Thread(target=run, name="kept servers")
    thread.start()
    answered.wait()
    try:
        if opened:
            yield opened[0][0]
    finally:
        for _, end in opened:
            end()
        thread.join()
        for error in failed:
            raise error
