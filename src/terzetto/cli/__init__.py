"""The command `terzetto`: shows and steers everything that this library keeps in Redis.

`main` is its entry point; the extra ``cli`` brings what it needs beyond the library.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Args:
        arguments: the words after the command's name; None: those of this process.

    Returns:
        0 when it was done, 1 when it could not be done, 2 when the words make no
        command, 130 when a signal ended it.
    """
    try:
        from terzetto.cli._main import run  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in {"cyclopts", "rich"}:
            raise
        print(
            "error: the command needs terzetto[cli]: pip install 'terzetto[cli]'", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:  # before there was anything to interrupt
        return 130
    return run(sys.argv[1:] if arguments is None else arguments)


__all__ = ["main"]
