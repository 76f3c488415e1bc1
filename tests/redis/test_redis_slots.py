"""Slots and the keys of commands, without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from terzetto.redis import Arg, Reply, UrlError
from terzetto.redis._link import Link
from terzetto.redis._slots import SLOTS, KeyRule, fixed_place, keys_of, parse_slots, slot_of
from terzetto.redis._topology import Owners
from terzetto.redis._url import Endpoint, Group, Options, parse_group

RULES = {
    "GET": KeyRule(1, 1, 1),
    "SET": KeyRule(1, 1, 1),
    "MSET": KeyRule(1, -1, 2),
    "DEL": KeyRule(1, -1, 1),
    "BLPOP": KeyRule(1, -2, 1),
    "PING": KeyRule(0, 0, 0),
    "OBJECT": KeyRule(0, 0, 0),
    "OBJECT|ENCODING": KeyRule(2, 2, 1),
    "EVAL": KeyRule(0, 0, 0),
}


@given(st.binary())
def test_slots_are_those_of_redis_py(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


def test_slots_of_tags_and_other_types() -> None:
    assert slot_of("{a}x") == slot_of("{a}y") == slot_of("a") == slot_of(b"a")
    assert slot_of("{}a") != slot_of("")
    assert slot_of(12) == slot_of("12")


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (("GET", "k"), ["k"]),
        ((b"get", "k"), ["k"]),
        (("MSET", "a", 1, "b", 2), ["a", "b"]),
        (("DEL", "a", "b"), ["a", "b"]),
        (("BLPOP", "a", "b", 0), ["a", "b"]),
        (("PING",), []),
        (("OBJECT", "ENCODING", "k"), ["k"]),
        (("EVAL", "return 1", 2, "a", "b", "arg"), ["a", "b"]),
        (("EVAL", "return 1", "x"), []),
        (("XREAD", "COUNT", 1, "STREAMS", "a", "b", 0, 0), ["a", "b"]),
        (("XREAD", bytearray(b"streams"), "a", 0), ["a"]),
        (("XREADGROUP", "GROUP", "g", "c", "streams", "a", ">"), ["a"]),
        (("ZUNIONSTORE", "d", 2, "a", "b", "WEIGHTS", 1, 2), ["d", "a", "b"]),
        (("ZUNION", 2, "a", "b"), ["a", "b"]),
        (("LMPOP", 2, "a", "b", "LEFT"), ["a", "b"]),
        (("BLMPOP", 0, 2, "a", "b", "LEFT"), ["a", "b"]),
        (("SORT", "a", "BY", "x*", "STORE", "b"), ["a", "b"]),
        (("SORT", "a"), ["a"]),
        (("NO.SUCH", "a"), []),
    ],
)
def test_the_keys_of_a_command(args: tuple[Arg, ...], keys: list[Arg]) -> None:
    assert keys_of(args, RULES) == keys


def test_the_place_of_the_only_key() -> None:
    assert fixed_place("get", RULES) == 1
    assert [fixed_place(name, RULES) for name in ("DEL", "PING", "EVAL", "NO.SUCH")] == [0] * 4


async def test_owners_are_remembered_for_text_and_within_bounds() -> None:
    one, other = (Link(Options(), name) for name in ("one", "other"))
    slots: list[Link | None] = [None] * SLOTS
    owners = Owners(slots)
    with pytest.raises(KeyError):
        owners["a"]
    slots[slot_of("a")] = one
    slots[slot_of(1)], slots[slot_of(1.0)] = one, other
    assert owners["a"] is owners[b"a"] is owners[1] is one
    assert owners[1.0] is other  # equal to 1, and another key on the server
    assert set(owners) == {"a", b"a"}
    slots[:] = [other] * SLOTS
    assert owners["a"] is one  # until it is cleared
    for number in range(30_000):
        assert owners[f"key {number}"] is other
        assert len(owners) <= 10_000
    assert owners["x" * 1000] is other
    assert "x" * 1000 not in owners


def test_a_server_that_does_not_know_its_name_is_the_one_that_was_asked() -> None:
    asked = Endpoint(host="10.0.0.1", port=7000)
    reply: Reply = [
        [0, 100, [b"10.0.0.2", 7001, b"id", []], [b"10.0.0.3", 7002, b"id", []]],
        [101, 200, [None, 7003, b"id", []]],
        [201, 300, [b"2001:db8::1", 7004, b"id", []]],
    ]
    assert parse_slots(reply, asked) == [
        (0, 100, Endpoint(host="10.0.0.2", port=7001), (Endpoint(host="10.0.0.3", port=7002),)),
        (101, 200, Endpoint(host="10.0.0.1", port=7003), ()),
        (201, 300, Endpoint(host="2001:db8::1", port=7004), ()),
    ]


def test_urls_with_several_hosts() -> None:
    group = parse_group("redis-cluster://u:p@a:1,[::1]:2,c?max_backoff=1", 6379)
    assert group == Group(
        scheme="redis-cluster",
        hosts=(Endpoint(host="a", port=1), Endpoint(host="::1", port=2), Endpoint(host="c")),
        service="",
        options={"username": "u", "password": "p", "max_backoff": 1.0},
    )
    assert group.source == "redis-cluster://a:1,[::1]:2,c:6379"
    assert all(host.tls for host in parse_group("rediss-sentinel://a,b/s", 1).hosts)
    with pytest.raises(UrlError):
        parse_group("redis-cluster://", 6379)
