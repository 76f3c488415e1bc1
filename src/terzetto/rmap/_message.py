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


class Op(Enum):
    """What a committed change did; the value is its name on the wire."""

    SET = b"set"
    DELETE = b"del"
    RESET = b"reset"
    DESTROY = b"destroy"


_OPS = {op.value: op for op in Op}


@attrs.frozen(kw_only=True)
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
        if self.op in {Op.RESET, Op.DESTROY}:
            return name + b":" + revision
        parts = (self.key, self.value, revision) if self.op is Op.SET else (self.key, revision)
        return name + b":" + b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def decode_message(data: bytes) -> Message:
    """Return the change that `data` announces.

    Raises:
        InvalidPayloadError: the operation is unknown, the body is cut short, or the
            revision is not an unsigned 64-bit number in decimal digits.
    """
    name, _, body = data.partition(b":")
    op = _OPS.get(name)
    if op is None:
        raise InvalidPayloadError(f"unknown operation {name[:20]!r} in a message of a map")
    if op in {Op.RESET, Op.DESTROY}:
        return Message(op=op, revision=decode_revision(body))
    key, offset = _string(body, 0)
    value = b""
    if op is Op.SET:
        value, offset = _string(body, offset)
    revision, _ = _string(body, offset)
    return Message(op=op, key=key, value=value, revision=decode_revision(revision))


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


def _string(body: bytes, offset: int) -> tuple[bytes, int]:
    start = offset + _LENGTH.size
    if start > len(body):
        raise InvalidPayloadError(f"a message of a map ends within a length, at byte {offset}")
    (length,) = _LENGTH.unpack_from(body, offset)
    end = start + length
    if length < 0 or end > len(body):
        raise InvalidPayloadError(f"a message of a map has a length of {length} at byte {offset}")
    return body[start:end], end
