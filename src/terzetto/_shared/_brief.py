"""Coroutine functions that wait for nothing: what they do can be done in any task, at once.

A function without any ``await`` cannot be suspended, so it matters little in whose task it
runs. A caller that runs one to its end itself saves the turns of trio's scheduler that a
task of its own would cost. Context variables are the caller's business.
"""

import dis
import inspect
from collections.abc import Coroutine
from typing import Any, Final

import trio

_WAITING: Final = ("YIELD", "SEND", "GET_A")  # how the opcodes begin that can suspend a coroutine


def is_brief(function: object) -> bool:
    """Return whether there is no ``await``, ``async for`` and ``async with`` in `function`."""
    code = getattr(function, "__code__", None)
    if code is None or not code.co_flags & inspect.CO_COROUTINE:
        return False  # a function that passes for one: what it returns may wait
    return not any(
        instruction.opname.startswith(_WAITING) for instruction in dis.get_instructions(code)
    )


@trio.lowlevel.disable_ki_protection
def finish(work: Coroutine[Any, Any, object]) -> None:
    """Run what a brief function has returned; raises what it raises."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("what waits for nothing has waited")
