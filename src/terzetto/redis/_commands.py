"""Which road a command takes: what shares a link, what needs one of its own, what none allows.

The multiplexed link carries the commands of all tasks in one stream, so a
command that blocks would hold up everybody, and one that changes the state of
its connection (MULTI, SELECT, SUBSCRIBE, CLIENT SETNAME) would change it for
everybody. Pure; asked by `_client.py` for each command, so the answer is a
dict look-up.
"""

import enum
import math
from collections.abc import Sequence
from typing import Final

from redis.commands import READ_COMMANDS

from terzetto.redis._errors import WrongLinkError
from terzetto.redis._wire import Arg, as_text, nameless


class Road(enum.Enum):
    """How a command goes to the server."""

    WRITE = enum.auto()
    """Over the shared link; never sent twice."""
    READ = enum.auto()
    """Over the shared link; changes nothing, so it may be sent again after an outage."""
    BLOCKS = enum.auto()
    """Waits on the server: over a link of its own."""
    ASK_ARGUMENTS = enum.auto()
    """Depends on the arguments: `road_of` looks at them."""
    REFUSED = enum.auto()
    """Would change the shared link for everybody."""


_READS: Final = READ_COMMANDS | {
    "COMMAND",
    "ECHO",
    "INFO",
    "LASTSAVE",
    "OBJECT",
    "PING",
    "PUBSUB",
    "ROLE",
    "SORT_RO",
    "TIME",
    "TOUCH",
    "XINFO",
}

_BLOCKS: Final = frozenset(
    {
        "BLMOVE",
        "BLMPOP",
        "BLPOP",
        "BRPOP",
        "BRPOPLPUSH",
        "BZMPOP",
        "BZPOPMAX",
        "BZPOPMIN",
    }
)

_INSTEAD: Final = {
    "AUTH": "give `username` and `password` to connect()",
    "ASKING": "the cluster's client sends it by itself",
    "DISCARD": "use transaction()",
    "EXEC": "use transaction()",
    "HELLO": "the link has greeted the server when it was opened",
    "MONITOR": "run it with redis-cli: it turns a link into a one-way street",
    "MULTI": "use transaction(), or execute_many() with MULTI first and EXEC last",
    "PSUBSCRIBE": "use subscribe(patterns=...)",
    "PSYNC": "it is for replicas",
    "PUNSUBSCRIBE": "leave the block of the subscription",
    "QUIT": "leave the block of connect()",
    "READONLY": "the cluster's client sends it by itself",
    "READWRITE": "the cluster's client sends it by itself",
    "REPLCONF": "it is for replicas",
    "RESET": "leave the block of connect() and open another",
    "SELECT": "give `db` to connect(), or use open_dedicated()",
    "SSUBSCRIBE": "use subscribe(sharded=True)",
    "SUBSCRIBE": "use subscribe()",
    "SUNSUBSCRIBE": "leave the block of the subscription",
    "SYNC": "it is for replicas",
    "UNSUBSCRIBE": "leave the block of the subscription",
    "UNWATCH": "leave the block of watch_keys()",
    "WAIT": "it is about the writes of its own connection: send both with open_dedicated()",
    "WAITAOF": "it is about the writes of its own connection: send both with open_dedicated()",
    "WATCH": "use watch_keys() or transact()",
}

_SECOND_INSTEAD: Final = {
    "CLIENT CACHING": "it is about tracking, which needs a connection of its own",
    "CLIENT NO-EVICT": "use open_dedicated()",
    "CLIENT NO-TOUCH": "use open_dedicated()",
    "CLIENT SETNAME": "give `client_name` to connect()",
    "CLIENT TRACKING": "it is for caches, which the link does not keep",
}
"""Subcommands that change the connection, until the next one; and what to do instead."""

_NOWHERE: Final = {
    "CLIENT REPLY": "takes replies away that others wait for: do without",
    "SCRIPT DEBUG": "turns a link into a debugger's: run it with redis-cli",
}
"""Subcommands after which replies don't answer commands any more."""

_ON_DEDICATED: Final = frozenset(
    {
        "DISCARD",
        "EXEC",
        "MULTI",
        "READONLY",
        "READWRITE",
        "SELECT",
        "UNWATCH",
        "WAIT",
        "WAITAOF",
        "WATCH",
    }
)
_BY_SECOND: Final = frozenset({"CLIENT", "SCRIPT"})
_STREAM_READS: Final = frozenset({"XREAD", "XREADGROUP"})
_VALUES: Final = {"CLAIM": 1, "COUNT": 1, "GROUP": 2}
"""How many words belong to an option of these, which may read as an option themselves."""

_CACHE_LIMIT: Final = 2000  # names are few; a caller who makes them up must not fill the memory

_roads: dict[Arg, Road] = {}

shared: Final[dict[Arg, bool]] = {}
"""Names seen before that need no second look: True if the command may be sent again."""


def upper_name(name: Arg) -> str:
    """Return the first word of a command's name in upper case."""
    return as_text(name).partition(" ")[0].upper()


def road_of(args: tuple[Arg, ...]) -> Road:
    """Return the road of a command: never `ASK_ARGUMENTS`.

    Raises:
        WrongLinkError: it must not go over a shared link.
    """
    name = args[0]
    if not isinstance(name, (str, bytes)):  # which may not be looked up, or equal another one
        name = as_text(name)
    road = _roads.get(name)
    if road is None:
        road = _classify(upper_name(name))
        if len(_roads) < _CACHE_LIMIT:
            _roads[name] = road
            if road in {Road.READ, Road.WRITE}:
                shared[name] = road is Road.READ
    if road is Road.ASK_ARGUMENTS:
        return _by_arguments(args)
    if road is Road.REFUSED:
        word = upper_name(name)
        raise WrongLinkError(f"{word} cannot go over a shared link: {_INSTEAD[word]}")
    return road


def check_dedicated(args: tuple[Arg, ...]) -> None:
    """Raise `WrongLinkError` for what even a link of one's own cannot carry."""
    word = upper_name(args[0])
    if word in _INSTEAD and word not in _ON_DEDICATED:
        raise WrongLinkError(f"{word} cannot go over a dedicated link: {_INSTEAD[word]}")
    if word in _BY_SECOND:
        _check_second(args)


def check_lent(args: tuple[Arg, ...]) -> None:
    """Raise `WrongLinkError` for what a link that is lent to others afterwards cannot carry.

    Raises:
        InvalidPayloadError: the command has no name.
    """
    if not args:
        raise nameless()
    road_of(args)


def blocking_time(args: tuple[Arg, ...]) -> float:
    """Return for how many seconds the command asks the server to wait; inf for ever."""
    word = upper_name(args[0])
    if word in _STREAM_READS:
        wait = _wait_of(args)
        return 0.0 if wait is None else _seconds(wait, 1000)
    if word in {"WAIT", "WAITAOF"} and args[1:]:
        return _seconds(args[-1], 1000)
    if word not in _BLOCKS or not args[1:]:
        return 0.0
    if word in {"BLMPOP", "BZMPOP"}:
        return _seconds(args[1], 1)
    return _seconds(args[-1], 1)


def _seconds(arg: Arg, scale: int) -> float:
    try:
        return float(arg) / scale or math.inf
    except ValueError:
        return 0.0  # the server will say what is wrong with it


def check_unit(commands: Sequence[tuple[Arg, ...]]) -> None:
    """Raise `WrongLinkError` unless the commands leave a shared link as they found it.

    MULTI is allowed when its EXEC or DISCARD comes later in the same unit.

    Raises:
        InvalidPayloadError: a command has no name.
    """
    inside = False
    for args in commands:
        word = _only_word(args)
        if word == "MULTI" and not inside:
            inside = True
        elif word in {"EXEC", "DISCARD"} and inside:
            inside = False
        elif road_of(args) is Road.BLOCKS and not inside:
            word = upper_name(args[0])
            raise WrongLinkError(f"{word} would hold up a shared link: use open_dedicated()")
    if inside:
        raise WrongLinkError("MULTI without EXEC would catch the commands of others: add EXEC")


def _only_word(args: tuple[Arg, ...]) -> str:
    """Return a command of one word, in upper case; "" if it has more.

    With more, or with letters that only Python takes for others, the server refuses it.
    """
    if len(args) > 1:
        return ""
    if not args:
        raise nameless()
    name = as_text(args[0])
    return name.upper() if name.isascii() else ""


def _classify(word: str) -> Road:
    if word in _BY_SECOND or word in _STREAM_READS:
        return Road.ASK_ARGUMENTS
    if word in _INSTEAD:
        return Road.REFUSED
    if word in _BLOCKS:
        return Road.BLOCKS
    return Road.READ if word in _READS else Road.WRITE


def _by_arguments(args: tuple[Arg, ...]) -> Road:
    word = upper_name(args[0])
    if word in _BY_SECOND:
        command = _check_second(args)
        if command in _SECOND_INSTEAD:
            instead = _SECOND_INSTEAD[command]
            raise WrongLinkError(f"{command} cannot go over a shared link: {instead}")
        return Road.WRITE
    if _wait_of(args) is not None:
        return Road.BLOCKS
    return Road.READ if word == "XREAD" else Road.WRITE


def _check_second(args: tuple[Arg, ...]) -> str:
    """Return a command's first two words in upper case, unless no link can carry it."""
    words = [*as_text(args[0]).split(), *map(as_text, args[1:2])]
    command = " ".join(words[:2]).upper()
    if command in _NOWHERE:
        raise WrongLinkError(f"{command} {_NOWHERE[command]}")
    return command


def _wait_of(args: tuple[Arg, ...]) -> Arg | None:
    """Return what stands behind BLOCK, for an XREAD or XREADGROUP; None if it does not wait."""
    words = iter(args)
    for arg in words:
        word = as_text(arg).upper()
        if word == "BLOCK":
            return next(words, b"")
        if word == "STREAMS":
            break
        for _ in range(_VALUES.get(word, 0)):
            next(words, None)
    return None
