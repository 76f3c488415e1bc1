"""Codecs: how a payload's bytes become values and go back.

The wire carries bytes. A component that is given a codec encodes what it sends
and decodes what it receives; without one it deals in bytes. Codecs are pure,
hold no state, and may be shared by any number of components.
"""

from typing import Protocol, TypeVar

from terzetto.errors import InvalidPayloadError, MissingExtraError

__all__ = ["Codec", "json_codec"]

T = TypeVar("T")


class Codec(Protocol[T]):
    """Turns values of one type into bytes and back.

    Both methods raise `InvalidPayloadError` for what they cannot turn.
    """

    def encode(self, value: T, /) -> bytes:
        """Return the bytes that stand for `value`."""
        ...

    def decode(self, data: bytes, /) -> T:
        """Return the value that `data` stands for."""
        ...


def json_codec(cls: type[T]) -> Codec[T]:
    """Return a codec between JSON and `cls`: an attrs class, a dataclass or a built-in type.

    It needs the extra `json` (msgspec) and checks every field's type, on decoding and on
    encoding, so that nothing is written that cannot be read again. `json_codec(object)`
    takes whatever JSON can hold.

    Raises:
        MissingExtraError: msgspec is not installed.
    """
    try:
        import msgspec  # noqa: PLC0415 - an optional extra, asked for only by who uses it
    except ImportError as error:
        raise MissingExtraError(
            "json_codec needs msgspec: install terzetto with its extra `json`"
        ) from error

    encoder = msgspec.json.Encoder()
    decoder = msgspec.json.Decoder(cls)
    name = getattr(cls, "__name__", str(cls))  # a union has none
    refusals = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)

    class JsonCodec:
        def encode(self, value: T, /) -> bytes:
            try:
                data = encoder.encode(value)
            except refusals as error:
                raise InvalidPayloadError(
                    f"a {type(value).__name__} cannot be written as JSON: {error}"
                ) from error
            if cls is not object:
                try:
                    decoder.decode(data)
                except refusals as error:
                    raise InvalidPayloadError(
                        f"a {type(value).__name__} was given that cannot be read as {name}: {error}"
                    ) from error
            return data

        def decode(self, data: bytes, /) -> T:
            try:
                return decoder.decode(data)
            except refusals as error:
                raise InvalidPayloadError(
                    f"{len(data)} bytes are not the JSON of a {name}: {error}"
                ) from error

    return JsonCodec()
