"""When a copy says that it may be stale: the connection of its messages is cut, or hangs."""

from datetime import UTC, datetime

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from terzetto import rmap
from terzetto.redis import Message, Redis, connect
from terzetto.rmap import Map, content_key, updates_channel
from terzetto.server import EmbeddedServer
from terzetto.testing import Fault, open_proxy

pytestmark = pytest.mark.timeout(120)


async def becomes(config: Map, *, stale: bool) -> None:
    """Wait until the map says so; nobody tells of it, for it is what nobody hears."""
    with trio.fail_after(60):
        while (config.stale_since is not None) is not stale:  # noqa: ASYNC110 - as above
            await trio.sleep(0.01)


async def test_a_cut_of_the_messages_connection_alone_is_seen_at_once(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        rmap.join("m", redis, poll_interval=1000.0) as config,
    ):
        await config.set_and_wait("k", "1")
        assert config.stale_since is None
        await proxy.refuse()
        for connection in proxy.connections:
            if connection.is_subscribed:
                connection.cut()
        await becomes(config, stale=True)
        assert redis.state == "connected"
        assert config["k"] == "1"
        await config.set("k", "2")
        await proxy.accept()
        await becomes(config, stale=False)
        assert config["k"] == "2"


async def test_a_messages_connection_that_hangs_is_seen_by_the_next_poll(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        rmap.join("m", redis, poll_interval=0.2) as config,
    ):
        await config.set_and_wait("k", "1")
        (messages,) = [c for c in proxy.connections if c.is_subscribed]
        messages.hold()
        await becomes(config, stale=True)
        await config.set("k", "2")
        with trio.fail_after(60):
            await config.wait_for(lambda m: m.get("k") == "2")  # read by the client's own link
        assert config.stale_since is not None
        messages.release()
        await becomes(config, stale=False)
        await config.set_and_wait("k", "3")


async def test_a_message_from_before_a_flush_does_not_show_after_it(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as slow,
        connect(server.url) as fast,
        rmap.join("m", slow, poll_interval=0.2) as config,
        rmap.join("m", fast) as writer,
    ):
        shown: list[str | None] = []
        for number in range(3):
            await writer.set("k", str(number))
        await config.sync()
        (messages,) = [c for c in proxy.connections if c.is_subscribed]
        messages.hold()
        await writer.set("k", "older")
        await writer.set("k", "old")  # revision 5; its message is under way
        await fast.execute("FLUSHALL")
        for number in range(4):
            await writer.set("k", f"new {number}")  # revision 4: the old message is its successor
        async with trio.open_nursery() as nursery:

            async def watch(*, task_status: trio.TaskStatus[None]) -> None:
                async with config.watch("k") as values:
                    task_status.started()
                    async for value in values:
                        shown.append(value)  # noqa: PERF401 - it goes on until it is cancelled

            await nursery.start(watch)
            with trio.fail_after(60):
                await config.wait_for(lambda m: m.get("k") == "new 3")
            messages.release()
            await becomes(config, stale=False)
            await writer.set("k", "end")
            with trio.fail_after(60):
                await config.wait_for(lambda m: m.get("k") == "end")
            nursery.cancel_scope.cancel()
        assert "old" not in shown


async def test_set_and_wait_is_not_ended_by_an_old_message_of_the_same_revision(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as slow,
        connect(server.url) as fast,
        rmap.join("m", slow, poll_interval=1000.0) as config,
        rmap.join("m", fast) as writer,
    ):
        await writer.set("k", "0")
        await config.sync()
        (messages,) = [c for c in proxy.connections if c.is_subscribed]
        messages.hold()
        for number in range(4):
            await writer.set("k", f"old {number}")  # revisions 2 to 5, under way
        await fast.execute("FLUSHALL")
        await writer.set("k", "new")
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                await config.set_and_wait("mine", "x")  # revision 2
                assert config.snapshot() == {"k": "new", "mine": "x"}

            nursery.start_soon(write)
            await writer.wait_for(lambda m: "mine" in m)
            messages.release()
        assert config.stale_since is None


async def test_sync_is_not_over_while_the_same_revision_is_of_a_lost_count(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as slow,
        connect(server.url) as fast,
        rmap.join("m", slow, poll_interval=1000.0) as config,
        rmap.join("m", fast) as writer,
    ):
        for release_first in (True, False):
            await fast.execute("FLUSHALL")
            await config.sync()
            await writer.set("k", "old")
            await config.sync()
            (messages,) = [c for c in proxy.connections if c.is_subscribed]
            messages.hold()
            await fast.execute("FLUSHALL")
            await writer.set("k", "new")
            async with trio.open_nursery() as nursery:

                async def sync() -> None:
                    await config.sync()
                    assert config["k"] == "new"

                nursery.start_soon(sync)
                if release_first:  # else the map is read by the client's own link
                    await wait_all_tasks_blocked(0.01)
                    messages.release()
            messages.release()
            await becomes(config, stale=False)


async def test_old_messages_that_come_while_the_map_is_read_by_the_other_road_do_not_show(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as slow,
        connect(server.url) as fast,
        slow.subscribe("last") as last,
        rmap.join("m", slow, poll_interval=0.2) as config,
        rmap.join("m", fast) as writer,
    ):
        shown: list[dict[str, str]] = []
        for number in range(3):
            await writer.set("k", str(number))
        await config.sync()
        (messages,) = [c for c in proxy.connections if c.is_subscribed]
        messages.hold()
        await writer.set("k", "older")
        await writer.set("k", "old")  # revision 5
        await fast.execute("FLUSHALL")
        for number in range(3):
            await writer.set("k", f"new {number}")
        await writer.set("other", "new")  # revision 4
        reading = proxy.on("HGETALL", Fault.HOLD_REPLY)
        async with trio.open_nursery() as nursery:

            async def look(*, task_status: trio.TaskStatus[None]) -> None:
                async with config.subscribe() as changes:
                    task_status.started()
                    async for _ in changes:
                        shown.append(config.snapshot())  # noqa: PERF401 - as above

            await nursery.start(look)
            with trio.fail_after(60):
                await reading.wait_hit()
            messages.release()
            await fast.execute("PUBLISH", "last", "")
            assert isinstance(await anext(last), Message)  # what was held is here
            reading.release()
            await becomes(config, stale=False)
            nursery.cancel_scope.cancel()
        assert {"k": "old", "other": "new"} not in shown
        assert shown[-1] == {"k": "new 2", "other": "new"}


async def test_a_server_that_hangs_and_is_given_up_moves_stale_since_nowhere(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url, server_timeout=1.5) as redis,
        rmap.join("m", redis, poll_interval=0.2) as config,
    ):
        await config.set_and_wait("k", "1")
        connections = proxy.accepted
        proxy.hold()
        held_at = datetime.now(UTC)
        await becomes(config, stale=True)
        with trio.fail_after(60):
            while proxy.accepted < connections + 2:  # both have been given up
                assert config.stale_since is not None
                assert config.stale_since <= held_at
                await trio.sleep(0.01)  # it is looked at all the while, not awaited
        proxy.release()
        await becomes(config, stale=False)


async def test_errors_and_what_is_no_message_do_not_make_a_copy_exact(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with rmap.join("m", redis, poll_interval=0.05) as config:
        await config.set_and_wait("k", "1")
        await redis.execute_many([("DEL", content_key("m")), ("SET", content_key("m"), "")])
        await becomes(config, stale=True)
        since = config.stale_since
        with trio.fail_after(60):
            while caplog.text.count("the map cannot be read") < 4:
                await redis.execute("PUBLISH", updates_channel("m"), "junk")
                await redis.execute("PUBLISH", updates_channel("m"), "reset:1")
                await trio.sleep(0.01)  # as above
                assert config.stale_since == since
        await redis.execute("DEL", content_key("m"))
        await becomes(config, stale=False)


async def test_messages_that_are_not_listened_to_do_not_make_a_copy_exact(
    server: EmbeddedServer,
) -> None:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as slow,
        connect(server.url) as fast,
        rmap.join("m", slow, poll_interval=0.2) as config,
        rmap.join("m", fast) as writer,
        slow.subscribe(updates_channel("m")) as messages,
    ):
        await config.set_and_wait("k", "1")
        await anext(messages)
        (connection,) = [c for c in proxy.connections if c.is_subscribed]
        connection.hold()
        await writer.set("k", "2")
        with trio.fail_after(60):
            await config.wait_for(lambda m: m["k"] == "2")  # read by the other road
        await becomes(config, stale=True)
        await writer.set("k", "3")
        proxy.delay = 0.5  # the answer, which makes the copy exact, comes a second later
        connection.release()
        with trio.fail_after(60):
            for _ in range(2):
                await anext(messages)
                assert config.stale_since is not None or config["k"] == "3"
        proxy.delay = 0.0
        await becomes(config, stale=False)
        assert config["k"] == "3"
