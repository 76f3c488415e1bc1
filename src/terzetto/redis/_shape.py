"""From redis-py's commands to plain ones, and from plain replies to redis-py's. Pure.

redis-py's methods call ``execute_command("CONFIG GET", "maxmemory", option=...)``
and expect the reply in a shape that a callback named "CONFIG GET" makes. A name
given in two words (``"CONFIG", "GET"``) is answered in the same shape.
"""

from collections.abc import Callable
from typing import Any, Final

from redis._parsers.encoders import Encoder
from redis._parsers.response_callbacks import get_response_callbacks
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import ResponseError

from terzetto.redis._errors import ReplyError
from terzetto.redis._wire import Arg, Reply, as_text

Callback = Callable[..., Any]

_callbacks: Final[dict[str, Callback]] = get_response_callbacks(
    user_protocol=3, legacy_responses=False
)
_CONTAINERS: Final = frozenset(name.partition(" ")[0] for name in _callbacks if " " in name) | {
    "COMMAND"
}
_OURS: Final = frozenset({EMPTY_RESPONSE, NEVER_DECODE, "keys"})  # options that no callback takes


class Shaper:
    """Knows how one client wants its replies: redis-py's shapes, as bytes or as str."""

    def __init__(self, *, decode: bool) -> None:
        self.encoder = Encoder(  # type: ignore[no-untyped-call] # redis-py leaves it untyped
            "utf-8", "surrogateescape", decode_responses=decode
        )
        self.decode = decode

    def shape(self, args: tuple[Any, ...], reply: Reply, options: dict[str, Any]) -> Any:  # noqa: ANN401 - each command has its own shape
        """Return the reply of ``execute_command(*args, **options)`` as redis-py would.

        An error reply is raised, unless redis-py has a value for that case; `ReplyError`
        if a reply is nested too deep to be decoded.
        """
        if isinstance(reply, Exception):
            if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
                return options[EMPTY_RESPONSE]
            raise reply
        if self.decode and NEVER_DECODE not in options:
            try:
                reply = decoded(reply)
            except RecursionError:
                raise ReplyError("the reply is nested too deep: ask with execute()") from None
        callback = _callback(args)
        if callback is None:
            return reply
        return callback(reply, **{key: options[key] for key in options if key not in _OURS})


def words(args: tuple[Any, ...]) -> tuple[Arg, ...]:
    """Return a command with its name in single words, as the server wants it."""
    name = args[0]
    if isinstance(name, str) and " " in name:
        return (*name.split(), *args[1:])
    return args


def decoded(reply: Reply) -> Reply:
    """Return a reply with str for bytes, wherever they stand."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "surrogateescape")  # decode_text, without the call
    if isinstance(reply, list):
        items: list[Reply] = reply  # pyright: ignore[reportUnknownVariableType] - a Reply is Any
        return [decoded(item) for item in items]
    if isinstance(reply, dict):
        pairs: dict[Reply, Reply] = reply  # pyright: ignore[reportUnknownVariableType] - likewise
        return {decoded(key): decoded(value) for key, value in pairs.items()}
    return reply


def _callback(args: tuple[Any, ...]) -> Callback | None:
    name = as_text(args[0]).upper()
    if name in _CONTAINERS and len(args) > 1:
        # "COMMAND", "COUNT" must not go to the callback of COMMAND.
        name = f"{name} {as_text(args[1]).upper()}"
    return _callbacks.get(name)
