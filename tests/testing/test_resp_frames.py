"""Frames come out of a stream as they went in, whatever the pieces it arrives in."""

from collections.abc import Sequence

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto.testing._resp import FrameSplitter, words_of


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def listed(kind: bytes, items: Sequence[bytes]) -> bytes:
    return kind + b"%d\r\n" % len(items) + b"".join(items)


def pairs(items: Sequence[bytes]) -> bytes:
    return b"%%%d\r\n" % len(items) + b"".join(key + bulk(b"value") for key in items)


texts = st.text("abc :$*", max_size=5).map(str.encode)
simple = (
    texts.map(lambda text: b"+" + text + b"\r\n")
    | texts.map(lambda text: b"-ERR " + text + b"\r\n")
    | st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number)
    | st.sampled_from([b"_\r\n", b"#t\r\n", b",1.5\r\n", b"(123\r\n", b"$-1\r\n", b"*-1\r\n"])
    | st.binary(max_size=12).map(bulk)
)
values = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: listed(b"*", items)),
        st.lists(inner, max_size=3).map(lambda items: listed(b"~", items)),
        st.lists(st.integers(0, 9).map(lambda number: b":%d\r\n" % number)).map(pairs),
    ),
    max_leaves=8,
)
pushes = st.lists(values, min_size=1, max_size=3).map(lambda items: listed(b">", items))
attributed = st.tuples(values, values).map(lambda pair: b"|1\r\n" + bulk(b"k") + pair[0] + pair[1])
frames = st.lists(values | pushes | attributed, max_size=5)


@given(frames=frames, size=st.integers(1, 20))
def test_frames_come_out_as_they_went_in(frames: list[bytes], size: int) -> None:
    stream = b"".join(frames)
    splitter = FrameSplitter()
    found: list[bytes] = []
    for start in range(0, len(stream), size):
        found += splitter.feed(stream[start : start + size])
    assert found == frames


@given(frames=st.lists(values, max_size=5))
def test_a_parser_sees_as_many_values_as_there_are_frames(frames: list[bytes]) -> None:
    reader = hiredis.Reader(notEnoughData=Ellipsis)
    for frame in FrameSplitter().feed(b"".join(frames)):
        reader.feed(frame)
        assert reader.gets() is not Ellipsis
        assert reader.gets() is Ellipsis


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=5))
def test_words_of_a_command(words: list[bytes]) -> None:
    frame = listed(b"*", [bulk(word) for word in words])
    assert words_of(frame) == words


def test_words_of_a_line() -> None:
    assert FrameSplitter().feed(b"PING\r\nSET a 1\r\n") == [b"PING\r\n", b"SET a 1\r\n"]
    assert words_of(b"SET a  1\r\n") == [b"SET", b"a", b"1"]


@pytest.mark.parametrize("frame", [b"\r\n", b"*0\r\n", b"*-1\r\n"])
def test_a_command_without_words(frame: bytes) -> None:
    assert words_of(frame) == []


@given(st.binary(max_size=60))
def test_nonsense_breaks_nothing(data: bytes) -> None:
    for frame in FrameSplitter().feed(data):
        words_of(frame)
