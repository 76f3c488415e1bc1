"""Outcomes of what was asked together: each a value, or the error that stands in its place. Pure.

Used by clients of Redis, and by those who look at several keys in one round trip.
"""

from typing import TypeVar

T = TypeVar("T")


def value_or_raise(outcome: T | Exception) -> T:
    """Return an outcome that is a value; raise one that is an error."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
