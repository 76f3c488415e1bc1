"""Packing of commands, against an independent reader of RESP."""

from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto.errors import InvalidPayloadError
from terzetto.redis import Arg, Redis, Script
from terzetto.redis._wire import pack, pack_many, pack_often

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


@given(
    st.lists(st.sampled_from(["1", b"1", 1, 1.0, "é", b"", 0, 0.0, -0.0]), min_size=5, max_size=8)
)
def test_a_command_whose_head_is_known_is_packed_as_any(args: list[Arg]) -> None:
    command = ("XADD", *args)
    for _ in range(2):
        assert pack_often(command) == pack(command)


@pytest.mark.parametrize("text", ["\ud800", "a\ud800\udcff"])
async def test_a_text_with_a_surrogate_that_is_no_byte_is_refused_wherever_it_is_given(
    redis: Redis, text: str
) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: redis.execute("SET", "k", text),
        lambda: redis.execute("XADD", "s", "*", "a", "b", "c", text),
        lambda: redis.execute_many([("SET", "k", text)]),
        lambda: redis.execute_replicated([("SET", "k", text)]),
        lambda: redis.run_script(Script("one", "return 1"), args=[text]),
        lambda: redis.set("k", text),
        lambda: in_a_pipeline(redis, text),
        lambda: in_a_subscription(redis, text),
    ]
    for call in calls:
        with pytest.raises(InvalidPayloadError, match="surrogate"):
            await call()
    with pytest.raises(InvalidPayloadError, match="surrogate"):
        redis.post("SET", "k", text, on_reply=print)
    with pytest.raises(InvalidPayloadError, match="surrogate"):
        redis.post_script(Script("one", "return 1"), [], [text], print)
    assert await redis.execute("DBSIZE") == 0
    assert redis.statistics().connections == 1


async def in_a_pipeline(redis: Redis, text: str) -> None:
    async with redis.pipeline() as pipe:
        pipe.set("k", text)


async def in_a_subscription(redis: Redis, text: str) -> None:
    async with redis.subscribe(text):
        pass
