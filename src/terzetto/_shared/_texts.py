"""Errors in one line, for logs, dead letters and the texts of other errors.

`repr` will not do: redis-py's errors leave out their text there. Pure; used
wherever an error is reported and not raised. Groups may be nested as deeply as
anybody likes, and hold the same error many times: what is said of them has an end.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final, cast

_DEEPEST: Final = 20  # groups in groups that are looked into
_LONGEST: Final = 4000  # characters after which no further member of a group is told
_MOST: Final = 1000  # errors that a traceback may show


def describe_error(error: BaseException) -> str:
    """Return the type of `error` and its text, for a group those of its members."""
    return _describe(error, _DEEPEST, _LONGEST)


def _describe(error: BaseException, depth: int, room: int) -> str:
    name = type(error).__name__
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return f"{name}: {group.message} ({_describe_members(group, depth, room)})"
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # noqa: BLE001 - the text of a user's error is user code
        text = f"its text cannot be had: {type(raised).__name__}"
    return f"{name}: {text}" if text else name


def _describe_members(group: BaseExceptionGroup[BaseException], depth: int, room: int) -> str:
    texts: list[str] = []
    for member in group.exceptions:
        if depth == 0 or room <= 0:
            texts.append("…")
            break
        texts.append(_describe(member, depth - 1, room))
        room -= len(texts[-1])
    return "; ".join(texts)


def each_error(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, and, if it is a group, all that are in it, each once."""
    seen, left = {id(error)}, [error]
    while left:
        found = left.pop()
        yield found
        if isinstance(found, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", found)
            for member in group.exceptions:
                if id(member) not in seen:
                    seen.add(id(member))
                    left.append(member)


def printable(error: BaseException) -> BaseException | None:
    """Return `error` if its traceback can be written, else None.

    The standard library writes an error of a group as often as it is in there, and cannot
    write groups that are nested too deeply.
    """
    count, links = 0, set[int]()
    left: list[tuple[BaseException, int]] = [(error, 0)]
    while left:
        found, depth = left.pop()
        count += 1
        if count > _MOST or depth > _DEEPEST:
            return None
        for link in (found.__cause__, found.__context__):
            if link is not None and id(link) not in links:
                links.add(id(link))
                left.append((link, depth))
        if isinstance(found, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", found)
            left += ((member, depth + 1) for member in group.exceptions[: _MOST + 1])
    return error


def add_note(error: BaseException, note: str) -> None:
    """Add a note to `error`, unless it is of a kind that cannot be changed."""
    with suppress(Exception):  # such as a frozen dataclass; what it says itself counts for more
        error.add_note(note)
