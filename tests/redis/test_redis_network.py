"""The faults of a network, one by one: what was cut, dropped, held, or came as rubbish."""

from functools import partial
from random import Random

import pytest
import trio
from redis.exceptions import NoScriptError, ResponseError

from terzetto.actor import Actor, Stop, open_supervisor
from terzetto.redis import LinkLostError, Redis, Reply, Script, WrongLinkError, connect
from terzetto.redis._link import Link
from terzetto.server import EmbeddedServer
from terzetto.testing import Fault, open_proxy
from tests.redis.scripted import PATIENCE, open_scripted, say_nothing, wait_state


async def test_a_reply_that_is_lost_after_the_command_ran(server: EmbeddedServer) -> None:
    async with open_proxy(server.url) as proxy, connect(proxy.url) as redis:
        proxy.on("INCR", Fault.DROP_REPLY)
        with pytest.raises(LinkLostError) as caught:
            await redis.execute("INCR", "n")
        assert caught.value.may_have_run
        assert await redis.execute("GET", "n") == b"1"  # it had, and was not sent again


async def test_a_command_that_is_cut_off_is_not_sent_again_either(server: EmbeddedServer) -> None:
    async with open_proxy(server.url) as proxy, connect(proxy.url) as redis:
        proxy.on("INCR", Fault.CUT)
        with pytest.raises(LinkLostError) as caught:
            await redis.execute("INCR", "n")
        assert caught.value.may_have_run  # nobody here can know
        assert await redis.execute("GET", "n") is None


async def test_a_reading_command_is_sent_again_until_it_is_answered(
    server: EmbeddedServer,
) -> None:
    async with open_proxy(server.url) as proxy, connect(proxy.url, max_backoff=0.05) as redis:
        rule = proxy.on("GET", Fault.DROP_REPLY, times=3)
        with trio.fail_after(PATIENCE):
            assert await redis.execute("GET", "n") is None
        assert rule.hits == 3


async def test_a_lost_script_says_so(server: EmbeddedServer) -> None:
    script = Script("count", "return redis.call('INCR', KEYS[1])")
    async with open_proxy(server.url) as proxy, connect(proxy.url) as redis:
        await redis.run_script(script, keys=["n"])
        proxy.on("EVALSHA", Fault.DROP_REPLY)
        with pytest.raises(LinkLostError):
            await redis.run_script(script, keys=["n"])
        assert await redis.run_script(script, keys=["n"]) == 3


async def test_the_reply_to_a_posted_script_is_heard_of_whatever_becomes_of_it(
    server: EmbeddedServer,
) -> None:
    script = Script("count", "return redis.call('INCR', KEYS[1])")
    heard: list[Reply] = []
    async with open_proxy(server.url) as proxy, connect(proxy.url) as redis:

        async def post() -> Reply:
            told = trio.Event()

            def hear(reply: Reply) -> None:
                heard.append(reply)
                told.set()

            assert redis.post_script(script, ["n"], [], hear)
            with trio.fail_after(PATIENCE):
                await told.wait()
            return heard.pop()

        assert isinstance(await post(), NoScriptError)
        await redis.run_script(script, keys=["n"])
        assert await post() == 2
        proxy.on("EVALSHA", Fault.DROP_REPLY)
        assert isinstance(await post(), LinkLostError)
        assert not redis.post_script(script, ["n"], [], heard.append), "there is no connection"
        await redis.wait_connected()
        assert await post() == 4
    assert heard == []


async def test_the_reply_to_a_posted_command_is_heard_of_whatever_becomes_of_it(
    server: EmbeddedServer,
) -> None:
    heard: list[Reply] = []
    async with open_proxy(server.url) as proxy, connect(proxy.url) as redis:

        async def post(*args: str) -> Reply:
            told = trio.Event()

            def hear(reply: Reply) -> None:
                heard.append(reply)
                told.set()

            assert redis.post(*args, on_reply=hear)
            with trio.fail_after(PATIENCE):
                await told.wait()
            return heard.pop()

        assert await post("GET", "n") is None
        assert await post("INCR", "n") == 1
        assert isinstance(await post("LPUSH", "n", "x"), ResponseError)
        proxy.on("INCR", Fault.DROP_REPLY)
        lost = await post("INCR", "n")
        assert isinstance(lost, LinkLostError)
        assert lost.may_have_run
        assert not redis.post("INCR", "n", on_reply=heard.append), "there is no connection"
        await redis.wait_connected()
        assert await post("INCR", "n") == 3
    assert heard == []


async def test_what_is_posted_and_not_written_any_more_is_heard_of_as_not_run(
    server: EmbeddedServer,
) -> None:
    heard: dict[str, Reply] = {}
    async with connect(server.url) as redis:
        assert redis.post("INCR", "a", on_reply=partial(heard.__setitem__, "a"))
        redis._link.retire(OSError("as after a fail-over"))  # pyright: ignore[reportPrivateUsage] - no server does so when asked
        assert redis.post("INCR", "b", on_reply=partial(heard.__setitem__, "b"))
        assert await redis.execute("GET", "b") is None  # by the next connection
    assert heard["a"] == 1
    assert isinstance(heard["b"], LinkLostError)
    assert not heard["b"].may_have_run


async def test_what_is_posted_as_the_connection_breaks_is_heard_of_though_callers_crowd(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers who wait for room throw out what nobody waits for any more."""
    told = trio.Event()
    heard: list[Reply] = []

    def hear(reply: Reply) -> None:
        heard.append(reply)
        told.set()

    def fail(_: bytes) -> int:
        raise BrokenPipeError("as when the server is gone")

    async with connect(server.url, max_in_flight=1, max_backoff=0.05) as redis:
        await redis.execute("PING")
        with monkeypatch.context() as broken:
            broken.setattr(redis._link._transport, "send_now", fail)  # pyright: ignore[reportPrivateUsage] - no server breaks just then
            assert redis.post("INCR", "n", on_reply=hear)
        with trio.fail_after(PATIENCE):
            assert await redis.execute("GET", "n") is None
            await told.wait()
    [lost] = heard
    assert isinstance(lost, LinkLostError)
    assert not lost.may_have_run


@pytest.mark.parametrize("command", [("BLPOP", "l", "0"), ("SELECT", "1"), ("MULTI",)])
async def test_what_cannot_share_a_link_is_not_posted(
    redis: Redis, command: tuple[str, ...]
) -> None:
    heard: list[Reply] = []
    with pytest.raises(WrongLinkError):
        redis.post(*command, on_reply=heard.append)
    assert await redis.execute("PING") == b"PONG"
    assert heard == []


async def test_posted_scripts_are_run_in_order_with_all_that_is_sent(
    server: EmbeddedServer,
) -> None:
    script = Script("list", "return redis.call('RPUSH', KEYS[1], ARGV[1])")
    heard: list[Reply] = []
    async with connect(server.url) as redis:
        await redis.run_script(script, keys=["l"], args=["0"])
        async with trio.open_nursery() as nursery:
            for number in range(1, 5):
                assert redis.post_script(script, ["l"], [number], heard.append)
                nursery.start_soon(redis.execute, "PING")
        assert await redis.execute("LRANGE", "l", 0, -1) == [b"0", b"1", b"2", b"3", b"4"]
    assert heard == [2, 3, 4, 5]


async def test_a_held_reply_holds_up_only_its_own_connection(server: EmbeddedServer) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        redis.open_dedicated("other") as dedicated,
    ):
        await dedicated.execute("PING")
        rule = proxy.on("INCR", Fault.HOLD_REPLY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(redis.execute, "INCR", "n")
            await rule.wait_hit()
            assert await dedicated.execute("GET", "n") == b"1"
            rule.release()


@pytest.mark.parametrize("seed", range(6))
async def test_rubbish_reaches_no_caller_as_a_reply(seed: int) -> None:
    """A caller gets the right reply or an error, and the link comes back, whatever is sent."""
    random = Random(seed)  # noqa: S311 - a test's dice

    async def rubbish(stream: trio.SocketStream) -> None:
        if server.connections > 8:
            await say_nothing(stream)
        await stream.receive_some()
        pieces = [b"*", b"$", b":", b"+", b"-", b"%", b">", b"~", b"_", b"#", b"(", b"=", b"\r\n"]
        pieces += [b"12", b"-1", b"99999999999", b"x", b"\0\xff", b"3\r\n"]
        await stream.send_all(b"".join(random.choices(pieces, k=random.randrange(1, 60))))

    async with (
        open_scripted(rubbish) as server,
        connect(server.url, max_backoff=0.02, server_timeout=0.5) as redis,
    ):
        with trio.fail_after(PATIENCE):
            while server.connections < 8:
                try:
                    await redis.execute("INCR", "n")
                except LinkLostError:
                    await trio.lowlevel.checkpoint()
                except Exception as error:  # noqa: BLE001 - a broken error reply is one of redis-py's
                    assert type(error).__module__ == "redis.exceptions"  # noqa: PT017 - the point of the test


async def test_a_crash_of_the_links_actor_loses_nobody(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in here is restarted by the supervisor, and what waits goes on waiting."""
    reads = Link._read_replies  # pyright: ignore[reportPrivateUsage] - to break it once
    crashes = 0

    async def crash_once(self: Link, *args: object) -> None:
        nonlocal crashes
        crashes += 1
        if crashes == 1:
            raise RuntimeError("a bug")
        await reads(self, *args)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - handed on

    async with connect(redis.url) as other:
        monkeypatch.setattr(Link, "_read_replies", crash_once)
        await other.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await wait_state(redis, "reconnecting")
    with trio.fail_after(PATIENCE):
        assert await redis.execute("ECHO", "mine") == b"mine"
    assert crashes == 2


async def test_an_actor_may_use_the_client_while_it_stops(server: EmbeddedServer) -> None:
    """What runs inside the block closes before the links, also when all is cancelled."""
    said: list[object] = []

    class Leaving(Actor):
        async def stopping(self, reason: Stop) -> None:
            said.append((reason, await redis.execute("ECHO", "bye")))

    with trio.CancelScope() as scope:
        async with connect(server.url) as redis, open_supervisor() as top:
            await top.spawn(Leaving)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert said == [(Stop.CLOSED, b"bye")]
