"""Errors in one line, for logs, dead letters and the texts of other errors.

`repr` will not do: redis-py's errors leave out their text there. Pure; used
wherever an error is reported and not raised.
"""

from typing import cast


def describe_error(error: BaseException) -> str:
    """Return the type of `error` and its text, for a group those of its members."""
    name = type(error).__name__
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        members = "; ".join(describe_error(member) for member in group.exceptions)
        return f"{name}: {group.message} ({members})"
    text = str(error)
    return f"{name}: {text}" if text else name
