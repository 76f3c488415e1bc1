"""Commands that follow from a glance at the replies to those before: nobody is woken in between."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import attrs
import pytest
import trio

from terzetto.errors import InvalidPayloadError
from terzetto.redis import Arg, LinkLostError, Redis, Reply, WrongLinkError, connect
from terzetto.server import Cluster, EmbeddedServer
from terzetto.testing import Fault, open_proxy
from tests.redis.moving import KEY, move_slot, owner_and_other, wait_blocked
from tests.redis.scripted import PATIENCE

FAIL_OVER: Final = 45.0  # seconds for the cluster to agree; the machine may be busy


@attrs.define
class Pushes:
    """Pushes 0, 1, 2 and so on to a list, each from the glance at the reply to the one before."""

    key: str
    end: int
    replies: list[Reply] = attrs.field(factory=list)
    then: Callable[[], None] = lambda: None

    def command(self) -> Sequence[Sequence[Arg]]:
        return [("RPUSH", self.key, len(self.replies))]

    def glance(self, replies: list[Reply]) -> Sequence[Sequence[Arg]] | None:
        if not isinstance(replies[0], int):
            return None
        self.replies += replies
        self.then()
        return self.command() if len(self.replies) < self.end else None


async def pushed(redis: Redis, key: str) -> list[bytes]:
    values: list[bytes] = await redis.execute("LRANGE", key, 0, -1)
    return values


async def test_what_a_glance_returns_is_sent_and_its_caller_sleeps_on(redis: Redis) -> None:
    pushes = Pushes("l", end=100)
    async with redis.open_dedicated("glancing") as link:
        with trio.fail_after(PATIENCE):
            assert await link.execute_many(pushes.command(), glance=pushes.glance) == [100]
            assert await link.execute("LLEN", "l") == 100
    assert pushes.replies == [*range(1, 101)]
    assert await pushed(redis, "l") == [b"%d" % number for number in range(100)]


async def test_what_follows_may_be_more_or_fewer_commands(redis: Redis) -> None:
    seen: list[list[Reply]] = []

    def glance(replies: list[Reply]) -> Sequence[Sequence[Arg]] | None:
        seen.append(list(replies))
        return [("INCR", "n")] * (5 - len(seen)) if len(seen) < 4 else None

    async with redis.open_dedicated("glancing") as link:
        assert await link.execute_many([("INCR", "n")], glance=glance) == [9, 10]
    assert seen == [[1], [2, 3, 4, 5], [6, 7, 8], [9, 10]]


async def test_who_is_cancelled_has_nothing_more_sent(redis: Redis) -> None:
    pushes = Pushes("l", end=10**6)
    async with redis.open_dedicated("glancing") as link:
        with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
            pushes.then = lambda: scope.cancel() if len(pushes.replies) == 50 else None
            await link.execute_many(pushes.command(), glance=pushes.glance)
        assert scope.cancelled_caught
        assert await link.execute("LLEN", "l") == 50
    assert len(pushes.replies) == 50


async def test_a_lost_connection_is_that_of_the_last_commands(server: EmbeddedServer) -> None:
    pushes = Pushes("l", end=10)
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        redis.open_dedicated("glancing") as link,
    ):
        proxy.on("RPUSH", Fault.DROP_REPLY, where=lambda words: words[-1] == b"5")
        with trio.fail_after(PATIENCE), pytest.raises(LinkLostError) as caught:
            await link.execute_many(pushes.command(), glance=pushes.glance)
        assert caught.value.may_have_run
        assert pushes.replies == [1, 2, 3, 4, 5]
        assert await pushed(redis, "l") == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_what_is_refused_by_the_wrong_server_is_what_was_sent_last(masters: Cluster) -> None:
    """The slot moves in the midst of waiting; what had run before it is not sent again."""
    waiting = "{moving}list"
    seen: list[Reply] = []

    def glance(replies: list[Reply]) -> Sequence[Sequence[Arg]] | None:
        seen.extend(replies)
        return [("BLPOP", waiting, 0)] if len(seen) == 1 else None

    async with (
        connect(masters.url) as redis,
        redis.open_dedicated("glancing", key=KEY) as link,
        AsyncExitStack() as stack,
    ):
        source, target = await owner_and_other(stack, masters)
        popped: list[Reply] = []

        async def push_and_wait() -> None:
            popped.extend(await link.execute_many([("RPUSH", KEY, "once")], glance=glance))

        with trio.fail_after(FAIL_OVER):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(push_and_wait)
                await wait_blocked(source.client)
                await move_slot(source, target, [KEY])
                await wait_blocked(target.client)
                await redis.execute("RPUSH", waiting, "late")
        assert popped == [[waiting.encode(), b"late"]]
        assert link.link.endpoint.port == target.server.port
        assert await pushed(redis, KEY) == [b"once"]


@pytest.mark.parametrize(
    ("first", "following", "error"),
    [
        (("WATCH", "k"), ("SET", "k", "v"), WrongLinkError),
        (("SELECT", "1"), ("SET", "k", "v"), WrongLinkError),
        (("PING",), ("SUBSCRIBE", "c"), WrongLinkError),
        (("PING",), (), InvalidPayloadError),
        (("PING",), ("SET", "k", None), InvalidPayloadError),
        (("PING",), ("SET", "k", "\ud800"), InvalidPayloadError),
    ],
)
async def test_what_must_not_follow_is_refused_and_not_sent(
    redis: Redis, first: tuple[Any, ...], following: tuple[Any, ...], error: type[Exception]
) -> None:
    """A connection that is left with something may be lost before what follows has run."""
    async with redis.open_dedicated("glancing") as link:
        with trio.fail_after(PATIENCE), pytest.raises(error):
            await link.execute_many([first], glance=lambda _: [following])
        assert link.link.connections == 1
        assert await link.execute("EXISTS", "k") == 0


async def test_what_a_glance_raises_comes_out_of_its_own_call(redis: Redis) -> None:
    def glance(replies: list[Reply]) -> None:
        raise LookupError(replies)

    async with redis.open_dedicated("glancing") as link:
        with trio.fail_after(PATIENCE):
            for number in (1, 2):
                with pytest.raises(LookupError, match=f"{number}"):
                    await link.execute_many([("INCR", "n")], glance=glance)
            assert await link.execute("GET", "n") == b"2"
        assert link.link.connections == 1


async def test_what_a_glance_returns_that_is_no_command_is_not_the_servers_fault(
    redis: Redis,
) -> None:
    async with redis.open_dedicated("glancing") as link:
        with trio.fail_after(PATIENCE), pytest.raises(TypeError):
            await link.execute_many([("PING",)], glance=lambda _: [5])  # type: ignore[list-item] # pyright: ignore[reportArgumentType] - the point of the test
        assert await link.execute("PING") == b"PONG"
        assert link.link.connections == 1


async def test_a_glance_that_returns_no_commands_ends_the_wait(redis: Redis) -> None:
    async with redis.open_dedicated("glancing") as link:
        with trio.fail_after(PATIENCE):
            assert await link.execute_many([("INCR", "n")], glance=lambda _: []) == [1]
