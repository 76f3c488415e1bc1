"""The command as a whole: its parts, and what becomes of errors.

What goes wrong is told on standard error in one line that starts with ``error:``; the
exit code is 1 then, and 2 when the words make no command.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, cast

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
from terzetto.cli._output import printable
from terzetto.errors import TerzettoError

INTERRUPTED = 130
MISUSED = 2

app = App(
    name="terzetto",
    help="Show and steer what Terzetto keeps in Redis.",
    version=version("terzetto"),
    backend="trio",
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
    try:
        code = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _complain(str(error))
        return MISUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        known = list(_known(error))
        if not known:
            raise
        for each in known:
            _complain(str(each) or describe_error(each))
        return 1
    return code if isinstance(code, int) else 0


def _known(error: BaseException) -> Iterator[BaseException]:
    """Return the errors that say themselves what to do; none if anything else went wrong."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        found = [list(_known(each)) for each in group.exceptions]
        if all(found):
            for each in found:
                yield from each
    elif isinstance(error, TerzettoError | RedisError | OSError):
        yield error


def _complain(text: str) -> None:
    print(f"error: {printable(text)}", file=sys.stderr)
