"""What the pool's scripts answer, as Python's types. Pure; called by `_store.py`.

Anything else than what a script says came from a proxy or a server that is none,
and is a `TypeError`.
"""

from terzetto._shared._encoding import decode_text


def items_of(reply: object, count: int | None = None) -> list[object]:
    """Return a reply that is a list, of `count` items if that is given.

    Raises:
        TypeError: the server, or a proxy before it, answered something else.
    """
    if not isinstance(reply, list):
        raise TypeError(f"a script of the pool answered {type(reply).__name__}, not a list")
    items: list[object] = reply  # pyright: ignore[reportUnknownVariableType] - a reply's items are of any type
    if count is not None and len(items) != count:
        raise TypeError(f"a script of the pool answered {len(items)} items, not {count}")
    return items


def text_of(reply: object) -> str:
    """Return a reply that is text.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(reply, bytes):
        raise TypeError(f"a script of the pool answered {type(reply).__name__}, not bytes")
    return decode_text(reply)


def number_of(reply: object) -> int:
    """Return a reply that is a number.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(reply, int):
        raise TypeError(f"a script of the pool answered {type(reply).__name__}, not a number")
    return reply
