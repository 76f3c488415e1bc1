"""What a call does on a healthy link, and when it is cancelled: every public await has its row."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError

from terzetto.errors import ClosedError, InvalidOptionError, InvalidPayloadError
from terzetto.redis import (
    LinkClosedError,
    LinkStatistics,
    Redis,
    Reply,
    Script,
    WrongLinkError,
    connect,
)
from terzetto.redis._commands import Road, road_of
from terzetto.server import EmbeddedServer
from tests.redis.scripted import PATIENCE, held, wait_until

INCREMENT = Script("increment", "return redis.call('INCR', KEYS[1])")


@attrs.frozen
class Call:
    """A public await: `open` prepares what it needs and returns the await itself."""

    name: str
    open: Callable[[Redis, AsyncExitStack], Awaitable[Callable[[], Awaitable[object]]]]
    writes: bool = True


async def _execute(redis: Redis, _: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    return lambda: redis.execute("INCR", "n")


async def _execute_many(redis: Redis, _: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    return lambda: redis.execute_many([("INCR", "n"), ("GET", "n")])


async def _run_script(redis: Redis, _: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    await redis.run_script(INCREMENT, keys=["other"])  # so that the server knows it
    return lambda: redis.run_script(INCREMENT, keys=["n"])


async def _command(redis: Redis, _: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    return lambda: redis.incr("n")


async def _dedicated(redis: Redis, stack: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    dedicated = await stack.enter_async_context(redis.open_dedicated("test"))
    await dedicated.execute("PING")
    return lambda: dedicated.execute("INCR", "n")


async def _dedicated_many(redis: Redis, stack: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    dedicated = await stack.enter_async_context(redis.open_dedicated("test"))
    await dedicated.execute("PING")
    return lambda: dedicated.execute_many([("INCR", "n"), ("GET", "n")])


async def _subscribe(redis: Redis, stack: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    async with redis.subscribe("other"):
        pass
    return lambda: stack.enter_async_context(redis.subscribe("channel"))


async def _next(redis: Redis, stack: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    subscription = await stack.enter_async_context(redis.subscribe("channel"))
    return lambda: anext(subscription)


async def _read(redis: Redis, stack: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    subscription = await stack.enter_async_context(redis.subscribe("channel"))
    return subscription.read


async def _wait_changed(redis: Redis, _: AsyncExitStack) -> Callable[[], Awaitable[object]]:
    return redis.wait_changed


CALLS = [
    Call("execute", _execute),
    Call("execute_many", _execute_many),
    Call("run_script", _run_script),
    Call("a command of redis-py", _command),
    Call("dedicated.execute", _dedicated),
    Call("dedicated.execute_many", _dedicated_many),
    Call("subscribe", _subscribe, writes=False),
    Call("next message", _next, writes=False),
    Call("read messages", _read, writes=False),
    Call("wait_changed", _wait_changed, writes=False),
]

all_calls = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


@all_calls
async def test_a_call_in_a_cancelled_scope_sends_nothing(redis: Redis, call: Call) -> None:
    async with AsyncExitStack() as stack:
        start = await call.open(redis, stack)
        with trio.CancelScope() as scope:
            scope.cancel()
            await start()
        assert scope.cancelled_caught
        assert await redis.execute("GET", "n") is None


@all_calls
async def test_a_call_that_is_cancelled_while_it_waits_disturbs_nobody(
    redis: Redis, server: EmbeddedServer, call: Call
) -> None:
    async with AsyncExitStack() as stack:
        start = await call.open(redis, stack)

        async def run() -> None:
            await start()
            pytest.fail("it was answered by a server that says nothing")

        with held(server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        with trio.fail_after(PATIENCE):
            assert await redis.execute("ECHO", "mine") == b"mine"
            if call.writes:  # it had been written, so it ran, without a witness
                while await redis.execute("GET", "n") != b"1":
                    await trio.lowlevel.checkpoint()


async def test_what_was_not_written_is_withdrawn_by_cancelling(
    redis: Redis, server: EmbeddedServer
) -> None:
    await server.kill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(redis.execute, "INCR", "kept")
        with trio.move_on_after(0.05) as scope:
            await redis.execute("INCR", "n")
        assert scope.cancelled_caught
        await server.start()
    assert await redis.execute("MGET", "n", "kept") == [None, b"1"]


async def test_replies_have_the_types_of_resp3(redis: Redis) -> None:
    await redis.execute("HSET", "h", "a", 1)
    assert await redis.execute("HGETALL", "h") == {b"a": b"1"}
    await redis.execute("ZADD", "z", 1.5, "m")
    assert await redis.execute("ZSCORE", "z", "m") == 1.5
    assert await redis.execute("GET", "none") is None
    assert await redis.execute("SMISMEMBER", "s", "m") == [0]


async def test_text_goes_as_utf_8_with_escapes(redis: Redis) -> None:
    await redis.execute("SET", "k", "grün\udcff")
    assert await redis.execute("GET", "k") == "grün".encode() + b"\xff"


async def test_an_error_reply_is_raised(redis: Redis) -> None:
    await redis.execute("SET", "k", "text")
    with pytest.raises(ResponseError, match="not an integer"):
        await redis.execute("INCR", "k")
    with pytest.raises(InvalidPayloadError):
        await redis.execute()
    with pytest.raises(WrongLinkError, match="subscribe"):
        await redis.execute("SUBSCRIBE", "c")


def _view(text: bytes) -> Any:  # noqa: ANN401 - the types forbid it as an argument
    return memoryview(bytearray(text))


@pytest.mark.parametrize("buffer", [bytearray, _view])
async def test_a_name_in_another_buffer_is_known_for_what_it_is(
    redis: Redis, buffer: Callable[[bytes], Any]
) -> None:
    assert await redis.execute(buffer(b"SET"), "k", buffer(b"v")) == b"OK"
    assert await redis.execute_many([(buffer(b"GET"), "k")]) == [b"v"]
    posted: list[Reply] = []
    assert redis.post(buffer(b"GET"), "k", on_reply=posted.append)
    assert await redis.execute("PING") == b"PONG"
    assert posted == [b"v"]
    with pytest.raises(WrongLinkError, match="SELECT"):
        await redis.execute(buffer(b"SELECT"), 1)
    with pytest.raises(WrongLinkError, match="MULTI"):
        redis.post(buffer(b"MULTI"), on_reply=posted.append)
    assert road_of(("XREAD", buffer(b"block"), 0, "STREAMS", "s", "$")) is Road.BLOCKS


async def test_many_commands_keep_errors_in_their_places(redis: Redis) -> None:
    replies = await redis.execute_many(
        [("SET", "k", "text"), ("INCR", "k"), ("GET", "k"), ("ECHO", b"")]
    )
    assert replies[0] == b"OK"
    assert isinstance(replies[1], ResponseError)
    assert replies[2:] == [b"text", b""]
    assert await redis.execute_many([]) == []
    assert isinstance((await redis.execute_many([("INCR", "k")]))[0], ResponseError)


async def test_a_unit_may_be_a_transaction(redis: Redis) -> None:
    unit = [("MULTI",), ("INCR", "n"), ("INCR", "n"), ("EXEC",)]
    assert await redis.execute_many(unit) == [b"OK", b"QUEUED", b"QUEUED", [1, 2]]
    with pytest.raises(WrongLinkError):
        await redis.execute_many(unit[:-1])
    assert await redis.execute("PING") == b"PONG"


async def test_a_script_is_sent_whole_only_where_it_is_unknown(redis: Redis) -> None:
    assert await redis.run_script(INCREMENT, keys=["n"]) == 1
    assert await redis.execute("SCRIPT", "EXISTS", INCREMENT.sha) == [1]
    assert await redis.run_script(INCREMENT, keys=["n"]) == 2
    await redis.execute("SCRIPT", "FLUSH")
    assert await redis.run_script(INCREMENT, keys=["n"]) == 3
    with pytest.raises(ResponseError, match="wrong"):
        await redis.run_script(Script("fails", "return redis.error_reply('ERR wrong')"))


async def test_a_dedicated_link_blocks_and_serves_one_task(redis: Redis) -> None:
    async with redis.open_dedicated("one") as dedicated, trio.open_nursery() as nursery:
        popped: list[object] = []

        async def pop() -> None:
            popped.append(await dedicated.execute("BLPOP", "list", 0))

        nursery.start_soon(pop)
        await wait_until(lambda: dedicated.link.status.state == "connected")
        while b"blpop" not in await redis.execute("CLIENT", "LIST"):
            await trio.lowlevel.checkpoint()
        with pytest.raises(trio.BusyResourceError):
            await dedicated.execute("PING")
        await redis.execute("RPUSH", "list", "x")
    assert popped == [[b"list", b"x"]]
    with pytest.raises(LinkClosedError):
        await dedicated.execute("PING")


async def wait_blocked(redis: Redis, count: int = 1) -> None:
    """Wait until the server says that so many clients wait on it."""
    with trio.fail_after(PATIENCE):
        while b"blocked_clients:%d\r\n" % count not in await redis.execute("INFO", "clients"):
            await trio.lowlevel.checkpoint()


async def test_a_blocking_call_can_be_ended_by_another_task(redis: Redis) -> None:
    async with redis.open_dedicated("one") as dedicated:
        assert await dedicated.execute("PING") == b"PONG"
        replies: list[object] = []

        async def read() -> None:
            replies.extend(await dedicated.execute_many([("BLPOP", "list", 0)]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_blocked(redis)
            with trio.fail_after(PATIENCE):
                assert await dedicated.unblock()
        assert replies == [None]


async def test_a_cancelled_blocking_call_ends_and_does_not_disturb_the_next(redis: Redis) -> None:
    async with redis.open_dedicated("one") as dedicated:
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dedicated.execute, "BLPOP", "list", 0)
                await wait_blocked(redis)
                nursery.cancel_scope.cancel()
            await wait_blocked(redis, 0)
            await redis.execute("RPUSH", "list", "x")
            with trio.fail_after(PATIENCE):
                assert await dedicated.execute("BLPOP", "list", 0) == [b"list", b"x"]
        assert dedicated.link.statistics().connections == 1


async def test_what_a_blocking_call_took_while_it_was_cancelled_is_not_lost(redis: Redis) -> None:
    count = 400
    got: list[bytes] = []
    async with redis.open_dedicated("one") as dedicated, trio.open_nursery() as nursery:

        async def push() -> None:
            for number in range(count):
                await redis.execute("RPUSH", "list", number)

        nursery.start_soon(push)
        cancelled = 0
        with trio.fail_after(PATIENCE):
            while len(got) < count:
                with trio.move_on_after(0.0005) as scope:
                    got.append((await dedicated.execute("BLPOP", "list", 0))[1])
                cancelled += scope.cancelled_caught
    assert got == [b"%d" % number for number in range(count)]
    assert cancelled > 0


async def test_a_server_that_hangs_does_not_hold_up_cancelling(
    redis: Redis, server: EmbeddedServer
) -> None:
    async with redis.open_dedicated("one") as dedicated, trio.open_nursery() as nursery:
        nursery.start_soon(dedicated.execute, "BLPOP", "list", 0)
        await wait_blocked(redis)
        with held(server), trio.fail_after(PATIENCE):
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_until(lambda: not nursery.child_tasks)


async def test_after_the_block_every_call_says_closed(server: EmbeddedServer) -> None:
    async with connect(server.url) as redis:
        await redis.execute("PING")
    assert redis.state == "closed"
    for attempt in (
        redis.execute("PING"),
        redis.execute_many([("PING",)]),
        redis.run_script(INCREMENT, keys=["n"]),
        redis.wait_connected(),
    ):
        with pytest.raises(ClosedError):
            await attempt
    with pytest.raises(LinkClosedError):
        async with redis.subscribe("c"):
            pass
    with pytest.raises(LinkClosedError):
        async with redis.open_dedicated("d"):
            pass


async def test_an_exception_of_the_block_comes_out_as_it_is(server: EmbeddedServer) -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with connect(server.url) as redis, redis.subscribe("c"), redis.open_dedicated("d"):
            raise error
    assert caught.value is error


async def test_bad_options_of_a_subscription(redis: Redis) -> None:
    with pytest.raises(InvalidOptionError):
        async with redis.subscribe():
            pass
    with pytest.raises(InvalidOptionError):
        async with redis.subscribe("c", buffer_size=0):
            pass


async def test_the_bound_of_requests_in_flight_holds_and_lets_go(server: EmbeddedServer) -> None:
    async with connect(server.url, max_in_flight=5) as redis:
        done: list[int] = []

        async def increment() -> None:
            done.append(await redis.execute("INCR", "n"))

        async with trio.open_nursery() as nursery:
            with held(server):
                for _ in range(40):
                    nursery.start_soon(increment)
                await trio.testing.wait_all_tasks_blocked()
                assert redis.statistics() == LinkStatistics(
                    queued=0, in_flight=5, crowd=35, connections=1
                )
        assert sorted(done) == list(range(1, 41))


async def test_replies_are_glanced_at_before_their_caller_has_them(redis: Redis) -> None:
    seen: list[tuple[str, list[object]]] = []

    def glance(replies: list[object]) -> None:
        seen.append((trio.lowlevel.current_task().name, list(replies)))

    async with redis.open_dedicated("glancing") as link:
        replies = await link.execute_many([("SET", "k", "v"), ("HGETALL", "k")], glance=glance)
        ((task, glanced),) = seen
        assert glanced == replies
        assert task != trio.lowlevel.current_task().name
        assert isinstance(replies[1], ResponseError)
        with trio.move_on_after(0.01) as given_up:
            await link.execute_many([("BLPOP", "nothing", 0)], glance=glance)
        assert given_up.cancelled_caught
        await redis.execute("RPUSH", "nothing", "late")
        with trio.fail_after(20):
            await link.execute("PING")
        assert len(seen) == 1, "who has left is shown nothing"
