"""Pub/sub links that are cut again and again: maps stay equal, and never show what nobody wrote."""

import random
from contextlib import AsyncExitStack
from functools import partial

import attrs
import pytest
import trio

import terzetto
from terzetto import rmap
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.testing import Proxy, open_proxy
from tests.faults.fleet import scaled

pytestmark = pytest.mark.timeout(1800)

CUTS = 50
WRITES = 10_000
WRITERS = 10
KEYS = 20  # of each writer
REPLICAS = 3


@attrs.define
class Books:
    """What was written, and in which order a key's values came."""

    done: int = 0
    written: dict[str, list[str]] = attrs.field(factory=dict[str, list[str]])


async def write(books: Books, replica: rmap.Map, writer: int, count: int) -> None:
    """Write keys of one's own; now and then wait, and look at once."""
    for number in range(count):
        key, value = f"{writer}-{number % KEYS}", str(number)
        books.written.setdefault(key, []).append(value)
        if number % 10:
            await replica.set(key, value)
        else:
            await replica.set_and_wait(key, value)
            assert replica[key] == value, "nobody else writes this key: it was early"
        books.done += 1


async def cut(books: Books, proxy: Proxy, total: int) -> None:
    """Cut every pub/sub link, spread over all the writing."""
    cuts = scaled(CUTS)
    for number in range(cuts):
        while books.done < total * number // cuts:  # noqa: ASYNC110 - counted by other tasks
            await trio.sleep(0.001)
        for connection in proxy.connections:
            if connection.is_subscribed:
                connection.cut()


async def watch(books: Books, replica: rmap.Map, *, task_status: trio.TaskStatus[None]) -> None:
    """Check each change that is shown: somebody wrote it."""
    async with replica.subscribe() as changes:
        task_status.started()
        async for _ in changes:
            key = random.choice(list(books.written))  # noqa: S311 - a sample
            shown = replica.get(key)
            assert shown is None or shown in books.written[key]


async def until_equal(replicas: list[rmap.Map], redis: Redis) -> None:
    """Wait until all show what somebody who joins only now is told."""
    async with rmap.join("scenario", redis) as truth:
        while any(dict(replica) != dict(truth) for replica in replicas):  # noqa: ASYNC110 - messages on the way
            await trio.sleep(0.01)


async def test_maps_are_equal_whatever_is_cut(server: EmbeddedServer) -> None:
    """Cut 50 times under 10,000 writes: equal within 2 s of the last."""
    books = Books()
    each = scaled(WRITES) // WRITERS
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(open_proxy(server.url))
        redis = await stack.enter_async_context(terzetto.connect(server.url))
        replicas: list[rmap.Map] = []
        for _ in range(REPLICAS):
            own = await stack.enter_async_context(terzetto.connect(proxy.url))
            replicas.append(await stack.enter_async_context(rmap.join("scenario", own)))
        async with trio.open_nursery() as watchers:
            for replica in replicas:
                await watchers.start(watch, books, replica)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut, books, proxy, each * WRITERS)
                for writer in range(WRITERS):
                    replica = replicas[writer % REPLICAS]
                    nursery.start_soon(partial(write, books, replica, writer, each))
            with trio.fail_after(2):
                await until_equal(replicas, redis)
            watchers.cancel_scope.cancel()
    assert proxy.accepted > scaled(CUTS)
