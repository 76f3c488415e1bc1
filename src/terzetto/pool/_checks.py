"""Checks of what users give for options and handlers, before anything is written. Pure."""

from typing import Final

from terzetto._shared._functions import is_async
from terzetto.errors import InvalidOptionError

_MAX_SECONDS: Final = 10**9  # thirty years; more overflows in places that count milliseconds
_MAX_COUNT: Final = 2**53  # Redis' scripts count in floats


def check_seconds(option: str, value: object, *, zero: bool = False) -> None:
    """Refuse what is no duration in seconds above zero, or from zero on if that is allowed.

    Raises:
        InvalidOptionError: it is not.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value > _MAX_SECONDS:
            raise InvalidOptionError(f"{option} is {value!r}: give {_MAX_SECONDS} seconds at most")
        if value > 0 or (zero and value == 0):  # NaN is neither
            return
    least = "0 or more" if zero else "more than 0"
    raise InvalidOptionError(f"{option} is {value!r}: give seconds, {least}")


def check_count(option: str, value: object, *, least: int = 0) -> None:
    """Refuse what is no whole number from `least` on.

    Raises:
        InvalidOptionError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MAX_COUNT:
        raise InvalidOptionError(
            f"{option} is {value!r}: give a whole number from {least} to {_MAX_COUNT}"
        )


def check_bool(option: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        InvalidOptionError: it is not.
    """
    if not isinstance(value, bool):
        raise InvalidOptionError(f"{option} is {value!r}: give True or False")


def check_client(redis: object) -> None:
    """Refuse what is no client of `terzetto.connect`.

    Raises:
        TypeError: it is not.
    """
    if not hasattr(redis, "share_slot"):
        raise TypeError(f"a node needs a client of terzetto.connect(), not {type(redis)!r}")


def check_handler(handler: object) -> None:
    """Refuse what is neither an object with async methods nor an async function.

    Raises:
        InvalidOptionError: it is not, and why.
    """
    what = f"{handler!r:.200} is no handler"
    if isinstance(handler, type):
        raise InvalidOptionError(f"{what} but a class: give an object of it")
    if hasattr(handler, "start") and hasattr(handler, "stop"):
        for name in ("start", "stop", "notify"):
            method = getattr(handler, name, None)
            if (name != "notify" or method is not None) and not is_async(method):
                raise InvalidOptionError(f"{what}: its {name} is not an async method")
        return
    if not callable(handler):
        raise InvalidOptionError(
            f"{what}: give an object with start() and stop(), or an async function"
        )
    if not is_async(handler):
        raise InvalidOptionError(f"{what}: it is not an async function")
