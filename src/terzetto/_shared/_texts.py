"""Errors in one line, for logs, dead letters and the texts of other errors.

`repr` will not do: redis-py's errors leave out their text there. Pure; used
wherever an error is reported and not raised.
"""

from contextlib import suppress
from typing import cast


def describe_error(error: BaseException) -> str:
    """Return the type of `error` and its text, for a group those of its members."""
    name = type(error).__name__
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        members = "; ".join(describe_error(member) for member in group.exceptions)
        return f"{name}: {group.message} ({members})"
    try:
        text = str(error)
    except Exception as raised:  # noqa: BLE001 - the text of a user's error is user code
        text = f"its text cannot be had: {type(raised).__name__}"
    return f"{name}: {text}" if text else name


def add_note(error: BaseException, note: str) -> None:
    """Add a note to `error`, unless it is of a kind that cannot be changed."""
    with suppress(Exception):  # such as a frozen dataclass; what it says itself counts for more
        error.add_note(note)
