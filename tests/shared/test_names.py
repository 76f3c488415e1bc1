"""Names of maps, streams, sinks and pools: golden vectors and the texts of refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from terzetto._shared._names import check_name
from terzetto.errors import InvalidNameError, TerzettoError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "pulse.json").read_text())


def _name_of(vector: dict[str, Any]) -> str:
    if "name" in vector:
        raw = bytes.fromhex(vector["name"])
    else:
        raw = bytes.fromhex(vector["unit"]) * vector["times"]
    return raw.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("vector", VECTORS["name"])
def test_a_name_is_valid_where_go_says_so(vector: dict[str, Any]) -> None:
    name = _name_of(vector)
    if vector["valid"]:
        assert check_name("map", name) == name
    else:
        with pytest.raises(InvalidNameError):
            check_name("map", name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "may not be empty"),
        ("a" * 481, "has 481 characters: shorten it to 480"),
        ("a b", "' ' at position 1"),
        ("jobs\0", r"'\\x00' at position 4"),
        ("job*", r"'\*' at position 3"),
        ("job\ud800", r"'\\ud800' at position 3"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(name: str, text: str) -> None:
    with pytest.raises(InvalidNameError, match=text) as refusal:
        check_name("pool", name, limit=480)
    assert isinstance(refusal.value, TerzettoError)
    assert "pool" in str(refusal.value)


def test_a_name_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not bytes"):
        check_name("map", b"config")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the point
