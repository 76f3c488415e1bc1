"""Looking at pools without joining them."""

import pytest
import trio

from terzetto import pool
from terzetto.errors import InvalidNameError
from terzetto.pool import Job, find_pools, look_at_pool
from terzetto.redis import Redis
from terzetto.streaming import Stream, find_streams


async def run(job: Job, *, task_status: trio.TaskStatus[None]) -> None:
    if job.payload == b"crash":
        task_status.started()
        raise ValueError("as told")
    task_status.started()
    await trio.sleep_forever()


async def test_a_pool_is_seen_with_its_members_and_jobs(redis: Redis) -> None:
    async with (
        pool.open_node("mail", redis) as node,
        pool.open_node("mail", redis, client_only=True) as client,
        node.open_ticker("hourly", 3600.0),
    ):
        worker = await node.add_worker(run)
        await client.dispatch("b")
        await client.dispatch("a")
        seen = await look_at_pool("mail", redis)
        assert {each.id for each in seen.nodes} == {node.id, client.id}
        assert [(each.id, each.jobs) for each in seen.workers] == [(worker.id, ("a", "b"))]
        assert seen.workers[0].joined_at is not None
        assert seen.workers[0].silent_for is not None
        assert seen.jobs == 2
        assert [(each.name, each.interval.total_seconds()) for each in seen.tickers] == [
            ("hourly", 3600.0)
        ]
        assert (seen.unowned, seen.dead_letters, seen.is_shutting_down) == ((), (), False)
        assert await find_pools(redis) == ["mail"]
        assert "mail:pool" in await find_streams(redis)


async def test_a_job_that_was_given_up_is_seen(redis: Redis) -> None:
    async with pool.open_node("mail", redis) as node:
        await node.add_worker(run, max_restarts=0)
        with node.watch() as watch:
            await node.dispatch("a", b"crash")
            async for event in watch:
                if event.kind == "dead_letter":
                    break
        (letter,) = (await look_at_pool("mail", redis)).dead_letters
        assert (letter.key, letter.error) == ("a", "ValueError: as told")


async def test_a_pool_that_nobody_joined_is_empty(redis: Redis) -> None:
    seen = await look_at_pool("nobody", redis)
    assert (seen.nodes, seen.workers, seen.tickers, seen.queued) == ((), (), (), 0)
    assert await find_pools(redis) == []
    assert await find_streams(redis) == []


async def test_what_others_wrote_into_its_maps_does_no_harm(redis: Redis) -> None:
    await redis.hset("map:odd:workers:content", mapping={b"w\xff": b"soon", b"=rev": b"7"})
    await redis.hset("map:odd:node-keepalive:content", mapping={b"n": b"never"})
    await redis.hset("map:odd:jobs:content", mapping={b"ghost": b"a,b"})
    await redis.hset("map:odd:tickers:content", mapping={b"t": b"now and then"})
    await redis.hset("map:odd:dead-letters:content", mapping={b"k": b"\x00"})
    seen = await look_at_pool("odd", redis)
    assert [each.id for each in seen.workers] == ["ghost", "w\udcff"]
    assert seen.workers[0].jobs == ("a", "b")
    assert seen.nodes[0].silent_for == 0.0
    assert seen.tickers == ()
    assert seen.dead_letters[0].error.startswith("MalformedBodyError")


async def test_events_that_wait_are_counted(redis: Redis) -> None:
    stream = Stream("idle:pool", redis)
    await redis.xgroup_create(stream.key, "events", id="0", mkstream=True)
    await stream.add_many([("s", b"")] * 3)
    assert (await look_at_pool("idle", redis)).queued == 3


async def test_a_name_that_no_pool_has_is_refused(redis: Redis) -> None:
    with pytest.raises(InvalidNameError):
        await look_at_pool("a b", redis)


async def test_a_watch_of_a_node_that_is_closed_ends_at_once(redis: Redis) -> None:
    async with pool.open_node("mail", redis) as node:
        await node.close()
        with node.watch() as watch, trio.fail_after(30):
            assert [event async for event in watch] == []
