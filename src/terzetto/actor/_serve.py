"""Runs a tree as a process: signals, an exit code, and a last line in the log."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import trio

from terzetto._shared._logging import Logger, default_logger
from terzetto.actor._events import Observer
from terzetto.actor._handle import Supervisor
from terzetto.actor._open import open_tree
from terzetto.actor._tree import Tree
from terzetto.actor._types import Ending, Exit
from terzetto.actor._window import open_window, show_tree

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve(
    tree: Tree,
    *,
    logger: Logger | None = None,
    observers: tuple[Observer, ...] = (),
    inspect: str | os.PathLike[str] | None = None,
) -> int:
    """Run `tree` until it ends or a signal ends it; return the process's exit code.

    SIGTERM or SIGINT closes the tree: work is handed back, within the grace
    periods. A second one cancels what is left. The code is 0 when the tree has
    closed or has ended by itself, 1 when it failed (the crash is logged), and
    128 plus the signal's number after a second signal. Cancelling this closes
    the tree within the grace periods.

    With `inspect`, the tree's picture is shown on a unix socket of that path, which
    only the owner of the process may open: ``terzetto actors PATH`` draws it.

    Call it once in the main thread: ``sys.exit(trio.run(main))``.

    Raises:
        InvalidOptionError: no socket can be made at `inspect`; nothing was started.
        BaseException: a crash that is no `Exception`, such as `SystemExit`, as it is.
    """
    logger = logger or default_logger("actor")
    begun = trio.current_time()
    cut_short: list[int] = []
    exit_: Exit | None = None
    error: Exception | None = None
    async with AsyncExitStack() as stack:
        window = None if inspect is None else await stack.enter_async_context(open_window(inspect))
        signals = stack.enter_context(trio.open_signal_receiver(*_SIGNALS))
        try:
            async with (
                open_tree(tree, logger=logger, observers=observers) as top,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(_obey, signals, top, logger, cut_short)
                if window is not None:
                    nursery.start_soon(show_tree, window, top.describe)
                exit_ = await top.wait_stopped()
                nursery.cancel_scope.cancel()
        except Exception as failure:  # noqa: BLE001 - the boundary of the process: it becomes a code
            error = failure
    seconds = round(trio.current_time() - begun, 3)
    if error is not None:
        logger.error("service failed", service=tree.name, seconds=seconds, exc_info=error)
        return 1
    code = 128 + cut_short[0] if cut_short else 0
    reason = "cut short" if cut_short else exit_.reason.value if exit_ else "closed"
    logger.info("service ended", service=tree.name, reason=reason, seconds=seconds, code=code)
    return code


async def _obey(
    signals: AsyncIterator[int], top: Supervisor, logger: Logger, cut_short: list[int]
) -> None:
    """Close the tree at the first signal; end every grace period at the second."""
    closing = False
    async for number in signals:
        name = signal.Signals(number).name
        if not closing:
            closing = True
            logger.info("closing, a second signal cancels", service=top.name, signal=name)
            top.cell.system.stop(top.cell, Ending.CLOSE)
        else:
            logger.warning("cancelling", service=top.name, signal=name)
            cut_short.append(number)
            top.cell.force()
