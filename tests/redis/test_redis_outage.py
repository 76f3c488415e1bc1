"""What a call does when the server goes away: every public await has its row."""

from contextlib import AsyncExitStack, nullcontext

import pytest
import trio
import trio.testing
from redis.exceptions import ConnectionError as RedisConnectionError

from terzetto.redis import (
    Gap,
    LinkLostError,
    LinkStatistics,
    Message,
    Redis,
    ReplyError,
    ReplyTooLongError,
    Script,
    connect,
)
from terzetto.server import EmbeddedServer
from terzetto.testing import open_proxy
from tests.redis.scripted import PATIENCE, held, open_scripted, say, say_nothing, wait_state
from tests.redis.test_redis_calls import CALLS, Call

LOST = "lost"
ANSWERED = "answered"
GAP = "gap"

# What becomes of each call that was on its way when the server was killed.
OUTCOMES = {
    "execute": LOST,
    "execute_many": LOST,
    "run_script": LOST,
    "a command of redis-py": LOST,
    "dedicated.execute": LOST,
    "dedicated.execute_many": LOST,
    "subscribe": ANSWERED,
    "next message": GAP,
    "read messages": GAP,
    "wait_changed": ANSWERED,
}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
async def test_a_call_whose_server_is_killed(
    redis: Redis, server: EmbeddedServer, call: Call
) -> None:
    async with AsyncExitStack() as stack:
        start = await call.open(redis, stack)
        outcome: list[object] = []

        async def run() -> None:
            try:
                outcome.append(await start())
            except RedisConnectionError as error:
                outcome.append(error)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                with held(server):
                    nursery.start_soon(run)
                    await trio.testing.wait_all_tasks_blocked()
                    await server.kill()
                await server.start()
            await redis.wait_connected()
            assert await redis.execute("ECHO", "mine") == b"mine"
        (what,) = outcome
        match OUTCOMES[call.name]:
            case "lost":
                assert isinstance(what, LinkLostError)
                assert what.may_have_run
            case "gap":
                assert what in (Gap(), [Gap()])
            case _:
                assert not isinstance(what, Exception)


@pytest.mark.parametrize(
    "call", [call for call in CALLS if OUTCOMES[call.name] != GAP], ids=lambda call: call.name
)
async def test_a_call_while_the_server_is_away_waits_for_it(
    redis: Redis, server: EmbeddedServer, call: Call
) -> None:
    async with AsyncExitStack() as stack:
        start = await call.open(redis, stack)
        await server.kill()
        await wait_state(redis, "reconnecting")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.move_on_after(0.05) as scope:  # a caller's deadline ends its waiting
                await redis.execute("INCR", "too late")
            assert scope.cancelled_caught
            await server.start()
        with trio.fail_after(PATIENCE):
            assert await redis.execute("GET", "too late") is None
            assert await redis.execute("GET", "n") == (b"1" if call.writes else None)


async def test_reading_commands_are_sent_again(redis: Redis, server: EmbeddedServer) -> None:
    await redis.execute("SET", "k", "v")
    got: list[object] = []

    async def read() -> None:
        got.append(await redis.execute("GET", "k"))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            with held(server):
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                await server.kill()
            await server.start()
    assert got == [b"v"]


async def test_scripts_are_loaded_again_into_a_fresh_server(
    redis: Redis, server: EmbeddedServer
) -> None:
    script = Script("constant", "return 7")
    assert await redis.run_script(script) == 7
    await server.kill()
    await server.start()
    assert await redis.run_script(script) == 7


async def test_a_new_connection_is_what_the_old_one_was(
    redis: Redis, server: EmbeddedServer
) -> None:
    await redis.execute("ACL", "SETUSER", "jo", "on", ">pw", "+@all", "~*", "&*")
    async with connect(
        server.url, credentials=lambda: ("jo", "pw"), db=3, client_name="me"
    ) as mine:
        before = await mine.execute("CLIENT", "INFO")
        await redis.execute("CLIENT", "KILL", "USER", "jo")
        with trio.fail_after(PATIENCE):
            while mine.statistics().connections < 2:
                await mine.wait_changed()
        after = await mine.execute("CLIENT", "INFO")
    for info in (before, after):
        facts = dict(fact.split(b"=", 1) for fact in info.split())
        assert (facts[b"user"], facts[b"db"], facts[b"name"]) == (b"jo", b"3", b"me")
        assert (facts[b"lib-name"], facts[b"resp"]) == (b"terzetto", b"3")
        assert facts[b"lib-ver"]
    assert after.split()[0] != before.split()[0]  # its id


async def test_a_subscription_goes_on_after_a_gap(redis: Redis, server: EmbeddedServer) -> None:
    async with redis.subscribe("c", patterns=["p*"]) as subscription:
        await redis.execute("PUBLISH", "c", "before")
        with trio.fail_after(PATIENCE):
            assert await anext(subscription) == Message(b"c", b"before")
            await server.kill()
            await server.start()
            assert await anext(subscription) == Gap()
            await redis.execute("PUBLISH", "p1", "after")
            assert await anext(subscription) == Message(b"p1", b"after", b"p*")


async def test_the_state_can_be_watched(redis: Redis, server: EmbeddedServer) -> None:
    assert (redis.state, redis.status.error) == ("connected", None)
    await server.kill()
    await wait_state(redis, "reconnecting")
    with trio.fail_after(PATIENCE):
        while redis.status.attempts < 2:
            await redis.wait_changed()
    assert redis.status.error is not None
    assert redis.status.since <= trio.current_time()
    await server.start()
    with trio.fail_after(PATIENCE):
        await redis.wait_connected()
    assert redis.status.attempts == 0
    assert redis.statistics().connections == 2


async def test_a_server_that_hangs_is_given_up(server: EmbeddedServer) -> None:
    async with connect(server.url, server_timeout=0.2, connect_timeout=0.2) as redis:
        with held(server), pytest.raises(LinkLostError, match="said nothing") as caught:
            await redis.execute("INCR", "n")
        assert caught.value.may_have_run
        with trio.fail_after(PATIENCE):
            assert await redis.execute("ECHO", "mine") == b"mine"


async def test_an_idle_link_is_tried_and_given_up(server: EmbeddedServer) -> None:
    async with connect(
        server.url, server_timeout=0.2, connect_timeout=0.2, health_check_interval=0.1
    ) as redis:
        with held(server):
            await wait_state(redis, "reconnecting")
        with trio.fail_after(PATIENCE):
            await redis.wait_connected()


async def test_a_healthy_idle_link_is_kept(server: EmbeddedServer) -> None:
    async with connect(server.url, server_timeout=5, health_check_interval=0.02) as redis:
        before = redis.statistics().connections
        with trio.fail_after(PATIENCE):
            pings = 0
            while pings < 4:
                await trio.sleep(0.1)  # the link counts as idle meanwhile
                report = await redis.execute("INFO", "commandstats")
                pings = int(report.split(b"cmdstat_ping:calls=")[1].split(b",")[0])
        assert before == 1
        assert redis.statistics().connections == 1


async def test_a_blocking_command_may_take_its_time(server: EmbeddedServer) -> None:
    async with (
        connect(server.url, server_timeout=0.2, health_check_interval=0.1) as redis,
        redis.open_dedicated("patient") as dedicated,
    ):
        assert await dedicated.execute("BLPOP", "list", 1) is None
        assert dedicated.link.statistics().connections == 1


async def test_a_server_that_closes_at_once_is_met_with_patience() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with open_scripted(hang_up) as server, connect(server.url, max_backoff=0.05) as redis:
        with trio.fail_after(PATIENCE):
            while redis.statistics().connections < 4:
                await redis.wait_changed()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"?what\r\n", "Protocol error"),
        (b"+OK\r\n+OK\r\n", ""),
        (b"$-5\r\n", "Bulk string length out of range"),
        (b"*99999999999999\r\n", "more parts"),
        (b"*1\r\n" * 20_000, "nesting"),
        (b"$2000000\r\n" + b"x" * 1_500_000, "longer than"),
    ],
)
async def test_bytes_that_are_no_reply_end_the_connection(data: bytes, text: str) -> None:
    async with (
        open_scripted(say(data)) as server,
        connect(server.url, max_reply_bytes=1_000_000) as redis,
    ):
        with trio.fail_after(PATIENCE):
            expected = pytest.raises(LinkLostError, match=text) if text else nullcontext()
            with expected as caught:
                await redis.execute("SET", "k", "v")
            if caught is not None:
                too_long = text in {"more parts", "longer than"}
                assert isinstance(caught.value.__cause__, ReplyTooLongError) is too_long
                assert isinstance(caught.value.__cause__, ReplyError)
            while redis.statistics().connections < 2:
                await redis.wait_changed()


async def test_what_the_system_had_not_taken_has_not_run() -> None:
    """A command of which bytes are left unsent goes to the next connection."""
    large = b"x" * 20_000_000

    async def read_a_little(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        if server.connections > 1:
            left = len(large) - 1000
            while left > 0:
                left -= len(await stream.receive_some(1 << 20))
            await stream.send_all(b"+OK\r\n")
            await say_nothing(stream)

    async with open_scripted(read_a_little) as server, connect(server.url) as redis:
        with trio.fail_after(PATIENCE):
            assert await redis.execute("SET", "k", large) == b"OK"
    assert server.connections == 2


async def test_who_stands_in_a_crowd_gets_in_when_the_connection_is_lost(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url, max_in_flight=5, max_backoff=0.1) as redis,
    ):
        lost: list[LinkLostError] = []
        done: list[int] = []

        async def increment() -> None:
            try:
                done.append(await redis.execute("INCR", "n"))
            except LinkLostError as error:
                lost.append(error)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                proxy.hold()
                for _ in range(20):
                    nursery.start_soon(increment)
                await trio.testing.wait_all_tasks_blocked()
                assert redis.statistics().crowd == 15
                proxy.cut()
                await wait_state(redis, "reconnecting")
                proxy.release()
        assert [error.may_have_run for error in lost] == [True] * 5
        assert len(done) == 15
        assert redis.statistics() == LinkStatistics(queued=0, in_flight=0, crowd=0, connections=2)


async def test_who_stands_in_a_crowd_gets_in_when_all_before_have_left(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url, max_in_flight=5, max_backoff=0.1) as redis,
    ):
        with trio.fail_after(PATIENCE):
            await proxy.refuse()
            proxy.cut()
            await wait_state(redis, "reconnecting")
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as leaving:
                    for _ in range(5):
                        leaving.start_soon(redis.execute, "INCR", "left")
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(redis.execute, "INCR", "stayed")
                    await trio.testing.wait_all_tasks_blocked()
                    assert redis.statistics().crowd == 1
                    leaving.cancel_scope.cancel()
                await proxy.accept()
            assert await redis.execute("MGET", "left", "stayed") == [None, b"1"]
