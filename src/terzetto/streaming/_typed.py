"""Streams of values: a codec between what an application handles and the payload's bytes.

No state. `Stream.typed` makes one; readers and sinks stay those of the stream,
and give events, whose payload `decode` turns into a value.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from terzetto._shared._functions import is_async
from terzetto.codec import Codec
from terzetto.errors import InvalidPayloadError
from terzetto.streaming._event import Event, parts_of

if TYPE_CHECKING:
    from terzetto.streaming._stream import Stream

T = TypeVar("T")

Handler: TypeAlias = Callable[[Event], Awaitable[object]]
"""Deals with one event; when it raises, the event comes again."""


def check_handler(handler: object) -> None:
    """Refuse what would fail with each event.

    Raises:
        TypeError: it is no async function.
    """
    if not is_async(handler):
        raise TypeError(f"a handler is an async function, not {handler!r:.200}")


class UnreadablePayloadError(InvalidPayloadError):
    """An event's payload is no value of the stream's type, now or the next time.

    A sink's `process` and `handle` move the event to the dead letters at once.
    """


class TypedStream(Generic[T]):
    """A stream whose payloads stand for values of one type; made by `Stream.typed`."""

    def __init__(self, stream: "Stream", codec: Codec[T]) -> None:
        self.stream = stream
        self.codec = codec

    def __repr__(self) -> str:
        return f"<TypedStream {self.stream.name!r}>"

    async def add(
        self, name: str, value: T, *, topic: str | None = None, only_if_exists: bool = False
    ) -> str | None:
        """Add an event with `value` for its payload; otherwise as `Stream.add`.

        Raises:
            InvalidPayloadError: the codec cannot write the value; nothing was added.
        """
        payload = self.codec.encode(value)
        return await self.stream.add(name, payload, topic=topic, only_if_exists=only_if_exists)

    async def add_many(
        self,
        events: Iterable[tuple[str, T] | tuple[str, T, str | None]],
        *,
        only_if_exists: bool = False,
    ) -> list[str | None]:
        """Add events of a name, a value and, if they have one, a topic, as `Stream.add_many`.

        Raises:
            InvalidPayloadError: the codec cannot write a value; nothing was added.
            TypeError: an event is no such tuple; nothing was added.
        """
        encoded = [
            (name, self.codec.encode(value), topic) for name, value, topic in map(parts_of, events)
        ]
        return await self.stream.add_many(encoded, only_if_exists=only_if_exists)

    def decode(self, event: Event) -> T:
        """Return the value of an event.

        Raises:
            UnreadablePayloadError: its payload is none; the cause is the codec's error.
        """
        try:
            return self.codec.decode(event.payload)
        except InvalidPayloadError as error:
            raise UnreadablePayloadError(
                f"the payload of {event.id} cannot be read: {error}"
            ) from error

    def handler(self, function: Callable[[Event, T], Awaitable[object]]) -> Handler:
        """Return a handler for `Sink.handle` that gives `function` the event and its value.

        An event without a readable value is a dead letter at once.

        Raises:
            TypeError: `function` is no async one.
        """
        check_handler(function)

        async def handle(event: Event) -> None:
            await function(event, self.decode(event))

        return handle
