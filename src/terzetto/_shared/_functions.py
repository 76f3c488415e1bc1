"""What kind of function a user has given. Pure.

Pools and tasks refuse a function at once, where it is given to them, if it is of a kind
that they cannot run.
"""

import inspect
from collections.abc import Callable


def is_async(function: object) -> bool:
    """Tell whether a function, or an object that can be called, is async, maybe in a wrapper."""
    if not callable(function):
        return False
    call: object = getattr(function, "__call__", None)  # noqa: B004 - the method itself is wanted
    return any(_is_coroutine_function(each) for each in (function, call) if callable(each))


def _is_coroutine_function(function: Callable[..., object]) -> bool:
    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(inspect.unwrap(function))
