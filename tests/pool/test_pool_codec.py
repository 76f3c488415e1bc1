"""What pools write into Redis, byte for byte as Go does, and bodies that are broken."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto.pool import MalformedBodyError
from terzetto.pool._codec import (
    Ack,
    Envelope,
    JobBody,
    decode_ack,
    decode_envelope,
    decode_job,
    decode_job_key,
    decode_notification,
    encode_ack,
    encode_envelope,
    encode_job,
    encode_job_key,
    encode_notification,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "pulse.json").read_text(encoding="utf-8")
)


def text(hexadecimal: str) -> str:
    return bytes.fromhex(hexadecimal).decode("utf-8", "surrogateescape")


def job_of(vector: dict[str, Any], *, requeued: bool) -> JobBody:
    return JobBody(
        key=text(vector["key"]),
        node_id=text(vector["node"]),
        payload=bytes.fromhex(vector["payload"]),
        created_ns=vector["created_ns"],
        requeued=requeued,
    )


@pytest.mark.parametrize("vector", VECTORS["job"])
def test_jobs_are_written_and_read_as_go_does(vector: dict[str, Any]) -> None:
    job = job_of(vector, requeued=vector["requeued"])
    assert encode_job(job).hex() == vector["encoded"]
    assert decode_job(bytes.fromhex(vector["encoded"])) == job


@pytest.mark.parametrize("vector", VECTORS["job_without_requeued"])
def test_jobs_of_older_peers_lack_the_last_byte(vector: dict[str, Any]) -> None:
    assert decode_job(bytes.fromhex(vector["encoded"])) == job_of(vector, requeued=False)


@pytest.mark.parametrize("vector", VECTORS["job_requeued_byte"])
def test_any_last_byte_but_zero_is_requeued(vector: dict[str, Any]) -> None:
    assert decode_job(bytes.fromhex(vector["encoded"])).requeued is vector["requeued"]


@pytest.mark.parametrize("vector", VECTORS["job_broken"])
def test_broken_jobs_are_refused(vector: dict[str, Any]) -> None:
    body = bytes.fromhex(vector["encoded"])
    whole = b"\x03\0\0\0key\x04\0\0\0node\x07\0\0\0payload"
    if vector["go_decodes"] or (body[:-8] == whole and len(body) == len(whole) + 8):
        decode_job(body)
    else:
        with pytest.raises(MalformedBodyError):
            decode_job(body)


def test_bodies_without_a_job_are_written_and_read_as_go_does() -> None:
    for vector in VECTORS["job_key"]:
        encoded = bytes.fromhex(vector["encoded"])
        assert encode_job_key(text(vector["key"])) == encoded
        assert decode_job_key(encoded) == text(vector["key"])
    for vector in VECTORS["notification"]:
        encoded, payload = bytes.fromhex(vector["encoded"]), bytes.fromhex(vector["payload"])
        assert encode_notification(text(vector["key"]), payload) == encoded
        assert decode_notification(encoded) == (text(vector["key"]), payload)
    for vector in VECTORS["envelope"]:
        encoded, body = bytes.fromhex(vector["encoded"]), bytes.fromhex(vector["body"])
        assert encode_envelope(text(vector["sender"]), body) == encoded
        assert decode_envelope(encoded) == Envelope(text(vector["sender"]), body)
    for vector in VECTORS["ack"]:
        encoded = bytes.fromhex(vector["encoded"])
        ack = Ack(text(vector["event_id"]), text(vector["error"]))
        assert encode_ack(ack) == encoded
        assert decode_ack(encoded) == ack


@pytest.mark.parametrize(
    "decode", [decode_job, decode_job_key, decode_notification, decode_envelope, decode_ack]
)
@given(body=st.binary(max_size=60))
def test_made_up_bytes_are_refused_by_one_error_only(decode: Any, body: bytes) -> None:  # noqa: ANN401 - five types
    with contextlib.suppress(MalformedBodyError):
        decode(body)


@given(
    job=st.builds(
        JobBody,
        key=st.text(max_size=20),
        node_id=st.text(max_size=26),
        payload=st.binary(max_size=200),
        created_ns=st.integers(-(2**63), 2**63 - 1),
        requeued=st.booleans(),
    ),
    cut=st.integers(1, 400),
)
def test_a_cut_job_never_passes_for_another(job: JobBody, cut: int) -> None:
    encoded = encode_job(job)
    assert decode_job(encoded) == job
    short = encoded[:-cut]
    try:
        read = decode_job(short)
    except MalformedBodyError:
        return
    assert cut == 1
    assert (read.key, read.payload, read.requeued) == (job.key, job.payload, False)
