"""Where keys land: on the workers where Go puts them, and nowhere else when one joins."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto.pool._ring import Member, key_hash, place

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "pulse.json").read_text(encoding="utf-8")
)["hash"]


@pytest.mark.parametrize("vector", VECTORS["vectors"])
def test_keys_land_where_go_puts_them(vector: dict[str, Any]) -> None:
    key = bytes.fromhex(vector["key"]).decode("utf-8", "surrogateescape")
    assert f"{key_hash(key):016x}" == vector["crc64"]
    for count, bucket in zip(VECTORS["buckets"], vector["bucket"], strict=True):
        ring = [Member(number, f"worker-{number}") for number in range(count)]
        assert place(key, ring) == f"worker-{bucket}"


def test_an_empty_ring_has_no_place() -> None:
    assert place("key", []) is None


def test_members_sort_by_creation_and_ties_by_id() -> None:
    ring = sorted([Member(2, "a"), Member(1, "c"), Member(1, "b")])
    assert [member.worker_id for member in ring] == ["b", "c", "a"]


@given(keys=st.sets(st.text(min_size=1, max_size=8), max_size=30), size=st.integers(1, 20))
def test_a_newcomer_takes_keys_and_no_others_move(keys: set[str], size: int) -> None:
    ring = [Member(number, f"w{number}") for number in range(size)]
    grown = [*ring, Member(size, "new")]
    for key in keys:
        assert place(key, grown) in {place(key, ring), "new"}
