"""Dead letters: jobs that were accepted, could not go on, and are kept to be looked at.

Pure. A letter is stored as an envelope: the error's text for the sender, the
job's body within.
"""

from datetime import datetime

import attrs

from terzetto.pool._codec import (
    JobBody,
    decode_envelope,
    decode_job,
    encode_envelope,
    encode_job,
)
from terzetto.pool._errors import MalformedBodyError
from terzetto.pool._job import created_at


@attrs.frozen
class DeadLetter:
    """A job that was given up.

    Attributes:
        key: what the job was called.
        payload: what it was given.
        created_at: when it was dispatched, or sent again the last time.
        node_id: the node that did.
        error: the crash, as ``"TypeName: text"``.
    """

    key: str
    payload: bytes
    created_at: datetime
    node_id: str
    error: str


def encode_letter(job: JobBody, error: str) -> bytes:
    """Return what is stored for a job that was given up."""
    return encode_envelope(error, encode_job(job))


def decode_letter(key: str, data: bytes) -> DeadLetter:
    """Read a letter; one that somebody else wrote over comes out as its bytes."""
    try:
        envelope = decode_envelope(data)
        job = decode_job(envelope.body)
    except MalformedBodyError as error:
        return DeadLetter(key, data, created_at(0), "", f"MalformedBodyError: {error}")
    return DeadLetter(key, job.payload, created_at(job.created_ns), job.node_id, envelope.sender)
