"""What servers refuse because another is the right one, or this one is not ready. Pure.

Such a refusal means that the command was not carried out, so it may be sent
again elsewhere, or later. For a unit that holds only as long as none of its
commands has run. Used by the clients and by dedicated links.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeGuard, cast

import attrs
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    TryAgainError,
)

from terzetto.redis._commands import upper_name
from terzetto.redis._url import Endpoint
from terzetto.redis._wire import Arg, Reply, pack

NOT_NOW: Final = (TryAgainError, ClusterDownError, MasterDownError, BusyLoadingError)
"""The server may do it later."""

_REFUSALS: Final = (AskError, MovedError, *NOT_NOW, ReadOnlyError, AuthenticationError)
_CHANGES_NOTHING: Final = frozenset({"MULTI", "WAIT", "WAITAOF"})
ASKING: Final = pack(("ASKING",))


def is_ask(error: object) -> TypeGuard[AskError]:
    """Tell whether an error is ASK; in redis-py MOVED is a kind of it."""
    return isinstance(error, AskError) and not isinstance(error, MovedError)


def is_refusal(reply: object) -> bool:
    """Tell whether a reply says that the command was not carried out, and might be elsewhere."""
    return isinstance(reply, _REFUSALS)


def named_by(error: AskError, sender: Endpoint) -> Endpoint:
    """Return the server that a redirection names; without a host, it is on the sender's."""
    loose = cast("Any", error)  # redis-py leaves it untyped
    return attrs.evolve(sender, host=str(loose.host) or sender.host, port=int(loose.port))


def refusal_of(commands: Sequence[Sequence[Arg]], replies: Sequence[Reply]) -> Exception | None:
    """Return why a unit was refused, if none of its commands has run; else None.

    What stands between MULTI and EXEC has not run if EXEC was refused, or
    aborted because one of them was.
    """
    first: Exception | None = None
    inside = False
    for command, reply in zip(commands, replies, strict=True):
        word = upper_name(command[0])
        if isinstance(reply, _REFUSALS):
            first = first or reply
        elif _may_have_run(word, reply, inside=inside):
            return None
        inside = word == "MULTI" or (inside and word not in {"EXEC", "DISCARD"})
    return first


def _may_have_run(word: str, reply: Reply, *, inside: bool) -> bool:
    if inside:
        return word == "EXEC" and not isinstance(reply, ExecAbortError)
    return word not in _CHANGES_NOTHING


@attrs.frozen
class Asking:
    """A unit with ASKING before each command that stands alone, or before MULTI.

    Between MULTI and EXEC the server remembers that it was asked.
    """

    data: bytes
    count: int
    _places: tuple[int, ...]

    @classmethod
    def one(cls, data: bytes) -> "Asking":
        """Return the unit of one packed command."""
        return cls(ASKING + data, 2, (1,))

    def replies(self, replies: Sequence[Reply]) -> list[Reply]:
        """Return the replies of the commands themselves."""
        return [replies[place] for place in self._places]


def asking(commands: Sequence[Sequence[Arg]]) -> Asking:
    """Return a unit as a server wants it which a slot is on its way to."""
    parts: list[bytes] = []
    places: list[int] = []
    inside = False
    for command in commands:
        word = upper_name(command[0])
        if not inside:
            parts.append(ASKING)
        places.append(len(parts))
        parts.append(pack(tuple(command)))
        inside = word == "MULTI" or (inside and word not in {"EXEC", "DISCARD"})
    return Asking(b"".join(parts), len(parts), tuple(places))
