"""What breaks beside processes: lost data, lost scripts, poison, slow and failing starts."""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.pool._codec import JobBody, encode_envelope, encode_job
from terzetto.pool._names import Names
from terzetto.pool._store import Store
from terzetto.redis import Redis
from terzetto.rmap import content_key
from terzetto.streaming import Stream

TTL = 1.0


@attrs.define
class Handler:
    """Starts anything but what it is told to refuse; counts."""

    starts: list[str] = attrs.field(factory=list[str])
    live: set[str] = attrs.field(factory=set[str])
    refuses: bool = False
    hold: trio.Event | None = None

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        self.starts.append(job.key)
        if self.refuses:
            raise ValueError("not here")
        if self.hold is not None:
            await self.hold.wait()
        assert job.key not in self.live
        self.live.add(job.key)

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.live.remove(key)


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


async def eventually(ask: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(30):
        while not await ask():  # noqa: ASYNC110 - what is asked for is in Redis
            await trio.sleep(0.02)


async def test_flushall_running_jobs_are_published_again(redis: Redis) -> None:
    handler = Handler()
    keys = [f"job-{number}" for number in range(20)]
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        for key in keys:
            await node.dispatch(key, key.encode())
        await redis.execute("FLUSHALL")
        assert await node.job_keys() == []

        async def is_back() -> bool:
            return await node.job_keys() == sorted(keys)

        await eventually(is_back)
        assert await node.job_payload("job-3") == b"job-3"
        assert handler.live == set(keys)
        assert handler.starts == keys
        with pytest.raises(pool.JobExistsError):
            await node.dispatch("job-3")
        await node.dispatch("new")
        await node.stop_job("job-3")
        await until(lambda: "job-3" not in handler.live)


async def test_a_lost_map_of_jobs_is_written_again(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        await node.dispatch("a")
        await redis.execute("DEL", "map:p:jobs:content")

        async def is_back() -> bool:
            return await node.job_keys() == ["a"]

        await eventually(is_back)
        assert handler.starts == ["a"]


async def test_script_flush_stops_nothing(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        await redis.execute("SCRIPT", "FLUSH")
        await node.dispatch("a")
        assert handler.live == {"a"}


async def test_a_lost_pool_stream_is_made_again(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        await node.dispatch("a")
        await redis.execute("DEL", "pulse:stream:p:pool")
        await node.dispatch("b")
        assert handler.live == {"a", "b"}


async def test_a_slow_start_is_started_once_and_holds_up_nobody(redis: Redis) -> None:
    hold = trio.Event()
    handler = Handler(hold=hold)
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=2) as node:
        await node.add_worker(handler)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.dispatch, "slow")
            await until(lambda: handler.starts)
            await trio.sleep(3)  # longer than the grace: the span itself is what is tested
            assert handler.starts == ["slow"]
            handler.hold = None
            await node.dispatch("other")
            hold.set()
        assert sorted(handler.starts) == ["other", "slow"]


async def test_poison_on_every_stream_stops_no_loop(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        worker = await node.add_worker(handler)
        names = ["p:pool", f"p:node:{node.id}", f"worker:{worker.id}"]
        bodies = [b"", b"\xff\xff\xff\xff", b"\x01\0\0\0", encode_envelope("", b"\x09")]
        for stream in names:
            for event in ("j", "s", "n", "a", "d", "unknown"):
                for body in bodies:
                    await Stream(stream, redis).add(event, body)
            await redis.execute("XADD", f"pulse:stream:{stream}", "*", "x", "y")
        await node.dispatch("good")
        await node.stop_job("good")
        await until(lambda: handler.starts and not handler.live)

        async def is_buried() -> bool:
            return int(await redis.execute("XLEN", "pulse:stream:p:pool:dead")) == 11

        await eventually(is_buried)


async def test_a_key_that_is_not_utf_8_is_refused_by_the_worker(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        body = encode_job(JobBody("\udcff\udcfe", node.id, b"", 1))
        await Stream("p:pool", redis).add("j", body)
        await node.dispatch("good")
        assert handler.starts == ["good"]


async def test_an_orphan_is_sent_again_once(redis: Redis) -> None:
    handler = Handler()
    async with (
        pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node,
        pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as other,
    ):
        await node.add_worker(handler)
        await other.add_worker(handler)
        await redis.execute("HSET", "map:p:job-payloads:content", "orphan", "x")
        await until(lambda: handler.live == {"orphan"})
        assert handler.starts == ["orphan"]


async def test_a_stale_guard_and_a_malformed_one_free_their_keys(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        await redis.execute(
            "HSET", "map:p:pending-jobs:content", "old", "1", "odd", "x1", "=rev", 1
        )
        await node.dispatch("old")
        await node.dispatch("odd")
        assert handler.live == {"old", "odd"}
        await redis.execute("HSET", "map:p:pending-jobs:content", "older", "1", "odder", "x1")

        async def is_swept() -> bool:
            left = await redis.execute("HKEYS", "map:p:pending-jobs:content")
            return not {b"older", b"odder"} & set(left)

        await eventually(is_swept)


async def test_a_worker_left_half_removed_is_cleaned_up(redis: Redis) -> None:
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        await redis.execute("HSET", "map:p:job-payloads:content", "a", "1", "b", "2")
        await redis.execute("HSET", "map:p:jobs:content", "GONE", '["a","b","c"]')
        await redis.execute("HSET", "map:p:workers:content", "LEAVING", "-")
        # Written by hand, without a message: the replicas find it when they poll.
        await redis.execute("HINCRBY", "map:p:jobs:content", "=rev", 1)
        await redis.execute("HINCRBY", "map:p:workers:content", "=rev", 1)
        await until(lambda: handler.live == {"a", "b"})

        async def is_clean() -> bool:
            workers = await redis.execute("HKEYS", "map:p:workers:content")
            jobs = await redis.execute("HKEYS", "map:p:jobs:content")
            return b"LEAVING" not in workers and b"GONE" not in jobs

        await eventually(is_clean)


async def test_a_job_that_crashes_for_good_becomes_a_dead_letter(redis: Redis) -> None:
    fixed = False

    async def crash(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        if not fixed:
            raise ValueError(f"bad {job.key}")
        await trio.sleep_forever()

    async def is_dead() -> bool:
        return bool(await node.dead_letters())

    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(crash, max_restarts=1, backoff=0.01)
        await node.dispatch("a", b"payload")
        await eventually(is_dead)
        [letter] = await node.dead_letters()
        assert (letter.key, letter.payload) == ("a", b"payload")
        assert letter.error == "ValueError: bad a"
        assert letter.node_id == node.id
        assert await node.job_payload("a") is None
        fixed = True
        await node.retry_dead_letter("a")
        assert await node.dead_letters() == []
        assert await node.job_keys() == ["a"]
        with pytest.raises(pool.UnknownLetterError):
            await node.retry_dead_letter("a")
        fixed = False
        await node.dispatch("b")
        await eventually(is_dead)
        assert await node.discard_dead_letter("b")
        assert not await node.discard_dead_letter("b")


async def test_an_accepted_job_that_never_starts_again_becomes_a_dead_letter(
    redis: Redis,
) -> None:
    handler = Handler(refuses=True)
    async with pool.open_node("p", redis, worker_ttl=0.1, ack_grace_period=0.1) as node:
        await node.add_worker(handler)
        await redis.execute("HSET", "map:p:job-payloads:content", "orphan", "x")

        async def is_dead() -> bool:
            return bool(await node.dead_letters())

        await eventually(is_dead)
        assert handler.starts == ["orphan"] * 5
        [letter] = await node.dead_letters()
        assert (letter.key, letter.payload, letter.error) == (
            "orphan",
            b"x",
            "ValueError: not here",
        )


async def test_lost_streams_of_nodes_and_workers_are_made_again(redis: Redis) -> None:
    handler = Handler()
    async with (
        pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node,
        pool.open_node(
            "p", redis, worker_ttl=TTL, ack_grace_period=TTL, client_only=True
        ) as client,
    ):
        worker = await node.add_worker(handler)
        streams = [f"p:node:{node.id}", f"p:node:{client.id}", f"worker:{worker.id}"]
        keys = [f"pulse:stream:{name}" for name in streams]
        await redis.execute("DEL", *keys)

        async def are_back() -> bool:
            return bool(await redis.execute("EXISTS", *keys) == 3)

        await eventually(are_back)
        await client.dispatch("a")
        assert handler.live == {"a"}


async def test_a_worker_that_others_took_for_dead_ends_its_jobs_at_once(redis: Redis) -> None:
    """It hears of it from the map, long before its next sign of life is due, and comes back."""
    handler = Handler()
    async with pool.open_node("p", redis, worker_ttl=60, ack_grace_period=60) as node:
        worker = await node.add_worker(handler)
        await node.dispatch("a")
        taken = worker.id
        names = Names("p")
        sign = await redis.execute("HGET", content_key(names.worker_keepalive), taken)
        burial = await Store(redis, names).bury(
            taken, sign=sign.decode(), lock="", node_id="another", created_ns=1, limit=10
        )
        assert burial == (1, 1), "one job was sent again"
        # The new worker's start would fail the handler's assertion if the job still ran.
        await until(lambda: handler.starts == ["a", "a"] and handler.live == {"a"})
        assert worker.id != taken
        assert await node.job_keys() == ["a"]
