"""Runs a tree as a process: signals, an exit code, and a last line in the log."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import attrs
import trio

from terzetto._shared._logging import Logger, default_logger
from terzetto.actor._errors import ActorStoppedError
from terzetto.actor._events import Observer
from terzetto.actor._handle import Supervisor
from terzetto.actor._open import root_of
from terzetto.actor._system import Root
from terzetto.actor._tree import Tree
from terzetto.actor._types import Ending, Stop
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

    SIGTERM or SIGINT closes the tree, also one that is not up yet: work is handed
    back, within the grace periods. A second one cancels what is left. The code is
    0 when the tree has closed or has ended by itself, 1 when it failed (the crash
    is logged), and 128 plus the signal's number after a second signal. Cancelling
    this closes the tree within the grace periods.

    With `inspect`, the tree's picture is shown on a unix socket of that path, which
    only the owner of the process may open: ``terzetto actors PATH`` draws it.

    Call it once in the main thread: ``sys.exit(trio.run(main))``.

    Raises:
        InvalidOptionError: no socket can be made at `inspect`; nothing was started.
        BaseException: a crash that is no `Exception`, such as `SystemExit`, as it is.
    """
    logger = logger or default_logger("actor")
    begun = trio.current_time()
    steering = _Steering(tree.name, root_of(tree, logger=logger, observers=observers), logger)
    error: BaseException | None = None
    reason = ""
    async with AsyncExitStack() as stack:
        window = None if inspect is None else await stack.enter_async_context(open_window(inspect))
        signals = stack.enter_context(trio.open_signal_receiver(*_SIGNALS))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(steering.obey, signals)
                error, reason = await _run(steering, window, nursery)
                nursery.cancel_scope.cancel()
        except Exception as failure:  # noqa: BLE001 - what runs beside the tree failed, and closed it
            error = error or failure
    seconds = round(trio.current_time() - begun, 3)
    if error is not None:
        if not isinstance(error, Exception):
            raise error
        logger.error("service failed", service=tree.name, seconds=seconds, exc_info=error)
        return 1
    code = 0
    if steering.cut_short_by is not None:
        code, reason = 128 + steering.cut_short_by, "cut short"
    logger.info("service ended", service=tree.name, reason=reason, seconds=seconds, code=code)
    return code


async def _run(
    steering: "_Steering", window: trio.SocketListener | None, nursery: trio.Nursery
) -> tuple[BaseException | None, str]:
    """Run the tree; return the error that ended it, if one did, and the reason in a word."""
    reason = Stop.CLOSED
    try:
        async with steering.block as top:
            if window is not None:
                nursery.start_soon(show_tree, window, top.describe)
            reason = (await top.wait_stopped()).reason
    except trio.Cancelled:
        raise
    except BaseException as error:  # noqa: BLE001 - the boundary of the process: it becomes a code
        # A signal may end the tree before it is up.
        if not (steering.is_closing and isinstance(error, ActorStoppedError)):
            return error, ""
    return None, reason.value


@attrs.define(eq=False)
class _Steering:
    """What the signals do to the tree, from before its start to its end."""

    name: str
    block: Root[Supervisor]
    logger: Logger
    is_closing: bool = False
    cut_short_by: int | None = None
    """The number of the signal that ended the grace periods."""

    async def obey(self, signals: AsyncIterator[int]) -> None:
        """Close the tree at the first signal; end every grace period at the second."""
        async for number in signals:
            name = signal.Signals(number).name
            if not self.is_closing:
                self.is_closing = True
                self.logger.info("closing, a second signal cancels", service=self.name, signal=name)
                self.block.request(Ending.CLOSE)
            else:
                self.logger.warning("cancelling", service=self.name, signal=name)
                self.cut_short_by = number
                self.block.force()
