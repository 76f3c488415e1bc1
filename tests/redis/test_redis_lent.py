"""Links that are lent to one call after another: nobody finds what somebody left there."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from terzetto.errors import InvalidPayloadError
from terzetto.redis import Arg, Redis, Transaction, Watching, WrongLinkError, connect
from tests.redis.scripted import PATIENCE

LEFT_BEHIND: list[tuple[Arg, ...]] = [
    ("SELECT", 1),
    ("MULTI",),
    ("WATCH", "other"),
    ("UNWATCH",),
    ("CLIENT", "SETNAME", "x"),
    ("CLIENT", "NO-TOUCH", "ON"),
    ("SCRIPT", "DEBUG", "YES"),
]


async def increment(now: Watching, then: Transaction) -> None:
    then.set("n", int(await now.get("n") or 0) + 1)


async def check_lent_links(redis: Redis) -> None:
    """Check that whoever has a link lent now finds database 0, and no MULTI."""
    await redis.execute("RPUSH", "l", "1")
    assert await redis.execute("BLPOP", "l", 1) == [b"l", b"1"]
    await redis.execute("SET", "n", 1)
    await redis.transact(increment, "n")
    assert await redis.execute("GET", "n") == b"2"
    assert await redis.execute_replicated([("GET", "n")], within=0.01) == ([b"2"], 0)


@pytest.mark.parametrize("command", LEFT_BEHIND)
async def test_who_watches_keys_leaves_nothing_to_the_next(
    redis: Redis, command: tuple[Arg, ...]
) -> None:
    with trio.fail_after(PATIENCE):
        async with redis.watch_keys("k") as now:
            with pytest.raises(WrongLinkError):
                await now.execute_command(*command)
        await check_lent_links(redis)


@pytest.mark.parametrize("command", LEFT_BEHIND)
async def test_who_waits_for_replicas_leaves_nothing_to_the_next(
    redis: Redis, command: tuple[Arg, ...]
) -> None:
    with trio.fail_after(PATIENCE):
        with pytest.raises(WrongLinkError):
            await redis.execute_replicated([("SET", "a", "b"), command], within=0.01)
        assert await redis.execute("EXISTS", "a") == 0
        await check_lent_links(redis)


async def test_a_watch_that_the_server_does_not_end_is_not_left_to_the_next(
    redis: Redis,
) -> None:
    """Its user may watch, and may not stop: the next to transact would fail for it."""
    await redis.execute("ACL", "SETUSER", "u", "on", ">p", "allkeys", "+@all", "-unwatch")
    async with connect(redis.url, username="u", password="p") as other:  # noqa: S106 - it guards nothing
        with trio.fail_after(PATIENCE):
            async with other.watch_keys("k") as now:
                assert await now.get("k") is None
            await redis.execute("SET", "k", "changed")
            async with other.watch_keys("m") as now, now.transaction() as then:
                then.set("m", "done")
    assert await redis.execute("GET", "m") == b"done"


@pytest.mark.parametrize("name", ["streams", "my streams", "BLOCK"])
async def test_a_read_for_a_group_waits_on_a_link_of_its_own_whatever_the_group_is_called(
    redis: Redis, name: str
) -> None:
    async with waiting(redis, ("XREADGROUP", "GROUP", name, "c", "BLOCK", 0, "STREAMS", "s", ">")):
        assert await redis.execute("GET", "k") is None
    async with waiting(redis, ("XREADGROUP", "GROUP", "g", name, "BLOCK", 0, "STREAMS", "s", ">")):
        assert await redis.execute("GET", "k") is None


@asynccontextmanager
async def waiting(redis: Redis, command: Sequence[Arg]) -> AsyncGenerator[None]:
    """Have a command wait on the server for the time of a block, for a group of stream s."""
    for group in {"g", str(command[2])}:
        await redis.execute_many([("XGROUP", "CREATE", "s", group, "$", "MKSTREAM")])
    async with connect(redis.url) as operator, trio.open_nursery() as nursery:
        nursery.start_soon(redis.execute, *command)
        with trio.fail_after(PATIENCE):
            while b"blocked_clients:1\r\n" not in await operator.execute("INFO", "clients"):
                await trio.lowlevel.checkpoint()
            yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("end", [("DISCARD", "x"), ("EXEC", "x")])
async def test_a_transaction_that_is_ended_wrongly_is_not_left_open(
    redis: Redis, end: tuple[Arg, ...]
) -> None:
    with pytest.raises(WrongLinkError):
        await redis.execute_many([("MULTI",), end])
    assert await redis.execute("GET", "k") is None


async def test_a_command_without_words_is_refused_wherever_it_is_given(redis: Redis) -> None:
    with pytest.raises(InvalidPayloadError):
        redis.pipeline().execute_command()
    with pytest.raises(InvalidPayloadError):
        async with redis.pipeline() as pipe:
            pipe.execute_command(" ")
    with pytest.raises(InvalidPayloadError):
        await redis.execute_replicated([()])
    async with redis.watch_keys("k") as now:
        with pytest.raises(InvalidPayloadError):
            await now.execute_command()
    assert await redis.execute("PING") == b"PONG"


@pytest.mark.parametrize("buffer", [bytearray, memoryview])
async def test_what_would_disturb_others_is_refused_in_any_buffer(
    redis: Redis, buffer: Callable[[bytes], bytearray]
) -> None:
    for command in [
        (buffer(b"MULTI"),),
        ("CLIENT", buffer(b"REPLY"), "OFF"),
        ("CLIENT", buffer(b"setname"), "x"),
    ]:
        with pytest.raises(WrongLinkError):
            await redis.execute(*command)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the point of the test
        with pytest.raises(WrongLinkError):
            async with redis.pipeline() as pipe:
                pipe.execute_command(*command)
    with pytest.raises(WrongLinkError):
        async with redis.pipeline() as pipe:
            pipe.execute_command("XREAD", buffer(b"BLOCK"), 0, "STREAMS", "s", "$")
    assert await redis.execute("GET", "k") is None
