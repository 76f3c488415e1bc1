"""Where keys live in a cluster: slots, the keys of a command, the map of slots. Pure.

The server's own table (COMMAND) says where the keys of a command stand. For
those whose keys are counted or come after a word, it says only that they move;
`_MOVING` knows how to find them.
"""

from binascii import crc_hqx
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, cast

import attrs

from terzetto.redis._url import Endpoint
from terzetto.redis._wire import Arg, Reply, as_text, plain

SLOTS: Final = 16_384
_KNOWN_KEYS: Final = 10_000  # keys whose slots are remembered: a program asks for the same ones
LONG_KEY: Final = 200
"""Characters; keys that have as many are not remembered."""

Keys: TypeAlias = list[Arg]


def slot_of(key: Arg) -> int:
    """Return the slot of a key; only what stands in the first ``{...}`` counts, if anything."""
    if type(key) is str and len(key) < LONG_KEY:
        return _slot_of_text(key)
    return _slot(key if isinstance(key, bytes) else _as_bytes(key))


@lru_cache(_KNOWN_KEYS)
def _slot_of_text(key: str) -> int:
    return _slot(_as_bytes(key))


def _slot(key: bytes) -> int:
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def _as_bytes(key: Arg) -> bytes:
    packed = plain(key)
    return packed if isinstance(packed, bytes) else repr(packed).encode()


@attrs.frozen
class KeyRule:
    """Where the keys of a command stand: from `first` to `last` in steps, by place."""

    first: int
    last: int
    step: int

    def keys(self, args: Sequence[Arg]) -> Keys:
        if self.first <= 0:
            return []
        last = self.last if self.last >= 0 else len(args) + self.last
        return list(args[self.first : last + 1 : max(1, self.step)])


def parse_commands(reply: Reply) -> dict[str, KeyRule]:
    """Return the rules of all commands, from the reply to COMMAND; subcommands as "a|b"."""
    rules: dict[str, KeyRule] = {}

    def note(entries: Iterable[Any]) -> None:
        for entry in entries:
            name, _, _, first, last, step = entry[:6]
            rules[name.decode().upper()] = KeyRule(first, last, step)
            if len(entry) > _SUBCOMMANDS:
                note(entry[_SUBCOMMANDS])

    note(reply)
    return rules


_SUBCOMMANDS = 9  # the place of the subcommands in an entry of COMMAND's reply


def _counted(place: int, *, before: Sequence[int] = ()) -> Callable[[Sequence[Arg]], Keys]:
    """Keys whose number stands at `place`, and which follow it; others stand at `before`."""

    def keys(args: Sequence[Arg]) -> Keys:
        try:
            count = int(args[place])
        except (ValueError, IndexError):
            return []  # the server will say what is wrong
        return [args[at] for at in before] + list(args[place + 1 : place + 1 + count])

    return keys


def _streams(args: Sequence[Arg]) -> Keys:
    """Return the first half of what follows STREAMS."""
    for place, arg in enumerate(args):
        if _word(arg) == "STREAMS":
            rest = args[place + 1 :]
            return list(rest[: len(rest) // 2])
    return []


def _store(args: Sequence[Arg]) -> Keys:
    """Return the first argument and, if there is one, the key after STORE or STOREDIST."""
    words = [_word(arg) for arg in args]
    for name in ("STORE", "STOREDIST"):
        if name in words[2:-1]:
            return [args[1], args[words.index(name, 2) + 1]]
    return list(args[1:2])


_MOVING: Final[Mapping[str, Callable[[Sequence[Arg]], Keys]]] = {
    "BLMPOP": _counted(2),
    "BZMPOP": _counted(2),
    "EVAL": _counted(2),
    "EVALSHA": _counted(2),
    "EVALSHA_RO": _counted(2),
    "EVAL_RO": _counted(2),
    "FCALL": _counted(2),
    "FCALL_RO": _counted(2),
    "GEORADIUS": _store,
    "GEORADIUSBYMEMBER": _store,
    "LMPOP": _counted(1),
    "SINTERCARD": _counted(1),
    "SORT": _store,
    "SORT_RO": _store,
    "XREAD": _streams,
    "XREADGROUP": _streams,
    "ZDIFF": _counted(1),
    "ZDIFFSTORE": _counted(2, before=(1,)),
    "ZINTER": _counted(1),
    "ZINTERCARD": _counted(1),
    "ZINTERSTORE": _counted(2, before=(1,)),
    "ZMPOP": _counted(1),
    "ZUNION": _counted(1),
    "ZUNIONSTORE": _counted(2, before=(1,)),
}


def keys_of(args: Sequence[Arg], rules: Mapping[str, KeyRule]) -> Keys:
    """Return the keys of a command."""
    name = _word(args[0])
    moving = _MOVING.get(name)
    if moving is not None:
        return moving(args)
    rule = rules.get(name)
    if len(args) > 1 and (rule is None or rule.first <= 0):
        rule = rules.get(f"{name}|{_word(args[1])}", rule)
    return rule.keys(args) if rule is not None else []


def fixed_place(name: Arg, rules: Mapping[str, KeyRule]) -> int:
    """Return the place of the key of a command that always has exactly one; else 0."""
    word = _word(name)
    rule = rules.get(word)
    if word in _MOVING or rule is None or rule.first != rule.last:
        return 0
    return max(0, rule.first)


def _word(arg: Arg) -> str:
    return as_text(arg).upper()


class Range(NamedTuple):
    """Slots from `first` to `last`, who owns them, and who follows the owner."""

    first: int
    last: int
    owner: Endpoint
    replicas: tuple[Endpoint, ...]


def parse_slots(reply: Reply, asked: Endpoint) -> list[Range]:
    """Return the ranges of slots, from the reply to CLUSTER SLOTS.

    A server that does not know its own name answers with none: it is `asked`.
    """

    def endpoint(node: list[Any]) -> Endpoint:
        host = node[0].decode() if node[0] else ""
        if host in {"", "?"}:
            host = asked.host
        return attrs.evolve(asked, host=host, port=int(node[1]))

    return [
        Range(first, last, endpoint(owner), tuple(endpoint(each) for each in replicas))
        for first, last, owner, *replicas in cast("list[list[Any]]", reply)
    ]
