"""Checks of names and options, made where a spec or a timer is made.

Pure. Callers may be untyped, so the types are checked too: a grace period that
is a str shall be refused here, and not fail somewhere in a closing.
"""

import math

from terzetto.actor._errors import ChildNameError, SpecError


def check_child_name(name: str) -> str:
    """Return `name` if a child may have it.

    Raises:
        ChildNameError: it is no str, empty, or has a slash.
    """
    if not isinstance(name, str) or not name or "/" in name:  # pyright: ignore[reportUnnecessaryIsInstance] - see above
        raise ChildNameError(f"{name!r} cannot name a child: give a str without slashes")
    return name


def check_seconds(what: str, seconds: float) -> None:
    """Raise `SpecError` if `seconds` is no number, negative or not finite."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:  # pyright: ignore[reportUnnecessaryIsInstance] - see above
        raise SpecError(f"{what}={seconds!r}: give seconds, 0 or more and finite")


def check_count(what: str, count: int, least: int) -> None:
    """Raise `SpecError` if `count` is no whole number, or below `least`."""
    if not isinstance(count, int) or count < least:  # pyright: ignore[reportUnnecessaryIsInstance] - see above
        raise SpecError(f"{what}={count!r}: give a whole number, {least} or more")


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `SpecError` if `value` is none of `choices`."""
    if value not in choices:
        raise SpecError(f"{what}={value!r}: give one of {', '.join(choices)}")
