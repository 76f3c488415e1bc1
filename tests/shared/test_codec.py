"""The JSON codec: round trips, and what it says of values and bytes that do not fit."""

import sys

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto.codec import Codec, json_codec
from terzetto.errors import InvalidPayloadError, MissingExtraError


@attrs.frozen
class UserCreated:
    """An event of an application."""

    name: str
    age: int


WRONG = UserCreated(name="Ada", age="36")  # type: ignore[arg-type] # on purpose  # pyright: ignore[reportArgumentType] - likewise


@given(name=st.text(), age=st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_what_was_encoded_is_decoded(name: str, age: int) -> None:
    codec = json_codec(UserCreated)
    assert codec.decode(codec.encode(UserCreated(name, age))) == UserCreated(name, age)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"name": "Ada"}', b"\xff", b'{"name":1,"age":1}']
)
def test_bytes_that_do_not_fit_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidPayloadError, match="not the JSON of a UserCreated"):
        json_codec(UserCreated).decode(data)


def test_a_value_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidPayloadError, match="object cannot be written as JSON"):
        json_codec(object).encode(object())


@pytest.mark.parametrize(
    "value",
    ["b", WRONG, {"name": "Ada"}, None, float("nan")],
)
def test_a_value_that_could_not_be_read_again_is_refused(value: object) -> None:
    codec: Codec[object] = json_codec(UserCreated)
    with pytest.raises(InvalidPayloadError, match="cannot be read as UserCreated"):
        codec.encode(value)


@pytest.mark.parametrize("value", ["\ud800", {1: object()}, {(1, 2): 3}])
def test_no_value_makes_it_raise_anything_else(value: object) -> None:
    with pytest.raises(InvalidPayloadError):
        json_codec(object).encode(value)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'"\xff"', b"1e999", b"\0"])
def test_no_bytes_make_it_raise_anything_else(data: bytes) -> None:
    with pytest.raises(InvalidPayloadError):
        json_codec(int).decode(data)


def test_a_union_has_a_name_in_the_error() -> None:
    codec: Codec[int | str] = json_codec(int | str)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - type[T] has no unions yet
    assert codec.decode(b'"Ada"') == "Ada"
    with pytest.raises(InvalidPayloadError, match=r"not the JSON of a int \| str"):
        codec.decode(b"[]")


def test_without_msgspec_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(MissingExtraError, match="extra `json`"):
        json_codec(UserCreated)
