"""A reply that is lost after the write was made; subscriptions cut while joining and writing."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from terzetto import rmap
from terzetto.errors import ClosedError
from terzetto.redis import Gap, LinkLostError, Redis, connect
from terzetto.rmap import Map
from terzetto.server import EmbeddedServer
from terzetto.testing import Fault, open_proxy

WRITES: dict[str, tuple[Callable[[Map], Awaitable[object]], dict[str, str]]] = {
    "set": (lambda m: m.set("k", "2"), {"k": "2"}),
    "set_and_wait": (lambda m: m.set_and_wait("k", "2"), {"k": "2"}),
    "set_if_absent": (lambda m: m.set_if_absent("n", "1"), {"k": "1", "n": "1"}),
    "test_and_set": (lambda m: m.test_and_set("k", "1", "2"), {"k": "2"}),
    "increment": (lambda m: m.increment("n"), {"k": "1", "n": "1"}),
    "append_values": (lambda m: m.append_values("l", "a"), {"k": "1", "l": '["a"]'}),
    "append_unique_values": (
        lambda m: m.append_unique_values("l", "a"),
        {"k": "1", "l": '["a"]'},
    ),
    "remove_values": (lambda m: m.remove_values("k", "1"), {}),
    "delete": (lambda m: m.delete("k"), {}),
    "test_and_delete": (lambda m: m.test_and_delete("k", "1"), {}),
    "test_and_reset": (lambda m: m.test_and_reset(["k"], ["1"]), {}),
    "reset": (lambda m: m.reset(), {}),
    "destroy": (lambda m: m.destroy(), {}),
}


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_whose_reply_was_lost_is_not_made_twice_and_can_be_read_back(
    server: EmbeddedServer, name: str
) -> None:
    write, expected = WRITES[name]
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        rmap.join("config", redis) as config,
    ):
        await config.set_and_wait("k", "1" if name != "remove_values" else '["1"]')
        await load_script(redis, name)
        revision = config.revision
        rule = proxy.on("EVALSHA", Fault.DROP_REPLY, times=1)
        with pytest.raises(LinkLostError) as caught:
            await write(config)
        assert caught.value.may_have_run
        await rule.wait_hit()
        await config.sync()
        assert config.snapshot() == expected
        assert config.revision == revision + 1


async def load_script(redis: Redis, name: str) -> None:
    """Let the server know the script, so that the write under test is one EVALSHA."""
    async with rmap.join("elsewhere", redis) as elsewhere:
        await WRITES[name][0](elsewhere)


async def test_sync_reads_what_was_committed_before(redis: Redis) -> None:
    async with rmap.join("config", redis) as config, rmap.join("config", redis) as other:
        await config.sync()
        for number in range(50):
            await config.set("k", str(number))
            await other.sync()
            assert other["k"] == str(number)
        await redis.execute("FLUSHALL")
        await other.sync()
        assert not other
        await config.set("k", "new")
        await other.sync()
        assert other.snapshot() == {"k": "new"}


async def test_sync_can_be_cancelled_and_ends_with_the_map(redis: Redis) -> None:
    async with rmap.join("config", redis) as config:
        with trio.CancelScope() as scope:
            scope.cancel()
            await config.sync()
        assert scope.cancelled_caught
        await config.sync()
    with pytest.raises(ClosedError):
        await config.sync()


async def test_a_subscription_cut_while_joining_does_not_give_half_a_map(
    server: EmbeddedServer, redis: Redis
) -> None:
    async with rmap.join("config", redis) as config:
        await config.set("k", "1")
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as through,
        through.subscribe("another") as subscription,
        trio.open_nursery() as nursery,
    ):
        rule = proxy.on("HGETALL", Fault.HOLD_REPLY, times=1)

        async def join() -> None:
            async with rmap.join("config", through) as config:
                assert config.snapshot() == {"k": "1"}
                assert config.revision == 1

        nursery.start_soon(join)
        await rule.wait_hit()
        for connection in proxy.connections:
            if connection.is_subscribed:
                connection.cut()
        assert await anext(subscription) == Gap()  # the map's has heard of it too
        await wait_all_tasks_blocked(0.01)
        rule.release()


@pytest.mark.timeout(180)
async def test_subscriptions_cut_under_writes_lose_nothing(server: EmbeddedServer) -> None:
    """50 cuts under 2,000 writes by two: no value nobody wrote, no wait that is over early."""
    written: set[str] = set()
    done = trio.Event()

    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        connect(server.url) as steady,
        rmap.join("config", redis) as one,
        rmap.join("config", steady) as two,
    ):

        async def write(config: Map, name: str) -> None:
            for number in range(1000):
                value = f"{name} {number}"
                written.add(value)
                if number % 10:
                    await two.set(f"k{number % 7}", value)
                else:
                    await config.set_and_wait(name, value)
                    assert config[name] == value

        async def cut() -> None:
            for number in range(50):
                for connection in proxy.connections:
                    if connection.is_subscribed:
                        connection.cut()
                written.add(str(number))
                await two.set_and_wait("cut", str(number))
                await trio.sleep(0.005)
            done.set()

        async def look() -> None:
            async with one.subscribe() as changes:
                async for _ in changes:
                    assert written.issuperset(one.values())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            async with trio.open_nursery() as writers:
                writers.start_soon(write, one, "a")
                writers.start_soon(write, two, "b")
                writers.start_soon(cut)
            assert done.is_set()
            with trio.fail_after(20):
                await one.sync()
                await two.sync()
            assert one.snapshot() == two.snapshot()
            assert one.revision == two.revision == 2050
            nursery.cancel_scope.cancel()
