"""Packing and parsing, against an independent reader and writer of RESP."""

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

from terzetto.errors import InvalidPayloadError
from terzetto.redis import Arg, Reply, ReplyError, Script
from terzetto.redis._wire import NEED_MORE, Push, new_reader, pack, pack_many

args_of_any_kind = st.lists(
    st.one_of(
        st.binary(),
        st.text(),
        st.integers(),
        st.floats(allow_nan=False),
        st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")),
    ),
    min_size=1,
    max_size=8,
)


def sent(arg: Arg) -> bytes:
    """Return the bytes that the server is to see for an argument."""
    if isinstance(arg, bytes):
        return arg
    if isinstance(arg, str):
        return arg.encode("utf-8", "surrogateescape")
    return repr(arg).encode()


def read_command(data: bytes) -> tuple[list[bytes], bytes]:
    """Take one command apart, by the letter of the protocol; return what is left over too."""
    head, _, rest = data.partition(b"\r\n")
    assert head[:1] == b"*"
    parts: list[bytes] = []
    for _ in range(int(head[1:])):
        size, _, rest = rest.partition(b"\r\n")
        assert size[:1] == b"$"
        length = int(size[1:])
        parts.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
    return parts, rest


@given(args_of_any_kind)
def test_a_command_arrives_as_it_was_given(args: list[Arg]) -> None:
    assert read_command(pack(tuple(args))) == ([sent(arg) for arg in args], b"")


@given(st.lists(args_of_any_kind, max_size=4))
def test_commands_in_one_piece_come_one_after_the_other(commands: list[list[Arg]]) -> None:
    rest = pack_many(commands)
    for args in commands:
        parts, rest = read_command(rest)
        assert parts == [sent(arg) for arg in args]
    assert rest == b""


@given(st.lists(st.tuples(args_of_any_kind | st.just([]), args_of_any_kind | st.just([]))))
def test_a_call_of_a_script_is_packed_as_any_command(
    calls: list[tuple[list[Arg], list[Arg]]],
) -> None:
    script = Script("one", "return 1")
    for keys, args in calls:
        assert script.pack_call(keys, args) == pack(
            ("EVALSHA", script.sha, len(keys), *keys, *args)
        )


class Text(str):
    """A str that is not exactly a str."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("arg", "as_sent"),
    [
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (Text("ab"), b"ab"),
        (10**40, b"1" + b"0" * 40),
        (1e300, b"1e+300"),
        ("\udcff", b"\xff"),
    ],
)
def test_less_common_arguments_are_packed(arg: Arg, as_sent: bytes) -> None:
    assert read_command(pack(("SET", "k", arg)))[0] == [b"SET", b"k", as_sent]


@pytest.mark.parametrize("arg", [None, True, ["x"], {"a": 1}, object()])
def test_what_is_no_argument_is_refused(arg: Arg) -> None:
    with pytest.raises(InvalidPayloadError, match="cannot be sent"):
        pack(("SET", "k", arg))


def test_a_command_has_a_name() -> None:
    with pytest.raises(InvalidPayloadError, match="without a name"):
        pack(())


def encode(value: Reply) -> bytes:
    """Write a reply as a server does in RESP3."""
    match value:
        case None:
            return b"_\r\n"
        case bool():
            return b"#t\r\n" if value else b"#f\r\n"
        case int():
            return b":%d\r\n" % value
        case float():
            return b",%s\r\n" % repr(value).encode()
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case _:
            return encode_many(value)


def encode_many(value: Reply) -> bytes:
    if isinstance(value, dict):
        pairs: dict[Reply, Reply] = value  # pyright: ignore[reportUnknownVariableType] - a Reply is Any
        body = b"".join(encode(key) + encode(item) for key, item in pairs.items())
        return b"%%%d\r\n%s" % (len(pairs), body)
    items: list[Reply] = list(value)
    return b"*%d\r\n%s" % (len(items), b"".join(encode(item) for item in items))


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(),
)
replies = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.binary(), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(st.lists(replies, min_size=1, max_size=4), st.integers(1, 17))
def test_replies_come_out_as_they_were_sent_however_they_are_cut(
    values: list[Reply], step: int
) -> None:
    data = b"".join(encode(value) for value in values)
    reader = new_reader()
    got: list[Reply] = []
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        while (reply := reader.gets()) is not NEED_MORE:
            got.append(reply)
    assert got == values


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
    ],
)
def test_error_replies_are_errors_of_redis_py(line: str, kind: type[Exception]) -> None:
    reader = new_reader()
    reader.feed(b"-" + line.encode() + b"\r\n")
    assert type(reader.gets()) is kind


def test_sets_come_as_lists() -> None:
    reader = new_reader()
    reader.feed(b"~1\r\n:7\r\n")
    assert reader.gets() == [7]


def test_pushes_are_told_apart_from_replies() -> None:
    reader = new_reader()
    reader.feed(b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n*1\r\n:1\r\n")
    assert type(reader.gets()) is Push
    assert type(reader.gets()) is list


@given(st.binary(max_size=200))
def test_broken_bytes_end_in_our_error_or_in_waiting(data: bytes) -> None:
    reader = new_reader()
    reader.feed(data)
    try:
        while reader.gets() is not NEED_MORE:
            pass
    except (ReplyError, MemoryError):
        pass
