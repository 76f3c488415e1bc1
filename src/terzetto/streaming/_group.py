"""One stream of a sink: its consumer group in Redis, by the scripts of this room.

A group belongs to one sink and one stream, and is shared by all instances of
the sink. Every method is one command or script, so each of them either happens
or does not. Methods raise the link's and the server's errors as they come; all
of them can be repeated without harm.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from terzetto._shared._encoding import decode_text, encode_text
from terzetto.redis import Arg, Reply, Script
from terzetto.streaming._claims import HANDED_BACK_MS, milliseconds
from terzetto.streaming._event import Entry, Event, Poison, decode_entries, decode_entry
from terzetto.streaming._names import dead_stream, stream_key
from terzetto.streaming._positions import ZERO, Start, after_start, latest
from terzetto.streaming._scripts import (
    BURY,
    CLAIM,
    DELETE_CONSUMER,
    DESTROY_GROUP,
    EXTEND,
    HAND_BACK,
    LEAVE,
    OPEN_GROUP,
)

if TYPE_CHECKING:
    from terzetto.streaming._stream import Stream

_NO_CONSUMER: Final = ""
_CLAIMED_BYTES: Final = 256 * 1024  # and one entry, in a reply on the link that others wait for


@attrs.define(eq=False)
class Group:
    """The consumer group of a sink on one stream.

    Attributes:
        stream: the stream.
        sink: the sink's name, which is the group's.
        last_id: the greatest id that this instance knows to have been delivered.
    """

    stream: "Stream"
    sink: str
    last_id: str = ZERO

    async def open(self, consumer: str, start: Start, *, expire: bool) -> None:
        """Make the group at `start`, unless it is there, and `consumer` in it."""
        begin = after_start(start) or "$"
        made, last_id = await self._run(OPEN_GROUP, self.sink, begin, begin, consumer)
        self.last_id = str(last_id, "ascii")
        if made and expire and self.stream.ttl:
            await self.stream.redis.execute(*self.stream.expire_command())

    async def reopen(self, consumer: str) -> bool:
        """Make the group again that is gone; return whether that was needed.

        If the stream went with it, the group begins at the first event of the
        new one; if only the group went, after the last id that is known here.
        """
        made, last_id = await self._run(OPEN_GROUP, self.sink, ZERO, self.last_id, consumer)
        self.last_id = str(last_id, "ascii")
        return bool(made)

    def decode(self, entries: list[Entry]) -> tuple[list[Event], list[Poison]]:
        """Return what `decode_entries` does, and note how far the group has come."""
        if entries:
            self.last_id = latest((self.last_id, str(entries[-1][0], "ascii")))
        return decode_entries(self.stream.name, entries, sink=self.sink)

    async def claim(
        self, consumer: str, grace: float, count: int
    ) -> tuple[list[Event], list[Poison], bool]:
        """Take over up to `count` entries that have been idle for `grace` seconds.

        Big entries come a few at a time; the last value tells whether there may be more.
        """
        more, entries = await self._run(
            CLAIM, self.sink, consumer, milliseconds(grace), count, _CLAIMED_BYTES
        )
        events: list[Event] = []
        poison: list[Poison] = []
        for entry_id, deliveries, fields in entries:
            found = decode_entry(
                self.stream.name, entry_id, fields, sink=self.sink, deliveries=deliveries
            )
            if isinstance(found, Event):
                events.append(found)
            else:
                poison.append(found)
        if entries:
            self.last_id = latest((self.last_id, str(entries[-1][0], "ascii")))
        return events, poison, bool(more)

    async def acknowledge(self, event_ids: Sequence[str]) -> int:
        """Acknowledge entries; return how many were pending."""
        count: int = await self.stream.redis.execute(*self.acknowledge_command(event_ids))
        return count

    def acknowledge_command(self, event_ids: Sequence[str]) -> Sequence[Arg]:
        """Return the command that acknowledges entries."""
        return ("XACK", self.stream.key, self.sink, *event_ids)

    async def extend(
        self, consumer: str, event_ids: Sequence[str], *, into: str | None = None
    ) -> set[str]:
        """Start the idle time of entries again; return the ids that `consumer` still had.

        With `into`, they belong to that consumer from now on.
        """
        kept = await self._run(EXTEND, self.sink, consumer, into or consumer, *event_ids)
        return {str(event_id, "ascii") for event_id in kept}

    async def hand_back(
        self,
        consumer: str,
        event_ids: Sequence[str],
        *,
        idle_ms: int = HANDED_BACK_MS,
        unseen: bool = False,
    ) -> None:
        """Make entries of `consumer` look idle; `unseen` ones count as not delivered."""
        await self._run(HAND_BACK, self.sink, consumer, idle_ms, int(unseen), *event_ids)

    async def leave(self, consumer: str) -> int:
        """Hand back all that `consumer` has, and delete it if that was nothing; return how many."""
        left: int = await self._run(LEAVE, self.sink, consumer, HANDED_BACK_MS)
        return left

    async def delete_consumer(self, consumer: str) -> bool:
        """Delete `consumer` if it has nothing pending; return whether it is gone."""
        return bool(await self._run(DELETE_CONSUMER, self.sink, consumer))

    async def destroy_if_done(self) -> None:
        """Destroy the group, unless an entry is pending in it."""
        await self._run(DESTROY_GROUP, self.sink)

    async def bury(
        self, consumer: str, letter: Event | Poison, why: str, *, owned: bool = True
    ) -> str | None:
        """Move an entry to the dead letters; return the letter's id.

        None if it was not `consumer`'s any more, or is gone; with `owned` false
        (a sink without acknowledgements) nobody has to have it.
        """
        notes: list[Arg] = ["dead.id", letter.id, "dead.sink", self.sink]
        notes += ["dead.why", _sendable(why)]
        notes += ["dead.deliveries", letter.deliveries]
        if isinstance(letter, Poison):
            notes += ["dead.poison", 1]
        buried: bytes | None = await self.stream.redis.run_script(
            BURY,
            keys=[self.stream.key, stream_key(dead_stream(self.stream.name))],
            args=[self.sink, consumer if owned else _NO_CONSUMER, letter.id, *notes],
        )
        return None if buried is None else str(buried, "ascii")

    async def consumers(self) -> list[str]:
        """Return the names of the group's consumers."""
        found = await self.stream.redis.execute("XINFO", "CONSUMERS", self.stream.key, self.sink)
        return [decode_text(consumer[b"name"]) for consumer in found]

    async def _run(self, script: Script, *args: Arg) -> Reply:
        return await self.stream.redis.run_script(script, keys=[self.stream.key], args=args)


def _sendable(text: str) -> bytes:
    """Return the bytes of a text; where it has none, as an error's text may, ``?`` for those."""
    try:
        return encode_text(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
