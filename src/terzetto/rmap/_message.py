"""The messages that a map's writers publish and its replicas apply. Pure.

A message is ``<op>:<body>``. `set` and `del` carry strings, each behind its
length as a signed 32-bit little-endian number, and the revision as the last of
them; `reset` and `destroy` carry the bare revision. Bytes after the revision of
`set` and `del` are ignored, as the Go replicas do. The scripts in ``lua/``
write these messages in production; `encode` is their reference in tests.

Called by `_replica`.
"""

import struct
from enum import Enum

import attrs

from terzetto.errors import InvalidPayloadError

_MAX_REVISION = 2**64 - 1
_LENGTH = struct.Struct("<i")
_LENGTH_SIZE = _LENGTH.size
_unpack_length = _LENGTH.unpack_from


class Op(Enum):
    """What a committed change did; the value is its name on the wire."""

    SET = b"set"
    DELETE = b"del"
    RESET = b"reset"
    DESTROY = b"destroy"


_SET = Op.SET  # an enum's members are looked up by Python code, and messages are many
_BARE = {b"reset": Op.RESET, b"destroy": Op.DESTROY}


@attrs.define  # neither frozen nor by keyword: one is made for every change of every map
class Message:
    """One committed change: `key` is empty for RESET and DESTROY, `value` for all but SET."""

    op: Op
    revision: int
    key: bytes = b""
    value: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes that are published for this change."""
        name: bytes = self.op.value
        revision = b"%d" % self.revision
        if self.op is Op.RESET or self.op is Op.DESTROY:
            return name + b":" + revision
        parts = (self.key, self.value, revision) if self.op is Op.SET else (self.key, revision)
        return name + b":" + b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def decode_message(data: bytes) -> Message:
    """Return the change that `data` announces.

    Raises:
        InvalidPayloadError: the operation is unknown, the body is cut short, or the
            revision is not an unsigned 64-bit number in decimal digits.
    """
    start = data[:4]
    if start == b"set:":
        try:  # most are of this kind, and whole: without a call for each part
            (key_size,) = _unpack_length(data, 4)
            value_start = 8 + key_size + _LENGTH_SIZE
            (value_size,) = _unpack_length(data, 8 + key_size)
            end = value_start + value_size
            (size,) = _unpack_length(data, end)
            revision = data[end + _LENGTH_SIZE : end + _LENGTH_SIZE + size]
            if key_size >= 0 and value_size >= 0 and 0 < size == len(revision):
                return Message(
                    _SET,
                    decode_revision(revision),
                    data[8 : 8 + key_size],
                    data[value_start:end],
                )
        except struct.error:
            pass  # below it is said what is wrong
        key, offset = _string(data, 4)
        value, offset = _string(data, offset)
        revision, _ = _string(data, offset)
        return Message(op=Op.SET, key=key, value=value, revision=decode_revision(revision))
    if start == b"del:":
        key, offset = _string(data, 4)
        revision, _ = _string(data, offset)
        return Message(op=Op.DELETE, key=key, revision=decode_revision(revision))
    name, _, body = data.partition(b":")
    op = _BARE.get(name)
    if op is None:
        raise InvalidPayloadError(f"unknown operation {name[:20]!r} in a message of a map")
    return Message(op=op, revision=decode_revision(body))


def decode_revision(text: bytes) -> int:
    """Return the revision that `text` spells.

    Raises:
        InvalidPayloadError: it is not an unsigned 64-bit number in decimal digits.
    """
    if text.isdigit() and len(text) <= 40:  # noqa: PLR2004 - leading zeros are fine, endless digits not
        revision = int(text)
        if revision <= _MAX_REVISION:
            return revision
    raise InvalidPayloadError(f"{text[:40]!r} is not the revision of a map")


def _string(data: bytes, offset: int) -> tuple[bytes, int]:
    """Return the string at `offset`, and the offset behind it."""
    start = offset + _LENGTH_SIZE
    try:
        (length,) = _unpack_length(data, offset)
    except struct.error:
        raise InvalidPayloadError(
            f"a message of a map ends within a length, at byte {offset}"
        ) from None
    end: int = start + length
    if length < 0 or end > len(data):
        raise InvalidPayloadError(f"a message of a map has a length of {length} at byte {offset}")
    return data[start:end], end
