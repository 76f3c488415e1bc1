"""The roads of commands, against the server's own table of commands."""

from typing import Final

import attrs

from terzetto.redis import Redis, Reply, WrongLinkError
from terzetto.redis._commands import Road, check_dedicated, road_of

BY_ARGUMENTS: Final = {"XREAD", "XREADGROUP"}  # they wait only with BLOCK
ABOUT_THE_CONNECTION: Final = {
    "ASKING", "AUTH", "CLIENT|CACHING", "CLIENT|NO-EVICT", "CLIENT|NO-TOUCH", "CLIENT|REPLY",
    "CLIENT|SETNAME", "CLIENT|TRACKING", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI",
    "PSUBSCRIBE", "PSYNC", "PUNSUBSCRIBE", "QUIT", "READONLY", "READWRITE", "REPLCONF", "RESET",
    "SCRIPT|DEBUG", "SELECT", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "SYNC", "UNSUBSCRIBE",
    "UNWATCH", "WAIT", "WAITAOF", "WATCH",
}  # fmt: skip  # one name a line would be a page


@attrs.frozen
class Entry:
    """A command of the server: its name, "a|b" for a subcommand, and its flags."""

    name: str
    flags: frozenset[bytes]

    @property
    def args(self) -> tuple[str, ...]:
        return tuple(self.name.split("|"))

    @property
    def road(self) -> Road:
        try:
            return road_of(self.args)
        except WrongLinkError:
            return Road.REFUSED


def entries_of(reply: Reply) -> list[Entry]:
    found: list[Entry] = []
    for entry in reply:
        found.append(Entry(entry[0].decode().upper(), frozenset(entry[2])))
        found += entries_of(entry[9])
    return found


async def test_roads_agree_with_the_servers_table(redis: Redis) -> None:
    entries = entries_of(await redis.execute("COMMAND"))
    assert len(entries) > 300
    named = {entry.name: entry for entry in entries}

    refused = {entry.name for entry in entries if entry.road is Road.REFUSED}
    assert refused == ABOUT_THE_CONNECTION & named.keys()

    waiting = {entry.name for entry in entries if b"blocking" in entry.flags}
    assert {entry.name for entry in entries if entry.road is Road.BLOCKS} == (
        waiting - refused - BY_ARGUMENTS
    )
    assert road_of(("XREAD", "BLOCK", 0, "STREAMS", "s", "$")) is Road.BLOCKS

    # Sent twice is only what changes nothing: no command that writes, publishes or administers.
    twice = [entry for entry in entries if entry.road is Road.READ]
    assert len(twice) > 90
    for entry in twice:
        assert not entry.flags & {b"write", b"admin", b"may_replicate"}, entry


async def test_a_dedicated_link_carries_all_but_what_ends_its_order(redis: Redis) -> None:
    refused: set[str] = set()
    for entry in entries_of(await redis.execute("COMMAND")):
        try:
            check_dedicated(entry.args)
        except WrongLinkError:
            refused.add(entry.name)
    assert refused == {
        "ASKING", "AUTH", "CLIENT|REPLY", "HELLO", "MONITOR", "PSUBSCRIBE", "PSYNC",
        "PUNSUBSCRIBE", "QUIT", "REPLCONF", "RESET", "SCRIPT|DEBUG", "SSUBSCRIBE", "SUBSCRIBE",
        "SUNSUBSCRIBE", "SYNC", "UNSUBSCRIBE",
    }  # fmt: skip  # likewise
