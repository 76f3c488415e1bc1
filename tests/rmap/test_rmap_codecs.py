"""Names, keys, messages and lists of maps: golden vectors of the Go peer, and properties."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terzetto._shared._encoding import decode_text
from terzetto.errors import InvalidNameError, InvalidPayloadError
from terzetto.rmap import content_key, updates_channel
from terzetto.rmap._keys import encode_key, encode_text
from terzetto.rmap._lists import read_list
from terzetto.rmap._message import Message, Op, decode_message, decode_revision

# A busy machine is no fault of what is tested.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "pulse.json").read_text()
)


def raw(vector: dict[str, Any], field: str) -> bytes:
    return bytes.fromhex(vector[field])


def test_messages_read_and_write_as_go_does() -> None:
    assert len(VECTORS["map_message"]) > 10
    for vector in VECTORS["map_message"]:
        message = decode_message(raw(vector, "message"))
        assert message.op.value.decode() == vector["op"]
        assert message.revision == int(vector["rev"])
        assert message.key == bytes.fromhex(vector.get("key", ""))
        assert message.value == bytes.fromhex(vector.get("value", ""))
        assert message.encode() == raw(vector, "message")


def test_lists_are_read_as_go_reads_them() -> None:
    assert len(VECTORS["list_read_by_go"]) > 20
    for vector in VECTORS["list_read_by_go"]:
        stored = raw(vector, "stored")
        items = [bytes.fromhex(item) for item in vector["items"]]
        # Go replaces bytes that are not UTF-8, in JSON only; we keep them.
        ours = read_list(stored)
        if items != ours:
            ours = [item.decode("utf-8", "replace").encode() for item in ours]
        assert ours == items, vector["stored"]


def test_names_are_refused_as_go_refuses_them() -> None:
    assert len(VECTORS["name"]) > 20
    for vector in VECTORS["name"]:
        unit = decode_text(bytes.fromhex(vector.get("name", vector.get("unit", ""))))
        name = unit * vector.get("times", 1)
        if vector["valid"]:
            assert content_key(name) == f"map:{name}:content"
            assert updates_channel(name) == f"map:{name}:updates"
        else:
            with pytest.raises(InvalidNameError):
                content_key(name)
            with pytest.raises(InvalidNameError):
                updates_channel(name)


@pytest.mark.parametrize("key", ["", "=", "a=b", "=rev"])
def test_keys_that_no_map_holds_are_refused(key: str) -> None:
    with pytest.raises(InvalidNameError):
        encode_key(key)


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError):
        encode_key(b"bytes")  # type: ignore[arg-type] # on purpose  # pyright: ignore[reportArgumentType] - likewise
    with pytest.raises(InvalidPayloadError):
        encode_key("\ud800")


@patient
@given(st.binary())
def test_any_bytes_have_a_text_and_come_back(data: bytes) -> None:
    assert encode_text(decode_text(data)) == data


MESSAGES = st.one_of(
    st.builds(
        Message,
        op=st.just(Op.SET),
        key=st.binary(),
        value=st.binary(),
        revision=st.integers(0, 2**64 - 1),
    ),
    st.builds(Message, op=st.just(Op.DELETE), key=st.binary(), revision=st.integers(0, 2**64 - 1)),
    st.builds(
        Message, op=st.sampled_from([Op.RESET, Op.DESTROY]), revision=st.integers(0, 2**64 - 1)
    ),
)


@patient
@given(MESSAGES)
def test_messages_come_back(message: Message) -> None:
    assert decode_message(message.encode()) == message


@patient
@given(MESSAGES, st.binary(min_size=1))
def test_bytes_after_the_revision_are_not_looked_at(message: Message, rest: bytes) -> None:
    if message.op in {Op.SET, Op.DELETE}:
        assert decode_message(message.encode() + rest) == message


@patient
@given(MESSAGES, st.data())
def test_a_message_that_is_cut_is_refused(message: Message, data: st.DataObject) -> None:
    encoded = message.encode()
    if message.op in {Op.SET, Op.DELETE}:
        cut = data.draw(st.integers(0, len(encoded) - 1))
        with pytest.raises(InvalidPayloadError):
            decode_message(encoded[:cut])


@patient
@given(st.binary())
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        message = decode_message(data)
    except InvalidPayloadError:
        return
    assert 0 <= message.revision < 2**64


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"set",
        b"set:",
        b"SET:1",
        b"reset:",
        b"reset:*",
        b"reset:-1",
        b"reset:+1",
        b"reset: 1",
        b"reset:18446744073709551616",
        "reset:\N{ARABIC-INDIC DIGIT ONE}".encode(),
        b"set:\xff\xff\xff\xffk",
        b"del:\x01\x00\x00\x00k\x01\x00\x00\x00x",
        b"destroy:1e5",
    ],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidPayloadError):
        decode_message(data)


def test_a_revision_of_endless_digits_is_refused() -> None:
    with pytest.raises(InvalidPayloadError):
        decode_revision(b"1" * 100_000)


@patient
@given(st.lists(st.text()))
def test_what_json_writes_is_read(items: list[str]) -> None:
    stored = [item.encode() for item in items]
    assert read_list(json.dumps(items, ensure_ascii=False).encode()) == stored
    assert read_list(json.dumps(items, ensure_ascii=True).encode()) == stored


@patient
@given(st.binary())
def test_any_bytes_are_a_list(stored: bytes) -> None:
    assert isinstance(read_list(stored), list)


def test_a_list_of_deep_brackets_is_split_at_commas() -> None:
    deep = b"[" * 100_000 + b"," + b"]" * 100_000
    assert read_list(deep) == deep.split(b",")


def test_items_that_are_not_utf_8_come_back() -> None:
    assert read_list(b'["\xff\xfe","a"]') == [b"\xff\xfe", b"a"]
    assert read_list(b'["\xff"]') == [b"\xff"]
    assert read_list(rb'["\udcff"]') == ["�".encode()]
    assert read_list(rb'["\\ud800","\ud83d\ude80"]') == [rb"\ud800", "🚀".encode()]
