"""Events, and how an entry of a Redis stream becomes one.

Pure. An entry has the fields ``n`` (name), ``p`` (payload) and, when there is a
topic, ``t``. Whatever else stands in an entry is left alone, and an entry
without ``n`` or ``p`` is poison: it comes out as a value, never as an error, so
that no writer can stop a loop of ours.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast

import attrs

from terzetto._shared._encoding import decode_text, encode_text
from terzetto.codec import Codec
from terzetto.errors import InvalidNameError
from terzetto.streaming._positions import created_at

T = TypeVar("T")

NAME: Final = b"n"
PAYLOAD: Final = b"p"
TOPIC: Final = b"t"

Fields: TypeAlias = Sequence[bytes]
"""An entry's fields as Redis sends them: name, value, name, value…"""

Entry: TypeAlias = tuple[bytes, Fields | None]
"""An entry as Redis sends it: its id and its fields, None if it was deleted while pending."""

NewEvent: TypeAlias = tuple[str, bytes] | tuple[str, bytes, str | None]
"""An event to add: its name, its payload and, if it has one, its topic."""


class Event(NamedTuple):
    """One entry of a stream.

    It is a tuple, as making one is most of what a reader spends on an event, and a
    tuple is made in a fraction of the time of any other object that cannot be changed.
    Use it by its attributes.

    Attributes:
        id: the server's id, ``<unix ms>-<sequence>``; ids of one stream rise.
        stream: the name of the stream it came from.
        name: what happened, such as ``"user.created"``. Bytes that are not
            UTF-8 are there as surrogate escapes; likewise in the topic.
        payload: the body, as it was added.
        topic: what it is about; ``""`` if it has none.
        sink: the name of the sink it came through; ``""`` from a reader.
        deliveries: how many times it has been delivered to an instance of the
            sink, this time included; 1 from a reader.
    """

    id: str
    stream: str
    name: str
    payload: bytes
    topic: str = ""
    sink: str = ""
    deliveries: int = 1

    @property
    def created_at(self) -> datetime:
        """When it was added, by the server's clock, in UTC, to the millisecond."""
        return created_at(self.id)

    def decode(self, codec: Codec[T]) -> T:
        """Return the value that the payload stands for.

        Raises:
            InvalidPayloadError: the payload is none that `codec` reads.
        """
        return codec.decode(self.payload)


@attrs.frozen(kw_only=True)
class Poison:
    """An entry that is no event, because a field is missing.

    Attributes:
        id: the entry's id.
        stream: the name of the stream.
        fields: its fields as they are in Redis, flat.
        why: what is wrong with it.
        deliveries: as for `Event`.
    """

    id: str
    stream: str
    fields: tuple[bytes, ...]
    why: str
    deliveries: int = 1


def decode_entry(
    stream: str, entry_id: bytes, fields: Fields | None, *, sink: str = "", deliveries: int = 1
) -> Event | Poison:
    """Return the event of an entry, or the poison that it is.

    Of a field that stands there twice the last one counts, as for Go peers.
    `fields` is None for an entry that was deleted while it was pending.
    """
    name = payload = topic = None
    flat = fields or ()
    for index in range(0, len(flat) - 1, 2):
        field = flat[index]
        if field == NAME:
            name = flat[index + 1]
        elif field == PAYLOAD:
            payload = flat[index + 1]
        elif field == TOPIC:
            topic = flat[index + 1]
    if name is None or payload is None:
        missing = " and ".join(
            repr(decode_text(field))
            for field, value in ((NAME, name), (PAYLOAD, payload))
            if value is None
        )
        return Poison(
            id=entry_id.decode("ascii"),
            stream=stream,
            fields=tuple(flat),
            why=f"the entry has no field {missing}",
            deliveries=deliveries,
        )
    return Event(
        id=entry_id.decode("ascii"),
        stream=stream,
        name=decode_text(name),
        payload=payload,
        topic="" if topic is None else decode_text(topic),
        sink=sink,
        deliveries=deliveries,
    )


# What Event(...) comes down to, without its handling of keywords and defaults.
_new: Final[Any] = cast("Any", tuple).__new__


_PLAIN: Final = 4  # parts of an entry with name and payload
_WITH_TOPIC: Final = 6


class _Texts(dict[bytes, str]):
    """The texts of names and topics, which are few and come again and again."""

    def __missing__(self, data: bytes) -> str:
        self[data] = text = decode_text(data)
        return text


def decode_entries(
    stream: str, entries: list[Entry], *, sink: str = ""
) -> tuple[list[Event], list[Poison]]:
    """Return the events and the poison of entries that are delivered for the first time.

    `entries` is empty afterwards: each entry goes as its event comes, or they would
    all be there together for the garbage collector to go through. What is written as
    we and our peers write it takes the short way; this loop is most of what a reader
    spends on an event.
    """
    events: list[Event] = []
    poison: list[Poison] = []
    texts, new = _Texts(), _new
    entries.reverse()
    take = entries.pop
    while entries:
        entry_id, fields = take()
        flat = fields or []
        size = len(flat)
        if size == _PLAIN:
            n, name, p, payload = flat
            if n == b"n" and p == b"p":
                parts = (entry_id.decode(), stream, texts[name], payload, "", sink, 1)
                events.append(new(Event, parts))
                continue
        elif size == _WITH_TOPIC:
            n, name, p, payload, t, topic = flat
            if n == b"n" and p == b"p" and t == b"t":
                parts = (entry_id.decode(), stream, texts[name], payload, texts[topic], sink, 1)
                events.append(new(Event, parts))
                continue
        found = decode_entry(stream, entry_id, fields, sink=sink)
        if isinstance(found, Event):
            events.append(found)
        else:
            poison.append(found)
    return events, poison


def parts_of(event: tuple[str, T] | tuple[str, T, str | None]) -> tuple[str, T, str | None]:
    """Return name, payload (or value) and topic of an event to add; the topic may be left out.

    Raises:
        TypeError: it is no tuple of two or three.
    """
    match event:
        case (name, payload):
            return name, payload, None
        case (name, payload, topic):
            return name, payload, topic
        case _:  # pyright: ignore[reportUnnecessaryComparison] - callers may be untyped
            raise TypeError(
                "an event to add is a tuple of name, payload and, if it has one, topic; "
                f"not a {type(event).__name__} of another form"
            )


def encode_entry(name: str, payload: bytes, topic: str | None) -> list[bytes]:
    """Return the fields of an entry, flat; the topic's is left out when there is none.

    Raises:
        InvalidNameError: name or topic has a surrogate that stands for no byte.
    """
    try:
        fields = [NAME, encode_text(name), PAYLOAD, payload]
        if topic:
            fields += (TOPIC, encode_text(topic))
    except UnicodeEncodeError as error:
        text: str = error.object
        raise InvalidNameError(
            f"an event's name or topic has {text[error.start]!r} at position {error.start}: "
            "leave out surrogates that stand for no byte"
        ) from error
    return fields
