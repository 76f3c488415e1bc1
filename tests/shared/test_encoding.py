"""Bytes as text, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto._shared._encoding import decode_text, encode_text


@given(data=st.binary())
def test_any_bytes_come_back_from_their_text(data: bytes) -> None:
    assert encode_text(decode_text(data)) == data


@given(text=st.text())
def test_text_is_utf_8(text: str) -> None:
    assert encode_text(text) == text.encode()
    assert decode_text(text.encode()) == text


def test_bytes_that_are_not_utf_8_are_surrogate_escapes() -> None:
    assert decode_text(b"caf\xe9") == "caf\udce9"


def test_a_surrogate_that_stands_for_no_byte_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_text("\ud800")
