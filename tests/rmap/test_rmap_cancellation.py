"""Every public await of a map, cancelled at once and while Redis does not answer or is gone."""

import os
import signal
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from terzetto import rmap
from terzetto.redis import LinkClosedError, LinkLostError, Redis, connect
from terzetto.rmap import Map
from terzetto.server import EmbeddedServer
from terzetto.testing import open_proxy

AWAITS: dict[str, Callable[[Map], Awaitable[object]]] = {
    "set": lambda m: m.set("k", "2"),
    "set_and_wait": lambda m: m.set_and_wait("k", "2"),
    "set_if_absent": lambda m: m.set_if_absent("n", "2"),
    "test_and_set": lambda m: m.test_and_set("k", "1", "2"),
    "increment": lambda m: m.increment("n"),
    "append_values": lambda m: m.append_values("l", "a"),
    "append_unique_values": lambda m: m.append_unique_values("l", "a"),
    "remove_values": lambda m: m.remove_values("k", "1"),
    "delete": lambda m: m.delete("k"),
    "test_and_delete": lambda m: m.test_and_delete("k", "1"),
    "test_and_reset": lambda m: m.test_and_reset(["k"], ["1"]),
    "reset": lambda m: m.reset(),
    "destroy": lambda m: m.destroy(),
}
"""What goes to the server."""


async def next_change(config: Map) -> None:
    async with config.subscribe() as changes:
        await anext(changes)


async def next_value(config: Map) -> None:
    async with config.watch("k") as values:
        await anext(values)  # the one that the key has now
        await anext(values)


WAITS: dict[str, Callable[[Map], Awaitable[object]]] = {
    "wait_for": lambda m: m.wait_for(lambda m: m.get("k") == "never"),
    "subscribe": next_change,
    "watch": next_value,
}
"""What only waits for changes."""

ALL: dict[str, Callable[[Map], Awaitable[object]]] = {
    **AWAITS,
    **WAITS,
    "sync": lambda m: m.sync(),
}


async def join_once(redis: Redis) -> None:
    async with rmap.join("other", redis):
        pass


@pytest.mark.parametrize("name", ALL)
async def test_a_cancelled_call_was_not_sent(redis: Redis, name: str) -> None:
    async with rmap.join("config", redis) as config:
        await config.set_and_wait("k", "1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await ALL[name](config)
        assert scope.cancelled_caught
        await config.set_and_wait("after", "1")
        assert config.snapshot() == {"k": "1", "after": "1"}
        assert config.revision == 2


@pytest.mark.parametrize("name", ALL)
async def test_a_call_can_be_cancelled_while_the_server_hangs(
    server: EmbeddedServer, name: str
) -> None:
    async with connect(server.url) as redis, rmap.join("config", redis) as config:
        await config.set_and_wait("k", "1")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with trio.move_on_after(0.05) as scope:
                await ALL[name](config)
            assert scope.cancelled_caught
            assert config["k"] == "1"
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await config.set_and_wait("k", "3")
        assert config["k"] == "3"


@pytest.mark.parametrize("name", AWAITS)
async def test_a_call_ends_when_the_server_is_gone(server: EmbeddedServer, name: str) -> None:
    """What was under way raises; what comes later waits until it is cancelled."""
    outcome: list[LinkLostError] = []
    async with connect(server.url) as redis, rmap.join("config", redis) as config:
        await config.set_and_wait("k", "1")
        os.kill(server.pid, signal.SIGSTOP)

        async def call() -> None:
            with pytest.raises(LinkLostError) as caught:
                await AWAITS[name](config)
            outcome.append(caught.value)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await wait_all_tasks_blocked()
                os.kill(server.pid, signal.SIGKILL)
        with trio.move_on_after(0.05) as scope:
            await AWAITS[name](config)
        assert scope.cancelled_caught
        assert config["k"] == "1"
        assert config.stale_since is not None
    assert outcome[0].may_have_run
    assert config["k"] == "1"


@pytest.mark.parametrize("name", [*WAITS, "sync"])
async def test_what_waits_for_changes_waits_out_an_outage(
    server: EmbeddedServer, name: str
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        rmap.join("config", redis) as config,
        connect(server.url) as direct,
        rmap.join("config", direct) as other,
    ):
        await config.set_and_wait("k", "1")
        await proxy.refuse()
        proxy.cut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ALL[name], config)
            await other.set("k", "never")
            await proxy.accept()
        assert config["k"] == "never"


async def test_reading_needs_no_server(server: EmbeddedServer) -> None:
    async with connect(server.url) as redis, rmap.join("config", redis) as config:
        await config.set_and_wait("l", '["a"]')
        os.kill(server.pid, signal.SIGKILL)
        with trio.fail_after(30):
            while redis.state == "connected":
                await redis.wait_changed()
        assert config.get_values("l") == ["a"]
        assert list(config.items()) == [("l", '["a"]')]
        with trio.move_on_after(0.05) as scope:
            await config.wait_for(lambda m: len(m) > 1)
        assert scope.cancelled_caught


async def test_joining_can_be_cancelled_at_every_await(redis: Redis) -> None:
    for turns in range(40):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel_later(turns: int = turns, scope: trio.CancelScope = scope) -> None:
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel_later)
                await join_once(redis)
    await redis.execute("PING")
    with trio.fail_after(10):
        while await redis.execute("PUBSUB", "CHANNELS", "map:*"):
            await trio.lowlevel.checkpoint()
    assert await redis.execute("DBSIZE") == 0


async def test_joining_waits_for_a_server_that_hangs_and_can_be_cancelled(
    server: EmbeddedServer,
) -> None:
    async with connect(server.url) as redis:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with trio.move_on_after(0.05) as scope:
                await join_once(redis)
            assert scope.cancelled_caught
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await join_once(redis)


async def test_joining_waits_for_a_server_that_is_gone(server: EmbeddedServer) -> None:
    async with connect(server.url) as redis:
        os.kill(server.pid, signal.SIGKILL)
        with trio.move_on_after(0.1) as scope:
            await join_once(redis)
        assert scope.cancelled_caught


async def test_joining_over_a_closed_client_is_refused(server: EmbeddedServer) -> None:
    async with connect(server.url) as redis:
        pass
    with pytest.raises(LinkClosedError):
        await join_once(redis)
