"""Errors in one line, for logs, dead letters and the texts of other errors.

`repr` will not do: redis-py's errors leave out their text there. Pure; used
wherever an error is reported and not raised.
"""


def describe_error(error: BaseException) -> str:
    """Return the type of `error` and its text, for a group those of its members."""
    name = type(error).__name__
    if isinstance(error, BaseExceptionGroup):
        members: list[str] = [describe_error(member) for member in error.exceptions]
        return f"{name}: {error.message} ({'; '.join(members)})"
    text = str(error)
    return f"{name}: {text}" if text else name
