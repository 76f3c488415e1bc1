"""Dedicated links in a cluster: blocking reads where a slot's owner is, whoever that is."""

from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest
import trio
from redis.exceptions import ResponseError

from terzetto.redis import Dedicated, LinkLostError, Redis, connect
from terzetto.redis._link import Link
from terzetto.server import Cluster, open_cluster
from tests.redis.moving import (
    KEY,
    begin_move,
    end_move,
    move_keys,
    move_slot,
    owner_and_other,
    wait_blocked,
)
from tests.redis.scripted import wait_until

FAIL_OVER = 45.0  # seconds for the cluster to agree; the machine may be busy


async def read(dedicated: Dedicated, after: str) -> list[bytes]:
    """Wait for the next entries of the stream at `KEY`; return their values."""
    reply = await dedicated.execute("XREAD", "BLOCK", 0, "STREAMS", KEY, after)
    return [fields[1] for _, fields in reply[KEY.encode()]]


async def test_a_blocking_read_goes_where_its_slot_goes(masters: Cluster) -> None:
    got: list[bytes] = []

    async with (
        connect(masters.url) as redis,
        redis.open_dedicated("reader", key=KEY) as dedicated,
        AsyncExitStack() as stack,
    ):
        source, target = await owner_and_other(stack, masters)
        assert redis.slot_owner(KEY) == f"redis://127.0.0.1:{source.server.port}"

        async def read_next(after: str) -> None:
            got.extend(await read(dedicated, after))

        with trio.fail_after(FAIL_OVER):
            await redis.execute("XADD", KEY, "0-1", "f", "one")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_next, "0-1")
                await wait_blocked(source.client)
                await move_slot(source, target, [KEY])  # MOVED, in the midst of waiting
                await wait_blocked(target.client)
                await redis.execute("XADD", KEY, "0-2", "f", "two")
            assert got == [b"two"]
            assert dedicated.link.endpoint.port == target.server.port
            assert redis.slot_owner(KEY) == f"redis://127.0.0.1:{target.server.port}"
            # And back, while nobody reads: the next call finds out.
            await move_slot(target, source, [KEY])
            assert await read(dedicated, "0") == [b"one", b"two"]
            assert dedicated.link.endpoint.port == source.server.port


async def test_a_blocking_read_of_what_has_left_waits_at_its_new_place(
    masters: Cluster,
) -> None:
    """ASK: the slot is on its way, the stream has arrived, the list has not left."""
    stays = "{moving}list"
    async with (
        connect(masters.url) as redis,
        redis.open_dedicated("reader", key=KEY) as dedicated,
        AsyncExitStack() as stack,
    ):
        source, target = await owner_and_other(stack, masters)
        await redis.execute("XADD", KEY, "0-1", "f", "one")
        await redis.execute("RPUSH", stays, "a")
        got: list[bytes] = []

        async def read_next() -> None:
            got.extend(await read(dedicated, "0-1"))

        with trio.fail_after(FAIL_OVER):
            await begin_move(source, target)
            await move_keys(source, target, [KEY])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_next)
                await wait_blocked(target.client)
                await redis.execute("XADD", KEY, "0-2", "f", "two")
            assert got == [b"two"]
            with trio.move_on_after(0.1) as scope:  # cancelled there, it disturbs nobody
                await read(dedicated, "0-2")
            assert scope.cancelled_caught
            assert await dedicated.execute("BLPOP", stays, 0) == [stays.encode(), b"a"]
            units = [("MULTI",), ("XADD", KEY, "0-3", "f", "three"), ("XLEN", KEY), ("EXEC",)]
            assert (await dedicated.execute_many(units))[-1] == [b"0-3", 3]
            assert await dedicated.execute_many([("XLEN", KEY), ("XLEN", KEY)]) == [3, 3]
            await end_move(source, target)
            assert await dedicated.execute("XLEN", KEY) == 3


async def test_a_unit_goes_where_its_slot_goes_as_a_whole(masters: Cluster) -> None:
    async with (
        connect(masters.url) as redis,
        redis.open_dedicated("writer", key=KEY) as dedicated,
        AsyncExitStack() as stack,
    ):
        source, target = await owner_and_other(stack, masters)
        with trio.fail_after(FAIL_OVER):
            assert await dedicated.execute("INCR", KEY) == 1
            await move_slot(source, target, [KEY])
            replies = await dedicated.execute_many([("INCR", KEY), ("WAIT", 0, 0)])
            assert replies == [2, 0]
            await move_slot(target, source, [KEY])
            units = [("MULTI",), ("INCR", KEY), ("EXEC",)]
            assert (await dedicated.execute_many(units))[-1] == [3]
            # What has run in part stands as it is: nothing is sent twice.
            keys = ("a", "b", "c", "d", "e", "f")
            other = next(key for key in keys if redis.slot_owner(key) != redis.slot_owner(KEY))
            replies = await dedicated.execute_many([("INCR", KEY), ("INCR", other)])
            assert replies[0] == 4
            assert isinstance(replies[1], ResponseError)
            assert await redis.execute("MGET", KEY, other) == [b"4", None]


async def test_a_watch_does_not_move_along(masters: Cluster) -> None:
    """A transaction runs where its keys are watched, or not at all."""
    async with (
        connect(masters.url) as redis,
        redis.open_dedicated("writer", key=KEY) as dedicated,
        AsyncExitStack() as stack,
    ):
        source, target = await owner_and_other(stack, masters)
        with trio.fail_after(FAIL_OVER):
            await dedicated.execute("WATCH", KEY)
            await move_slot(source, target, [])
            await redis.execute("SET", KEY, "of another")
            units = [("MULTI",), ("SET", KEY, "mine"), ("EXEC",)]
            replies = await dedicated.execute_many(units)
            assert isinstance(replies[-1], ResponseError)
            assert await redis.execute("GET", KEY) == b"of another"
            assert (await dedicated.execute_many(units))[-1] == [b"OK"]


def is_another(link: Link, epoch: int) -> bool:
    """Tell whether the connection of `epoch` is gone, whatever came after it."""
    return link.epoch != epoch


async def test_what_a_connection_held_is_missed_once(redis: Redis) -> None:
    async with redis.open_dedicated("stateful") as dedicated:
        await dedicated.execute("SELECT", 1)
        for held in ("SELECT", "WATCH, SELECT"):
            if "WATCH" in held:
                await dedicated.execute("SELECT", 1)
                await dedicated.execute("WATCH", "k")
            await redis.execute("CLIENT", "KILL", "ID", dedicated.link.client_id)
            await wait_until(partial(is_another, dedicated.link, dedicated.link.epoch))
            with pytest.raises(LinkLostError, match="SELECT") as caught:
                await dedicated.execute_many([("SET", "k", "v")])
            assert not caught.value.may_have_run
            assert await dedicated.execute("EXISTS", "k") == 0  # afresh, in database 0
    assert redis.slot_owner("a") == redis.slot_owner("b") is not None
    assert redis.slot_of("a") == redis.slot_of("b")


async def test_a_blocking_read_outlives_its_master() -> None:
    async with (
        open_cluster() as cluster,
        connect(cluster.url) as redis,
        redis.open_dedicated("reader", key=KEY) as dedicated,
        AsyncExitStack() as stack,
    ):
        source, _ = await owner_and_other(stack, cluster)
        got: list[bytes] = []
        lost = 0

        async def read_next() -> None:
            nonlocal lost
            while not got:
                try:
                    got.extend(await read(dedicated, "0"))
                except LinkLostError:
                    lost += 1

        with trio.fail_after(FAIL_OVER):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_next)
                await wait_blocked(source.client)
                await source.server.kill()
                while True:
                    with suppress(LinkLostError):
                        await redis.execute("XADD", KEY, "*", "f", "one")
                        break
            assert got[0] == b"one"
            assert lost == 1  # the read that was under way; the next waited for the new owner
            assert redis.slot_owner(KEY) != f"redis://127.0.0.1:{source.server.port}"
        await source.server.start()
