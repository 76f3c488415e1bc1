"""Several nodes: routing, moves when workers come and go, close and shutdown."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import attrs
import pytest
import trio
import trio.testing

from terzetto import pool, rmap
from terzetto.errors import ClosedError
from terzetto.pool._codec import JobBody, encode_job
from terzetto.pool._names import START, Names
from terzetto.pool._ring import Member, place
from terzetto.pool._store import Store
from terzetto.redis import Redis, connect
from terzetto.rmap import content_key
from terzetto.server import EmbeddedServer
from terzetto.streaming import stream_key
from tests.faults.record import measure_stalls


class OpenNode(Protocol):
    async def __call__(self, name: str = "p") -> pool.Node: ...


@attrs.define
class Ledger:
    """What runs where, over all workers of a test; it sees every overlap."""

    live: dict[str, str] = attrs.field(factory=dict[str, str])
    payloads: dict[str, bytes] = attrs.field(factory=dict[str, bytes])
    starts: list[str] = attrs.field(factory=list[str])
    notes: list[tuple[str, str]] = attrs.field(factory=list[tuple[str, str]])
    overlaps: list[str] = attrs.field(factory=list[str])

    def handler(self, name: str) -> "Handler":
        return Handler(self, name)


@attrs.define
class Handler:
    ledger: Ledger
    name: str

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        if job.key in self.ledger.live:
            self.ledger.overlaps.append(job.key)
        self.ledger.live[job.key] = self.name
        self.ledger.payloads[job.key] = job.payload
        self.ledger.starts.append(job.key)

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        assert self.ledger.live[key] == self.name
        del self.ledger.live[key]

    async def notify(self, key: str, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.ledger.notes.append((self.name, f"{key}:{payload.decode()}"))


@asynccontextmanager
async def opening(server: EmbeddedServer) -> AsyncGenerator[OpenNode]:
    """Give a function that opens a node with a client of its own, like another process."""
    async with AsyncExitStack() as stack:

        async def open_one(name: str = "p") -> pool.Node:
            redis = await stack.enter_async_context(connect(server.url))
            node = pool.open_node(name, redis, worker_ttl=2, ack_grace_period=1)
            return await stack.enter_async_context(node)

        yield open_one


async def until(is_so: Callable[[], object], within: float = 20.0) -> None:
    with trio.fail_after(within):
        while not is_so():  # noqa: ASYNC110 - states of several nodes, not an event
            await trio.sleep(0.01)


async def dispatch_all(node: pool.Node, keys: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(node.dispatch, key, key.encode())


KEYS = [f"job-{number}" for number in range(60)]


async def test_jobs_go_where_the_ring_says_whoever_dispatches(server: EmbeddedServer) -> None:
    async with opening(server) as open_node:
        ledger = Ledger()
        nodes = [await open_node() for _ in range(3)]
        ring: list[Member] = []
        for number, node in enumerate(nodes):
            worker = await node.add_worker(ledger.handler(str(number)))
            ring.append(Member(number, worker.id))
        await until(lambda: all(len(node.pool_workers) == 3 for node in nodes))
        for number, node in enumerate(nodes):
            await dispatch_all(node, KEYS[number * 20 : number * 20 + 20])
        names = {member.worker_id: str(member.created_ns) for member in ring}
        assert ledger.live == {key: names[place(key, ring) or ""] for key in KEYS}
        assert ledger.payloads == {key: key.encode() for key in KEYS}
        assert len(set(ledger.live.values())) == 3
        await nodes[0].notify("job-7", b"hi")
        await nodes[1].stop_job("job-8")
        await until(lambda: ledger.notes and "job-8" not in ledger.live)
        assert ledger.notes == [(ledger.live["job-7"], "job-7:hi")]


async def test_a_worker_of_the_same_node_is_not_reached_over_its_stream(
    server: EmbeddedServer, redis: Redis
) -> None:
    """Those of others are, where nobody knows who they are: a peer in Go has sent this."""

    async def sent(worker: pool.Worker) -> int:
        entries = await redis.execute("XRANGE", stream_key(f"worker:{worker.id}"), "-", "+")
        return [dict(zip(e[1][::2], e[1][1::2], strict=True))[b"n"] for e in entries].count(b"j")

    async with opening(server) as open_node:
        ledger = Ledger()
        node = await open_node()
        worker = await node.add_worker(ledger.handler("here"))
        await dispatch_all(node, KEYS)
        assert await sent(worker) == 0
        other = await open_node()
        await until(lambda: len(other.pool_workers) == 1)
        number = 0
        while not await sent(worker):  # each is read by one of the two
            body = encode_job(JobBody(f"far-{number}", "a peer in Go", b"", 1))
            await Store(redis, Names("p")).send(START, body)
            number += 1
            await until(lambda: len(ledger.live) == len(KEYS) + number)  # noqa: B023 - it waits here
        assert len(ledger.live) == len(KEYS) + number


async def test_a_job_that_is_slow_to_start_holds_up_its_own_orders_only(
    server: EmbeddedServer, redis: Redis
) -> None:
    heard: list[str] = []
    may_start = trio.Event()

    class Listener:
        async def start(self, job: pool.Job) -> None:
            if job.key == "slow":
                await may_start.wait()
            heard.append(f"start {job.key}")
            await trio.lowlevel.checkpoint()

        async def stop(self, key: str) -> None:
            heard.append(f"stop {key}")
            await trio.lowlevel.checkpoint()

        async def notify(self, key: str, payload: bytes) -> None:
            heard.append(f"notify {key} {payload.decode()}")
            await trio.lowlevel.checkpoint()

    async with opening(server) as open_node:
        node = await open_node()
        await node.add_worker(Listener())
        await node.dispatch("quick")
        async with (
            pool.open_node("p", redis, client_only=True, worker_ttl=2) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(client.dispatch, "slow")
            await until(lambda: len(node.workers[0].jobs) == 2)
            for number in range(20):
                await client.notify("slow", str(number).encode())
                await client.notify("quick", str(number).encode())
            await client.stop_job("slow")
            await client.stop_job("quick")
            await until(lambda: heard[-1] == "stop quick")
            notes = [f"notify quick {number}" for number in range(20)]
            assert heard == ["start quick", *notes, "stop quick"]
            may_start.set()
            await until(lambda: heard[-1] == "stop slow")
    notes = [f"notify slow {number}" for number in range(20)]
    assert heard[22:] == ["start slow", *notes, "stop slow"]


async def test_close_hands_every_job_to_the_nodes_that_remain(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    async with measure_stalls(tmp_path) as stalled, opening(server) as open_node:
        ledger = Ledger()
        first, second = await open_node(), await open_node()
        await first.add_worker(ledger.handler("first"))
        await second.add_worker(ledger.handler("second"))
        await until(lambda: len(first.pool_workers) == 2)
        await dispatch_all(first, KEYS)
        assert set(ledger.live.values()) == {"first", "second"}
        began, before = trio.current_time(), stalled()
        await first.close()
        await until(lambda: list(ledger.live.values()).count("second") == len(KEYS))
        seconds = trio.current_time() - began - (stalled() - before)
        assert seconds < 5.0  # one second, on a machine of its own
        assert ledger.overlaps == []
        assert ledger.payloads == {key: key.encode() for key in KEYS}
        assert first.is_closed
        assert sorted(await second.job_keys()) == sorted(KEYS)
        await first.close()
        with pytest.raises(ClosedError):
            await first.add_worker(ledger.handler("late"))


async def test_only_jobs_whose_place_changed_move_when_a_worker_joins(
    server: EmbeddedServer,
) -> None:
    async with opening(server) as open_node:
        ledger = Ledger()
        first, second = await open_node(), await open_node()
        await first.add_worker(ledger.handler("first"))
        await dispatch_all(first, KEYS)
        await second.add_worker(ledger.handler("second"))
        ring = [Member(number, worker) for number, worker in enumerate(second.pool_workers)]
        names = dict(zip(second.pool_workers, ("first", "second"), strict=True))
        should = {key: names[place(key, ring) or ""] for key in KEYS}
        await until(lambda: ledger.live == should)
        moved = [key for key in KEYS if should[key] == "second"]
        assert sorted(ledger.starts) == sorted(KEYS + moved)
        assert ledger.overlaps == []
        await first.notify(moved[0], b"moved")
        await until(lambda: ledger.notes)
        assert ledger.notes == [("second", f"{moved[0]}:moved")]
        await first.stop_job(moved[0])
        await until(lambda: moved[0] not in ledger.live)


@attrs.define
class SlowToStop(Handler):
    """Its jobs stop when they may."""

    stopping: set[str] = attrs.field(factory=set[str])
    may_stop: trio.Event = attrs.field(factory=trio.Event)

    async def stop(self, key: str) -> None:
        self.stopping.add(key)
        await self.may_stop.wait()
        await super().stop(key)


@pytest.mark.parametrize("how", ["a worker joins", "its worker leaves"])
async def test_what_is_sent_to_a_job_while_it_moves_reaches_its_new_owner(
    server: EmbeddedServer, how: str
) -> None:
    async with opening(server) as open_node:
        ledger = Ledger()
        old, far = await open_node(), await open_node()
        slow = SlowToStop(ledger, "old")
        worker = await old.add_worker(slow)
        await dispatch_all(old, KEYS)
        async with trio.open_nursery() as nursery:
            if how == "its worker leaves":
                nursery.start_soon(worker.close)
            await far.add_worker(ledger.handler("new"))
            await until(lambda: len(slow.stopping) > 1)
            heard, stopped = sorted(slow.stopping)[:2]
            for node in (old, far):
                await node.notify(heard, node.id.encode())
            await far.stop_job(stopped)
            for key in slow.stopping:
                assert await far.job_payload(key) == key.encode()
            assert ledger.notes == []
            slow.may_stop.set()
            while ledger.live.get(heard) != "new" or stopped in ledger.live:
                assert await far.job_payload(heard) == heard.encode()
            await until(lambda: len(ledger.notes) == 2)
        assert {name for name, _ in ledger.notes} == {"new"}
        assert {note for _, note in ledger.notes} == {f"{heard}:{node.id}" for node in (old, far)}
        assert ledger.overlaps == []


async def test_a_worker_that_leaves_hands_its_jobs_over(server: EmbeddedServer) -> None:
    async with opening(server) as open_node:
        ledger = Ledger()
        node = await open_node()
        leaving = await node.add_worker(ledger.handler("leaving"))
        await node.add_worker(ledger.handler("staying"))
        await dispatch_all(node, KEYS)
        assert set(ledger.live.values()) == {"leaving", "staying"}
        await leaving.close()
        assert leaving.is_closed
        await until(lambda: list(ledger.live.values()).count("staying") == len(KEYS))
        assert ledger.overlaps == []
        assert len(node.pool_workers) == 1


async def test_jobs_wait_for_a_worker_when_the_last_one_leaves(server: EmbeddedServer) -> None:
    async with opening(server) as open_node:
        ledger = Ledger()
        first, second = await open_node(), await open_node()
        await first.add_worker(ledger.handler("first"))
        await dispatch_all(first, KEYS[:10])
        await first.close()
        assert ledger.live == {}
        with pytest.raises(pool.JobExistsError):
            await second.dispatch(KEYS[0])
        await second.add_worker(ledger.handler("second"))
        await until(lambda: len(ledger.live) == 10)
        assert ledger.overlaps == []


async def test_shutdown_stops_the_pool_everywhere_and_leaves_no_key(
    server: EmbeddedServer, redis: Redis
) -> None:
    async with opening(server) as open_node:
        ledger = Ledger()
        nodes = [await open_node() for _ in range(3)]
        for number, node in enumerate(nodes):
            await node.add_worker(ledger.handler(str(number)))
        await dispatch_all(nodes[0], KEYS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nodes[1].shutdown)
            nursery.start_soon(nodes[2].shutdown)
        await until(lambda: all(node.is_closed for node in nodes))
        assert ledger.live == {}
        assert len(ledger.starts) == len(KEYS)
        assert await redis.execute("KEYS", "*") == []
        again = await open_node()
        await again.add_worker(ledger.handler("again"))
        await again.dispatch(KEYS[0])
        assert ledger.live == {KEYS[0]: "again"}


async def test_a_shutdown_closes_client_only_nodes_too_and_leaves_no_key(
    server: EmbeddedServer, redis: Redis
) -> None:
    async with (
        connect(server.url) as far,
        pool.open_node("p", redis) as node,
        pool.open_node("p", far, client_only=True) as client,
    ):
        ledger = Ledger()
        await node.add_worker(ledger.handler("0"))
        await client.dispatch("a")
        with trio.fail_after(20):  # less than the TTL
            await node.shutdown()
        await until(lambda: client.is_closed)
        with pytest.raises(ClosedError):
            await client.dispatch("b")
        assert ledger.live == {}
    assert await redis.execute("KEYS", "*") == []


async def test_a_shutdown_takes_the_maps_of_schedules_and_leaves_those_of_other_pools(
    server: EmbeddedServer, redis: Redis
) -> None:
    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        return pool.JobPlan(start={"a": b""})

    async with opening(server) as open_node:
        node = await open_node()
        await node.add_worker(Ledger().handler("0"))
        other = await open_node("q")
        async with node.open_schedule("nightly", 60, plan):
            await node.shutdown()
        assert await redis.execute("KEYS", "*:p:*") == []
        keepalives = await redis.execute("HKEYS", "map:sink:events:keepalive:content")
        assert len([key for key in keepalives if not key.startswith(b"=")]) == 1
        await other.shutdown()
        assert await redis.execute("KEYS", "*") == []


async def test_keep_alives_stay_while_somebody_listens_to_them(
    server: EmbeddedServer, redis: Redis
) -> None:
    """As a sink of Go does before it stands there itself."""
    name = "sink:events:keepalive"
    async with rmap.join(name, redis) as replica:
        async with connect(server.url) as another, pool.open_node("p", another) as node:
            await node.shutdown()
        assert len(replica) == 0
        assert await redis.execute("KEYS", "*") == [content_key(name).encode()]


async def test_a_shutdown_that_was_abandoned_is_finished_by_the_next_node(
    server: EmbeddedServer, redis: Redis
) -> None:
    async with opening(server) as open_node:
        first = await open_node()
        await first.close()
        await redis.execute("HSET", "map:p:shutdown:content", "shutdown", "dead", "=rev", 1)
        await redis.execute("HSET", "map:p:job-payloads:content", "stuck", "x", "=rev", 1)
        ledger = Ledger()
        second = await open_node()
        await second.add_worker(ledger.handler("second"))
        await second.dispatch("stuck")
        assert ledger.live == {"stuck": "second"}


async def test_a_node_that_is_closed_while_it_shuts_its_pool_down_leaves_no_key(
    redis: Redis,
) -> None:
    stops: list[str] = []
    stopping, let_go = trio.Event(), trio.Event()

    class Slow:
        async def start(self, _: pool.Job) -> None:
            await trio.lowlevel.checkpoint()

        async def stop(self, key: str) -> None:
            stops.append(key)
            stopping.set()
            await let_go.wait()

    async with pool.open_node("p", redis, worker_ttl=2, ack_grace_period=1) as node:
        await node.add_worker(Slow())
        await node.dispatch("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.shutdown)
            await stopping.wait()
            nursery.start_soon(node.close)
            await trio.testing.wait_all_tasks_blocked()
            let_go.set()
    assert stops == ["a"]
    assert await redis.execute("KEYS", "*") == []


async def test_a_pool_that_is_being_shut_down_takes_no_node(redis: Redis) -> None:
    async with pool.open_node("p", redis, client_only=True, worker_ttl=2) as node:
        await redis.execute("HSET", "map:p:shutdown:content", "shutdown", node.id, "=rev", 1)
        with pytest.raises(pool.PoolShutdownError):
            async with pool.open_node("p", redis, worker_ttl=2):
                pass


async def test_pools_come_and_go_and_redis_does_not_grow(redis: Redis) -> None:
    async def cycle() -> int:
        async with pool.open_node("p", redis, worker_ttl=2, ack_grace_period=1) as node:
            await node.add_worker(Ledger().handler("one"))
            await node.dispatch("a")
            await node.shutdown()
        return int(await redis.execute("DBSIZE"))

    sizes = [await cycle() for _ in range(10)]
    assert sizes[-1] == sizes[1]
