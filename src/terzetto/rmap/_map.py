"""Maps of text and of bytes: what they add to `TypedMap` are lists and, for text, counters.

A list is one value, a JSON array of strings; the scripts change it on the server, so
several processes can append to one list without losing items.
"""

from typing import Final, Generic, TypeVar

from redis.exceptions import ResponseError

from terzetto._shared._encoding import decode_text
from terzetto.errors import InvalidOptionError, InvalidPayloadError
from terzetto.redis import Reply
from terzetto.rmap import _scripts
from terzetto.rmap._keys import encode_key, encode_text
from terzetto.rmap._lists import read_list
from terzetto.rmap._typed import TypedMap

V = TypeVar("V", str, bytes)

_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**63 - 1

_NO_SUM: Final = {
    "hash value is not an integer": "its value is no integer",
    "increment or decrement would overflow": "the sum does not fit into 64 bits",
}


class TextCodec:
    """Values are text: UTF-8, where other bytes stand as surrogate escapes."""

    def encode(self, value: str, /) -> bytes:
        """Return the bytes of a text."""
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidPayloadError(
                f"a value of this map is a str, not {type(value).__name__}: "
                "write it as text, or join the map with a codec"
            )
        return encode_text(value)

    def decode(self, data: bytes, /) -> str:
        """Return the text of some bytes; any bytes have one."""
        return decode_text(data)


class BytesCodec:
    """Values are bytes, as they are stored."""

    def encode(self, value: bytes, /) -> bytes:
        """Return the bytes themselves."""
        if not isinstance(value, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidPayloadError(
                f"a value of this map is bytes, not {type(value).__name__}: encode it first"
            )
        return bytes(value)

    def decode(self, data: bytes, /) -> bytes:
        """Return the bytes themselves."""
        return data


TEXT: Final = TextCodec()
BYTES: Final = BytesCodec()
"""The codec of maps whose values are bytes."""


class _ListMap(TypedMap[V], Generic[V]):
    """The operations on lists, the same for text and bytes."""

    def get_values(self, key: str) -> list[V]:
        """Return the items of the list at `key`, empty if it is absent.

        A value that is no JSON array of strings is split at commas.
        """
        value = self._values.get(key)
        return [] if value is None else self._items(self._encode(value))

    async def append_values(self, key: str, *items: V) -> list[V]:
        """Append to the list at `key`; return the whole list. Without items, only return it."""
        reply = await self._run(_scripts.APPEND_VALUES, encode_key(key), *map(self._encode, items))
        return self._items(reply)

    async def append_unique_values(self, key: str, *items: V) -> list[V]:
        """Append those items that the list at `key` lacks, each once; return the whole list."""
        reply = await self._run(
            _scripts.APPEND_UNIQUE_VALUES, encode_key(key), *map(self._encode, items)
        )
        return self._items(reply)

    async def remove_values(self, key: str, *items: V) -> tuple[list[V], bool]:
        """Remove every occurrence of the items from the list at `key`.

        Returns what is left, and whether anything was removed. A list that is emptied
        goes, key and all.
        """
        stored, removed = await self._run(
            _scripts.REMOVE_VALUES, encode_key(key), *map(self._encode, items)
        )
        is_emptied = removed and not stored
        return [] if is_emptied else self._items(stored), bool(removed)

    def _items(self, stored: bytes | None) -> list[V]:
        return [] if stored is None else [self._codec.decode(item) for item in read_list(stored)]


class BytesMap(_ListMap[bytes]):
    """A replicated map of bytes; see `TypedMap`."""


class Map(_ListMap[str]):
    """A replicated map of text; see `TypedMap`.

    Values that are not UTF-8 come as surrogate escapes and go back unchanged.
    """

    async def increment(self, key: str, delta: int = 1) -> int:
        """Add to the integer at `key`, an absent one counting as 0; return the sum.

        Raises:
            InvalidOptionError: `delta` does not fit into 64 bits.
            TypeError: `delta` is no integer.
            redis.exceptions.ResponseError: the value is no integer, or the sum does not
                fit into 64 bits; nothing was changed.
        """
        if not isinstance(delta, int):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(f"delta is an integer, not {delta!r}")
        if not _MIN_INT <= delta <= _MAX_INT:
            raise InvalidOptionError(f"delta is {delta}: give an integer of 64 bits")
        reply: Reply
        try:
            reply = await self._run(_scripts.INCREMENT, encode_key(key), delta)
        except ResponseError as error:
            for text, why in _NO_SUM.items():
                if text in str(error):
                    raise ResponseError(
                        f"{key!r} of the map {self.name!r} cannot be incremented by {delta}: {why}"
                    ) from error
            raise
        return int(reply)
