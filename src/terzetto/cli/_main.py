"""The command as a whole: its parts, and what becomes of errors.

What goes wrong is told on standard error in one line that starts with ``error:``; the
exit code is 1 then, and 2 when the words make no command. What the library logs is told
there too, a line each that starts with ``warning:``; tracebacks are for programs.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any, cast

import trio
from cyclopts import App, CycloptsError
from redis.exceptions import RedisError

from terzetto._shared._texts import describe_error
from terzetto.cli import (
    _actors,
    _cron,
    _demo,
    _doctor,
    _map,
    _pool,
    _queue,
    _server,
    _stream,
    _task,
    _top,
)
from terzetto.cli._output import Terminal, complain, warn
from terzetto.errors import TerzettoError

INTERRUPTED = 130
MISUSED = 2
_KNOWN = (TerzettoError, RedisError, OSError, KeyboardInterrupt)
"""Errors that say themselves what to do."""

app = App(
    name="terzetto",
    help="Show and steer what Terzetto keeps in Redis.",
    version=version("terzetto"),
    result_action="return_value",
)
_ROOMS = (
    _queue.app,
    _task.app,
    _queue.group_app,
    _cron.app,
    _pool.app,
    _stream.app,
    _map.app,
    _server.app,
)
for part in _ROOMS:
    app.command(part)
app.command(_actors.actors)
app.command(_doctor.doctor)
app.command(_demo.demo)
app.command(_top.top)
cast("Any", app).register_install_completion_command()  # takes anything, so it has no type


def run(arguments: Sequence[str]) -> int:
    """Run the command with these words; return the exit code."""
    if sys.stdout is None:  # it was closed by whoever started us
        complain("there is no standard output")
        return 1
    try:
        with _terminated_like_interrupted(), _told_what_is_logged():
            # A Ctrl-C ends the command's own task, never an actor that happens to run.
            code = trio.run(_command, arguments, restrict_keyboard_interrupt_to_checkpoints=True)
            sys.stdout.flush()
    except CycloptsError as error:
        complain(str(error))
        return MISUSED
    except BaseException as error:
        causes = list(_leaves(error))
        if not all(isinstance(each, _KNOWN) for each in causes):
            raise
        code = _explain(causes)
        _forget_what_nobody_takes()
    return code if isinstance(code, int) else 0


async def _command(arguments: Sequence[str]) -> object:
    return await app.run_async(
        arguments, exit_on_error=False, print_error=False, console=Terminal()
    )


def _explain(causes: Sequence[BaseException]) -> int:
    """Say what went wrong, and return the exit code."""
    if any(isinstance(each, KeyboardInterrupt) for each in causes):
        return INTERRUPTED
    if any(isinstance(each, BrokenPipeError) for each in causes):
        return 0  # the reader of a pipe has seen enough
    for each in causes:
        complain(str(each) or describe_error(each))
    return 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Return an error, or those that a group of them is made of."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        for each in group.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _forget_what_nobody_takes() -> None:
    """Keep Python from writing once more, when it ends, what standard output did not take."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _terminated_like_interrupted() -> Generator[None]:
    """Let SIGTERM end the block as Ctrl-C does: it leaves pools and puts the terminal back.

    A process that is not to be interrupted, as shells start those in the background, keeps
    its own way.
    """
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@trio.lowlevel.enable_ki_protection  # so that it reaches the main task, not trio in its midst
def _interrupt(_: int, __: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


class _Teller(logging.Handler):
    """Tells what the library logs, in a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one."""
        error = record.exc_info[1] if record.exc_info else None
        why = "" if error is None else f": {describe_error(error)}"
        warn(record.getMessage() + why)


@contextmanager
def _told_what_is_logged() -> Generator[None]:
    """Tell what the library warns of while the block runs."""
    library = logging.getLogger("terzetto")
    teller = _Teller(logging.WARNING)
    library.addHandler(teller)
    try:
        yield
    finally:
        library.removeHandler(teller)
