"""The bodies of a pool's events: jobs, job keys, notifications, envelopes, acks.

Pure. All integers are little-endian; ``str`` on the wire is a signed 32-bit
length and that many bytes. Whatever comes from a stream may be cut short or
made up, so decoding raises `MalformedBodyError` and nothing else. Bytes after
a body are ignored, as peers do.

Keys are text on our side: bytes that are not UTF-8 come in as surrogate
escapes, so that they can be told apart, routed, and refused by name.
"""

import re
import struct
from typing import Final

import attrs

from terzetto._shared._encoding import decode_text, encode_text
from terzetto.pool._errors import MalformedBodyError

EVENT_ID: Final = re.compile("[0-9]{1,20}-[0-9]{1,20}")

_LENGTH = struct.Struct("<i")
_CREATED = struct.Struct("<q")
_MAX_LENGTH = 2**31 - 1


@attrs.define  # not frozen: one is made for every dispatch
class JobBody:
    """A job as it travels: what to run, who asked for it, and when (Unix ns).

    `event_id` is the pool's event that brought it, where that is known; it is not in the body.
    """

    key: str
    node_id: str
    payload: bytes
    created_ns: int
    requeued: bool = False
    event_id: str = ""

    def brought_by(self, event_id: str) -> "JobBody":
        """Return the same job with the event that brought it."""
        return JobBody(
            self.key, self.node_id, self.payload, self.created_ns, self.requeued, event_id
        )


@attrs.frozen
class Ack:
    """An answer to one event; an empty error is success."""

    event_id: str
    error: str = ""


@attrs.frozen
class Told:
    """A start that was read for a node: for which of its workers, and if that one owns the job."""

    event_id: str
    worker_id: str
    is_owned: bool
    body: bytes


@attrs.frozen
class Envelope:
    """Who sent the body, so that the answer finds its way back."""

    sender: str
    body: bytes


def _pack(data: bytes) -> bytes:
    if len(data) > _MAX_LENGTH:
        raise MalformedBodyError(f"{len(data)} bytes are more than the wire's 32-bit length holds")
    return _LENGTH.pack(len(data)) + data


_EMPTY: Final = _pack(b"")


def _unpack(data: bytes, start: int, what: str) -> tuple[bytes, int]:
    if start + 4 > len(data):
        raise MalformedBodyError(f"the length of the {what} is cut short at byte {start}")
    (length,) = _LENGTH.unpack_from(data, start)
    if length < 0:
        raise MalformedBodyError(f"the length of the {what} is negative: {length}")
    end = start + 4 + length
    if end > len(data):
        raise MalformedBodyError(
            f"the {what} should have {length} bytes but only {len(data) - start - 4} are left"
        )
    return data[start + 4 : end], end


def encode_job(job: JobBody) -> bytes:
    """Return the body of a start event."""
    return b"".join(
        (
            _pack(encode_text(job.key)),
            _pack(encode_text(job.node_id)),
            _pack(job.payload),
            _CREATED.pack(job.created_ns),
            b"\x01" if job.requeued else b"\x00",
        )
    )


def decode_job(data: bytes, event_id: str = "") -> JobBody:
    """Read the body of a start event, of which the id may be known.

    A missing last byte (peers of v1.6.4) is "not requeued"; a payload of
    negative length is none, as Go reads it.
    """
    key, position = _unpack(data, 0, "job's key")
    node_id, position = _unpack(data, position, "job's node")
    if data[position + 3 : position + 4] >= b"\x80":
        payload, position = b"", position + 4
    else:
        payload, position = _unpack(data, position, "job's payload")
    if position + 8 > len(data):
        raise MalformedBodyError("the job's creation time is cut short")
    (created_ns,) = _CREATED.unpack_from(data, position)
    requeued = data[position + 8 : position + 9]
    return JobBody(
        key=decode_text(key),
        node_id=decode_text(node_id),
        payload=payload,
        created_ns=created_ns,
        requeued=requeued not in {b"", b"\x00"},
        event_id=event_id,
    )


def encode_job_key(key: str) -> bytes:
    """Return the body of a stop event."""
    return _pack(encode_text(key))


def decode_job_key(data: bytes) -> str:
    """Read the key, which is the first thing in every body on the pool's stream."""
    return decode_text(_unpack(data, 0, "job's key")[0])


def encode_notification(key: str, payload: bytes) -> bytes:
    """Return the body of a notification."""
    return _pack(encode_text(key)) + _pack(payload)


def decode_notification(data: bytes) -> tuple[str, bytes]:
    """Read a notification: the job's key and the payload."""
    key, position = _unpack(data, 0, "job's key")
    payload, _ = _unpack(data, position, "notification's payload")
    return decode_text(key), payload


def encode_envelope(sender: str, body: bytes) -> bytes:
    """Return `body` wrapped with its sender's id."""
    return _pack(encode_text(sender)) + _pack(body)


def decode_envelope(data: bytes) -> Envelope:
    """Read an envelope."""
    sender, position = _unpack(data, 0, "sender")
    body, _ = _unpack(data, position, "envelope's body")
    return Envelope(decode_text(sender), body)


def decode_told(data: bytes) -> Told:
    """Read what `lua/claim.lua` tells a node of a start that it read for that node."""
    event_id, position = _unpack(data, 0, "event's id")
    worker_id, position = _unpack(data, position, "worker's id")
    is_owned, body = data[position : position + 1], data[position + 1 :]
    event_name = decode_text(event_id)
    if not EVENT_ID.fullmatch(event_name):
        raise MalformedBodyError(f"{event_id[:80]!r} is no event's id")
    return Told(event_name, decode_text(worker_id), is_owned == b"\x01", body)


def encode_ack(ack: Ack) -> bytes:
    """Return the body of an ack or of a dispatch's return."""
    error = _pack(encode_text(ack.error)) if ack.error else _EMPTY
    return _pack(encode_text(ack.event_id)) + error


def decode_ack(data: bytes) -> Ack:
    """Read an ack."""
    event_id, position = _unpack(data, 0, "event's id")
    error, _ = _unpack(data, position, "error")
    return Ack(decode_text(event_id), decode_text(error))
