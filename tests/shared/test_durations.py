"""Go's durations: golden vectors, and the round trip."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto._shared._durations import format_duration, parse_duration

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "pulse.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["duration"], ids=lambda vector: vector["text"])
def test_a_duration_has_the_text_that_go_gives_it(vector: dict[str, str | int]) -> None:
    assert format_duration(int(vector["ns"])) == vector["text"]
    assert parse_duration(str(vector["text"])) == vector["ns"]


@pytest.mark.parametrize("vector", VECTORS["duration_parse"], ids=lambda vector: vector["hex"])
def test_a_text_is_read_as_go_reads_it(vector: dict[str, str | int | bool]) -> None:
    if vector["ok"]:
        assert parse_duration(str(vector["text"])) == vector["ns"]
    else:
        with pytest.raises(ValueError, match="duration"):
            parse_duration(str(vector["text"]))


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_what_was_written_is_read_back(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@given(st.text(alphabet="0123456789.-+hmsunµμ x", max_size=20))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        nanoseconds = parse_duration(text)
    except ValueError:
        return
    assert -(2**63) <= nanoseconds < 2**63
