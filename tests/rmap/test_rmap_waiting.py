"""Subscribing, watching and waiting: what is told, what is merged, and how it ends."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from terzetto import rmap
from terzetto.codec import json_codec
from terzetto.errors import ClosedError
from terzetto.redis import Redis
from terzetto.rmap import Change, Map, content_key


@pytest.fixture
async def config(redis: Redis) -> AsyncIterator[Map]:
    async with rmap.join("config", redis) as joined:
        yield joined


async def test_each_change_is_told_with_its_kind(config: Map) -> None:
    async with config.subscribe() as changes:
        await config.set("k", "1")
        assert await anext(changes) is Change.SET
        assert config["k"] == "1"
        await config.delete("k")
        assert await anext(changes) is Change.DELETE
        await config.append_values("l", "a")
        assert await anext(changes) is Change.SET
        await config.remove_values("l", "a")
        assert await anext(changes) is Change.DELETE
        await config.reset()
        assert await anext(changes) is Change.RESET
        await config.destroy()
        assert await anext(changes) is Change.RESET


async def test_a_reset_is_not_lost_behind_other_changes(config: Map) -> None:
    async with config.subscribe() as changes, config.subscribe() as others:
        await config.set_and_wait("k", "1")
        await config.delete("k")
        await config.reset()
        await config.set("k", "2")
        await config.set_and_wait("k", "3")
        assert await anext(changes) is Change.RESET
        await config.set("k", "4")
        assert await anext(changes) is Change.SET
        assert await anext(others) is Change.RESET


async def test_a_cancelled_look_loses_nothing(config: Map) -> None:
    async with config.subscribe() as changes:
        with trio.move_on_after(0):
            await anext(changes)
        await config.set_and_wait("k", "1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(changes)
        assert await anext(changes) is Change.SET


async def test_a_subscriber_that_never_looks_holds_up_nobody(config: Map) -> None:
    async with config.subscribe(), config.subscribe() as changes:
        for number in range(300):
            await config.set("k", str(number))
        await config.set_and_wait("k", "last")
        assert await anext(changes) is Change.SET
        assert config["k"] == "last"


async def test_leaving_the_map_ends_what_waits(redis: Redis) -> None:
    ended: list[str] = []

    async def subscribe(config: Map) -> None:
        async with config.subscribe() as changes:
            async for _ in changes:
                pass
        ended.append("subscribe")

    async def watch(config: Map) -> None:
        async with config.watch("k") as values:
            async for _ in values:
                pass
        ended.append("watch")

    async def wait(config: Map) -> None:
        with pytest.raises(ClosedError):
            await config.wait_for(lambda m: "k" in m)
        ended.append("wait")

    async with trio.open_nursery() as nursery, rmap.join("config", redis) as config:
        for task in (subscribe, watch, wait):
            nursery.start_soon(task, config)
        await wait_all_tasks_blocked()
        assert ended == []
    assert sorted(ended) == ["subscribe", "wait", "watch"]
    async with config.subscribe() as changes:
        with pytest.raises(StopAsyncIteration):
            await anext(changes)
    with pytest.raises(ClosedError):
        await config.wait_for(lambda m: "k" in m)
    assert await config.wait_for(lambda m: m.is_closed)


async def test_a_slot_ends_with_its_block(config: Map) -> None:
    async with config.subscribe() as changes:
        pass
    await config.set_and_wait("k", "1")
    with pytest.raises(StopAsyncIteration):
        await anext(changes)


async def test_two_tasks_cannot_wait_for_one_notice(config: Map) -> None:
    async with config.watch("k") as values:
        assert await anext(values) is None

        async def look() -> None:
            assert await anext(values) == "1"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await anext(values)
            await config.set("k", "1")  # and the first is woken by it


async def test_watch_gives_the_value_now_and_then_each_last_one(config: Map) -> None:
    await config.set_and_wait("k", "1")
    async with config.watch("k") as values:
        assert await anext(values) == "1"
        await config.set("k", "2")
        assert await anext(values) == "2"
        await config.set("k", "3")
        await config.set_and_wait("k", "4")
        assert await anext(values) == "4"
        await config.delete("k")
        assert await anext(values) is None
        await config.set_and_wait("other", "1")
        with trio.move_on_after(0) as at_once:
            await anext(values)
        assert at_once.cancelled_caught
        await config.reset()
        await config.set_and_wait("k", "5")
        assert await anext(values) == "5"


async def test_watch_of_an_absent_key_gives_none_first(config: Map) -> None:
    async with config.watch("k") as values:
        assert await anext(values) is None


async def test_watch_is_not_woken_by_a_reset_that_changes_nothing_for_it(config: Map) -> None:
    await config.set_and_wait("other", "1")
    async with config.watch("k") as values:
        assert await anext(values) is None
        await config.reset()
        await config.set_and_wait("other", "2")
        with trio.move_on_after(0) as at_once:
            await anext(values)
        assert at_once.cancelled_caught
        await config.set("k", "1")
        assert await anext(values) == "1"


async def test_wait_for_gives_what_the_predicate_gave(config: Map) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(config.set, "k", "1")
        assert await config.wait_for(lambda m: m.get("k")) == "1"
    assert await config.wait_for(len) == 1


async def test_wait_for_misses_nothing_between_two_waits(config: Map) -> None:
    async def count() -> None:
        for number in range(1, 101):
            await config.increment("n")
            if number % 10 == 0:
                await trio.lowlevel.checkpoint()

    seen = 0

    def grown(joined: Map) -> int:
        now = int(joined.get("n", "0"))
        return now if now > seen else 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        while seen < 100:
            seen = await config.wait_for(grown)


async def test_what_a_predicate_raises_comes_out(config: Map) -> None:
    def fail(_: Map) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await config.wait_for(fail)


async def test_watch_tells_apart_what_is_equal_and_stored_in_another_way(redis: Redis) -> None:
    codec = json_codec(object)
    async with (
        rmap.join("config", redis, codec=codec) as config,
        config.watch("k") as values,
        config.watch("l") as others,
    ):
        await config.set("k", 1)
        await config.set_and_wait("l", [1])
        assert await anext(values) == 1
        assert await anext(others) == [1]
        await redis.execute_many(
            [
                ["HSET", content_key("config"), "k", "true"],
                ["HINCRBY", content_key("config"), "=rev", 1],
            ]
        )
        await config.sync()  # no message told of that: the map is read again
        assert await anext(values) is True
        with trio.move_on_after(0) as at_once:
            await anext(others)
        assert at_once.cancelled_caught


@pytest.mark.parametrize(("key", "error"), [("", ValueError), ("a=b", ValueError), (3, TypeError)])
async def test_a_key_that_no_map_has_cannot_be_watched(
    config: Map, key: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match="key"):
        async with config.watch(cast("str", key)):
            pass


async def test_an_async_predicate_is_refused(config: Map) -> None:
    async def predicate(_: Map) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    givens: list[object] = [predicate, partial(predicate), 3]
    for given in givens:
        with pytest.raises(TypeError, match="predicate"):
            await config.wait_for(cast("Callable[[Map], bool]", given))
