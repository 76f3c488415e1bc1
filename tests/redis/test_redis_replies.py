"""Parsing of replies, against an independent writer of RESP; and what is no reply, or too much."""

from collections import Counter
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from terzetto.redis import Reply, ReplyError
from terzetto.redis._reader import ReplyReader
from terzetto.redis._wire import NEED_MORE, Push

LIMIT: Final = 600 * 1024 * 1024

Pair = tuple[bytes, Reply]  # what a server writes, and what a caller gets


def parse(*pieces: bytes, limit: int = LIMIT) -> list[Reply]:
    """Return the replies in what comes in pieces."""
    reader = ReplyReader(limit)
    got: list[Reply] = []
    for piece in pieces:
        buffer = bytearray(piece + b"*99999999\r\n|1\r\n")  # what an earlier read left there
        reader.feed(buffer, len(piece))
        while (reply := reader.take()) is not NEED_MORE:
            got.append(reply)
    return got


def cut(data: bytes, step: int) -> list[bytes]:
    return [data[start : start + step] for start in range(0, len(data), step)]


def bulk(kind: bytes, data: bytes) -> bytes:
    return b"%s%d\r\n%s\r\n" % (kind, len(data), data)


def many(kind: bytes, inner: list[Pair]) -> Pair:
    body = b"".join(wire for wire, _ in inner)
    return b"%s%d\r\n%s" % (kind, len(inner), body), [value for _, value in inner]


def mapped(inner: list[tuple[bytes, Pair]]) -> Pair:
    pairs = dict(inner)
    body = b"".join(bulk(b"$", key) + wire for key, (wire, _) in pairs.items())
    return b"%%%d\r\n%s" % (len(pairs), body), {key: value for key, (_, value) in pairs.items()}


def big_number(number: int) -> Pair:
    return b"(%d\r\n" % number, b"%d" % number


def pair_of(value: float) -> Pair:
    match value:
        case bool():
            return b"#t\r\n" if value else b"#f\r\n", value
        case int():
            return b":%d\r\n" % value, value
        case _:
            return b",%s\r\n" % repr(value).encode(), value


tricky = st.sampled_from([b"*99999999\r\n", b"\r\n>123456789", b"|1\r\n", b"*", b"\r\n|", b"%1"])
data_of_strings = st.one_of(st.binary(), st.lists(tricky, max_size=3).map(b"".join))
leaves = st.one_of(
    st.sampled_from([(b"_\r\n", None), (b"$-1\r\n", None), (b"*-1\r\n", None)]),
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)).map(
        pair_of
    ),
    st.integers().map(big_number),
    data_of_strings.map(lambda data: (bulk(b"$", data), data)),
    st.binary().map(lambda data: (bulk(b"=", b"txt:" + data), data)),
    st.from_regex(rb"[^\r\n]*", fullmatch=True).map(lambda text: (b"+%s\r\n" % text, text)),
)
replies = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: many(b"*", items)),
        st.lists(inner, max_size=3).map(lambda items: many(b"~", items)),
        st.lists(st.tuples(data_of_strings, inner), max_size=3).map(mapped),
    ),
    max_leaves=8,
)
pushes = st.lists(leaves, min_size=1, max_size=3).map(lambda items: many(b">", items))


@given(st.lists(st.one_of(replies, pushes), min_size=1, max_size=4), st.integers(1, 17))
def test_replies_come_out_as_they_were_sent_however_they_are_cut(
    sent: list[Pair], step: int
) -> None:
    data = b"".join(wire for wire, _ in sent)
    expected = [value for _, value in sent]
    assert parse(*cut(data, step)) == expected
    whole = parse(data)
    assert whole == expected
    assert [type(each) is Push for each in whole] == [wire[:1] == b">" for wire, _ in sent]


def test_what_is_not_a_number_comes_as_such() -> None:
    (value,) = parse(b",nan\r\n")
    assert value != value  # noqa: PLR0124 - that is what it is about


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("ERR unknown command", ResponseError),
        ("NOSCRIPT No matching script", NoScriptError),
        ("LOADING Redis is loading", BusyLoadingError),
        ("READONLY You can't write", ReadOnlyError),
        ("NOAUTH Authentication required.", AuthenticationError),
        ("MOVED 3999 127.0.0.1:6381", MovedError),
        ("ASK 3999 127.0.0.1:6381", AskError),
        ("TRYAGAIN Multiple keys", TryAgainError),
        ("CLUSTERDOWN The cluster is down", ClusterDownError),
        ("MOVED there", ResponseError),
        ("ASK", ResponseError),
        ("", ResponseError),
    ],
)
def test_error_replies_are_errors_of_redis_py(line: str, kind: type[Exception]) -> None:
    wire = b"-" + line.encode() + b"\r\n"
    (error,) = parse(wire)
    assert type(error) is kind
    (inner,) = parse(b"*1\r\n" + wire)
    assert type(inner[0]) is kind


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"?what\r\n", "Protocol error"),
        (b"$-5\r\n", "Bulk string length out of range"),
        (b":+5\r\n", "Bad integer"),
        (b"*1\r\n" * 1500 + b":1\r\n", "nesting"),
        (b"%1\r\n*1\r\n:1\r\n:2\r\n", "unhashable"),
        (b"+OK\r\n|1\r\n+a\r\n:1\r\n:5\r\n", "attribute"),
        (b"*2\r\n|1\r\n+a\r\n:1\r\n:5\r\n:6\r\n", "attribute"),
        (b"*999999999\r\n", "more parts"),
        (b"%2147483647\r\n:1\r\n", "more parts"),
        (b"*2\r\n:1\r\n~999999999\r\n", "more parts"),
        (b">99999999999999\r\n", "more parts"),
        (b"*2\r\n*999999999\r\n", "more parts"),
        (b">1\r\n+a\r\n>999999999\r\n", "more parts"),
        (b"*" + b"9" * 30, "more parts"),
    ],
)
def test_what_is_no_reply_or_too_much_is_refused_however_it_is_cut(data: bytes, text: str) -> None:
    for step in range(1, min(len(data), 40) + 1):
        with pytest.raises(ReplyError, match=text):
            parse(*cut(data, step))


def test_long_lists_within_the_limit_are_taken() -> None:
    count = 10_000_000  # the fewest that are looked at
    head = b"*%d\r\n" % count
    with pytest.raises(ReplyError, match="more parts"):
        parse(head, limit=3 * count - 1)
    assert parse(head, b":1\r\n", limit=3 * count) == []


# Broken replies, by the thousand

_TYPES = b"$+-:,#_*%~>(=|"
_SPLINTERS = (
    b"\r\n", b"-1", b"*99999999999\r\n", b"9223372036854775808", b"|1\r\n", b"$", b"*", b"%",
    b"\0", b"-MOVED\r\n", b"-ASK \xff\r\n", b"-\r\n", b"*12345678", b">1\r\n",
)  # fmt: skip  # one a line would be a page


def make_reply(dice: Random, depth: int = 0) -> bytes:
    """Make up a reply of any type."""
    kind = dice.choice("$$+-:,#_(=" + "*%~>" * (depth < 4))
    match kind:
        case "$" | "=":
            data = bytes(dice.choices(b"ab\r\n\xff$*>%|0123456789", k=dice.randrange(14)))
            return bulk(kind.encode(), b"txt:" * (kind == "=") + data)
        case "*" | "%" | "~" | ">":
            count = dice.randrange(4)
            inner = [make_reply(dice, depth + 1) for _ in range(count * (1 + (kind == "%")))]
            return b"%s%d\r\n%s" % (kind.encode(), count, b"".join(inner))
        case _:
            lines = {
                "+": [b"ok", b""], "-": [b"ERR x", b"MOVED 1 h:1", b"ASK 1 h:1", b"NOAUTH x"],
                ":": [b"7", b"-9223372036854775808"], ",": [b"1.5", b"inf", b"nan", b"1e300"],
                "#": [b"t", b"f"], "_": [b""], "(": [b"123456789012345678901234567890"],
            }  # fmt: skip  # one a line would be a page
            return kind.encode() + dice.choice(lines[kind]) + b"\r\n"


def break_bytes(dice: Random, data: bytes) -> bytes:
    """Return bytes with some of them changed, taken away, put in, doubled, or cut off."""
    broken = bytearray(data)
    for _ in range(dice.randrange(4)):
        place = dice.randrange(len(broken) + 1)
        match dice.randrange(6):
            case 0:
                broken[place : place + 1] = bytes([dice.randrange(256)])
            case 1:
                del broken[place : place + dice.randrange(1, 4)]
            case 2:
                broken[place:place] = dice.choice(_SPLINTERS)
            case 3:
                broken[place : place + 1] = bytes([dice.choice(_TYPES)])
            case 4:
                del broken[place:]
            case _:
                other = dice.randrange(len(broken) + 1)
                broken[place:place] = broken[other : other + dice.randrange(8)]
    return bytes(broken)


def outcome(*pieces: bytes) -> str:
    """Return in words what parsing ends in."""
    try:
        return repr(parse(*pieces))
    except ReplyError:
        return "refused"


@pytest.mark.parametrize("seed", range(3))
def test_broken_replies_end_in_our_error_or_in_waiting_however_they_are_cut(seed: int) -> None:
    dice = Random(seed)  # noqa: S311 - a test's dice
    ends = Counter[str]()
    for _ in range(8_000):
        valid = b"".join(make_reply(dice) for _ in range(dice.randrange(1, 4)))
        data = break_bytes(dice, valid)
        whole = outcome(data)
        assert outcome(*cut(data, dice.randrange(1, 12))) == whole, data
        ends["refused" if whole == "refused" else "parsed"] += 1
    assert min(ends["refused"], ends["parsed"]) > 2_000
