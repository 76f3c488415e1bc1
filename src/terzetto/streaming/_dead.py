"""Dead letters: the events that a sink gave up, kept in a stream of their own.

The letters of the stream ``<name>`` are events of the stream ``<name>:dead``,
with the name, payload and topic that they had, and fields of ours that say where
they come from. Any reader, a Go peer's too, can read that stream. A letter is
written and its event acknowledged in one script, so an event is dead once.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final

import attrs

from terzetto._shared._encoding import decode_text
from terzetto.errors import TerzettoError
from terzetto.streaming._event import NAME, PAYLOAD, TOPIC, Fields
from terzetto.streaming._names import dead_stream, stream_key
from terzetto.streaming._options import check_count
from terzetto.streaming._positions import created_at, parse_id
from terzetto.streaming._scripts import REPLAY

if TYPE_CHECKING:
    from terzetto.streaming._stream import Stream

_ORIGIN: Final = b"origin."


class ReplayError(TerzettoError):
    """A dead letter is no event and cannot be added again; discard it, or add one by hand."""


@attrs.frozen(kw_only=True)
class DeadLetter:
    """An event that a sink gave up.

    Attributes:
        id: the letter's own id, in the stream of dead letters.
        event_id: the id that the event had.
        sink: the name of the sink that gave it up.
        why: what was wrong.
        deliveries: how many times it had been delivered.
        name: the event's name; ``""`` if the entry had none.
        payload: the event's payload; empty if the entry had none.
        topic: the event's topic, or ``""``.
        is_poison: whether it was no event at all, because a field was missing.
        fields: further fields that the entry had, by name.
    """

    id: str
    event_id: str
    sink: str
    why: str
    deliveries: int
    name: str
    payload: bytes
    topic: str
    is_poison: bool
    fields: dict[bytes, bytes]

    @property
    def buried_at(self) -> datetime:
        """When the letter was written, by the server's clock, in UTC."""
        return created_at(self.id)


def decode_letter(letter_id: bytes, flat: Fields) -> DeadLetter:
    """Return the dead letter of an entry; fields that others left out are empty."""
    found = dict(zip(flat[::2], flat[1::2], strict=False))
    deliveries = found.get(b"dead.deliveries", b"")
    return DeadLetter(
        id=str(letter_id, "ascii"),
        event_id=decode_text(found.get(b"dead.id", b"")),
        sink=decode_text(found.get(b"dead.sink", b"")),
        why=decode_text(found.get(b"dead.why", b"")),
        deliveries=int(deliveries) if deliveries.isdigit() else 0,
        name=decode_text(found.get(NAME, b"")),
        payload=found.get(PAYLOAD, b""),
        topic=decode_text(found.get(TOPIC, b"")),
        is_poison=b"dead.poison" in found,
        fields={
            field.removeprefix(_ORIGIN): value
            for field, value in found.items()
            if field.startswith(_ORIGIN)
        },
    )


def _check_letters(letters: Iterable[object]) -> None:
    for letter in letters:
        if not isinstance(letter, DeadLetter):
            raise TypeError(f"give a DeadLetter, as read() does, not {type(letter).__name__}")


class DeadLetters:
    """The dead letters of a stream; `Stream.dead_letters` gives it."""

    def __init__(self, stream: "Stream") -> None:
        self._stream = stream
        self.name = dead_stream(stream.name)
        self.key = stream_key(self.name)

    def __repr__(self) -> str:
        return f"<DeadLetters of {self._stream.name!r}>"

    async def count(self) -> int:
        """Return how many letters there are."""
        length: int = await self._stream.redis.execute("XLEN", self.key)
        return length

    async def read(self, *, after: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """Return letters, oldest first.

        Args:
            after: the id of the letter to begin after; None begins with the oldest.
            limit: how many at most.

        Raises:
            InvalidOptionError: `after` is no id, or `limit` is below 1.
        """
        begin = "-"
        if after is not None:
            parse_id(after)
            begin = f"({after}"
        check_count("limit", limit)
        entries = await self._stream.redis.execute("XRANGE", self.key, begin, "+", "COUNT", limit)
        return [decode_letter(letter_id, fields) for letter_id, fields in entries]

    async def replay(self, *letters: DeadLetter) -> list[str]:
        """Add the events of letters to the stream again; return their new ids.

        All sinks and readers of the stream get them, as new events. Each letter
        is deleted in the same step; one that is gone already is left out. Cancelling:
        the letters before the one under way were replayed, that one may have been, and
        the others were not. With the same letters again, only the rest is replayed.

        Raises:
            ReplayError: a letter is poison; those before it have been replayed.
            TypeError: one is no `DeadLetter`; nothing was replayed.
        """
        _check_letters(letters)
        ids: list[str] = []
        for letter in letters:
            added = await self._stream.redis.run_script(
                REPLAY,
                keys=[self.key, self._stream.key],
                args=[letter.id, self._stream.max_len],
            )
            if isinstance(added, int):
                raise ReplayError(
                    f"the dead letter {letter.id} is no event ({letter.why}): "
                    "discard it, or add an event by hand"
                )
            if added is not None:
                ids.append(str(added, "ascii"))
        return ids

    async def discard(self, *letters: DeadLetter) -> int:
        """Delete letters; return how many there were.

        Cancelling leaves it open whether they were deleted; it can be done again.

        Raises:
            TypeError: one is no `DeadLetter`; nothing was deleted.
        """
        _check_letters(letters)
        if not letters:
            return 0
        removed: int = await self._stream.redis.execute(
            "XDEL", self.key, *[letter.id for letter in letters]
        )
        return removed
