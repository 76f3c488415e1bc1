"""Lost replies and outages: nothing is lost, nothing is done twice, nobody is evicted."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from terzetto import pool
from terzetto._shared._logging import default_logger
from terzetto.pool import _scripts
from terzetto.pool._asking import Asked, Asking, Claim
from terzetto.pool._claims import Bid, Claims
from terzetto.pool._codec import JobBody, encode_job
from terzetto.pool._dispatch import Returns, Waiting
from terzetto.pool._fleet import Fleet
from terzetto.pool._homes import Homes
from terzetto.pool._names import SINK, START, Names
from terzetto.pool._store import Store
from terzetto.redis import AuthError, LinkLostError, Redis, Script, connect
from terzetto.server import EmbeddedServer
from terzetto.streaming import stream_key
from terzetto.testing import Fault, Proxy, open_proxy

TTL = 1.0


@attrs.define
class Handler:
    starts: list[str] = attrs.field(factory=list[str])
    stops: list[str] = attrs.field(factory=list[str])
    notes: list[bytes] = attrs.field(factory=list[bytes])

    @property
    def live(self) -> set[str]:
        return {key for key in self.starts if self.starts.count(key) > self.stops.count(key)}

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        self.starts.append(job.key)

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.stops.append(key)

    async def notify(self, _: str, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.notes.append(payload)


def homes_of(store: Store) -> Homes:
    """Return the homes of a node that knows of no other."""
    return Homes(store=store, log=default_logger("pool"), fleet=Fleet(30.0), node_id="node")


async def until(is_so: Callable[[], object], within: float = 30.0) -> None:
    with trio.fail_after(within):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


@asynccontextmanager
async def behind_proxy(server: EmbeddedServer) -> AsyncGenerator[tuple[Proxy, pool.Node]]:
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=3) as node,
    ):
        yield proxy, node


def seen(items: list[str], item: str) -> bool:
    return item in items


def runs(script: Script) -> Callable[[object], bool]:
    def where(words: object) -> bool:
        return isinstance(words, list | tuple) and script.sha.encode() in words

    return where


@pytest.mark.parametrize("script", [_scripts.CLAIM, _scripts.LEDGER])
async def test_a_dispatch_whose_reply_was_lost_starts_its_job_once(
    server: EmbeddedServer, script: Script
) -> None:
    """The script of a dispatch of ours, and its worker's for one of a peer in Go."""
    handler = Handler()
    async with behind_proxy(server) as (proxy, node), connect(server.url) as redis:
        await node.add_worker(handler)
        for number in range(10):
            rule = proxy.on("EVALSHA", Fault.DROP_REPLY, times=1, where=runs(script))
            with trio.fail_after(20):
                if script is _scripts.CLAIM:
                    await node.dispatch(str(number))
                else:
                    body = encode_job(JobBody(str(number), "a peer in Go", b"", 1))
                    await Store(redis, Names("p")).send(START, body)
                await rule.wait_hit()
                await until(lambda: len(handler.starts) == number + 1)  # noqa: B023 - it waits here
        assert handler.starts == [str(number) for number in range(10)]
        assert await node.job_keys() == sorted(handler.starts)


@pytest.mark.parametrize("command", ["XACK", "XDEL", "XADD", "XREADGROUP"])
async def test_events_whose_replies_were_lost_are_handled_once(
    server: EmbeddedServer, command: str
) -> None:
    handler = Handler()
    async with behind_proxy(server) as (proxy, node):
        await node.add_worker(handler)
        for number in range(3):
            key = str(number)
            proxy.on(command, Fault.DROP_REPLY, times=1)
            with trio.fail_after(30):
                await node.dispatch(key)
                await node.stop_job(key)
            await until(partial(seen, handler.stops, key))
        assert handler.starts == handler.stops == [str(number) for number in range(3)]


async def test_a_notification_whose_reply_was_lost_says_so_and_is_not_doubled(
    server: EmbeddedServer,
) -> None:
    handler = Handler()
    async with behind_proxy(server) as (proxy, node):
        await node.add_worker(handler)
        await node.dispatch("a")
        proxy.on("XADD", Fault.DROP_REPLY, times=1, where=lambda words: b"n" in words)
        with pytest.raises(LinkLostError):
            await node.notify("a", b"once")
        await until(lambda: handler.notes)
        await node.notify("a", b"twice")
        await until(lambda: len(handler.notes) == 2)
        assert handler.notes == [b"once", b"twice"]


async def test_no_tick_is_lost_or_doubled_by_a_lost_reply(server: EmbeddedServer) -> None:
    async with behind_proxy(server) as (proxy, node), node.open_ticker("t", 0.05) as ticker:
        ticks = [await anext(ticker)]
        for _ in range(10):
            proxy.on("EVALSHA", Fault.DROP_REPLY, times=1, where=runs(_scripts.TICK))
            ticks.append(await anext(ticker))
        assert len(set(ticks)) == len(ticks)
        assert ticks == sorted(ticks)


async def test_an_outage_of_three_ttls_evicts_nobody_and_restarts_nothing(
    server: EmbeddedServer,
) -> None:
    handler = Handler()
    keys = [str(number) for number in range(20)]
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url) as one,
        connect(proxy.url) as two,
        pool.open_node("p", one, worker_ttl=TTL, ack_grace_period=TTL) as first,
        pool.open_node("p", two, worker_ttl=TTL, ack_grace_period=TTL) as second,
    ):
        workers = [await first.add_worker(handler), await second.add_worker(handler)]
        await until(lambda: len(first.pool_workers) == 2)
        await first.dispatch_many((key, b"") for key in keys)
        ids = [worker.id for worker in workers]
        with first.watch() as watch:
            for _ in range(2):
                await proxy.refuse()
                proxy.cut()
                await trio.sleep(3 * TTL)  # the outage itself: its length is what is tested
                await proxy.accept()
                with trio.fail_after(30):
                    await first.stop_job(keys.pop())
                    await until(lambda: len(handler.live) == len(keys))
            await second.dispatch("after")
            assert watch.lost == 0
        assert [worker.id for worker in workers] == ids
        assert handler.live == {*keys, "after"}
        assert len(handler.starts) == 21


async def test_who_reconnects_later_than_others_after_an_outage_is_not_evicted(
    server: EmbeddedServer,
) -> None:
    handler = Handler()
    async with (
        open_proxy(server.url) as near,
        open_proxy(server.url) as far,
        connect(near.url, max_backoff=2 * TTL) as one,
        connect(far.url, max_backoff=0.05) as two,  # its lateness is ours to choose
        pool.open_node("p", one, worker_ttl=TTL, ack_grace_period=TTL) as first,
        pool.open_node("p", two, worker_ttl=TTL, ack_grace_period=TTL) as second,
    ):
        worker = await second.add_worker(handler)
        await until(lambda: first.pool_workers)
        await first.dispatch("a")
        id_before = worker.id
        for proxy in (near, far):
            await proxy.refuse()
            proxy.cut()
        await trio.sleep(3 * TTL)  # the outage itself: its length is what is tested
        await near.accept()
        with trio.fail_after(30):
            await one.wait_connected()
        await trio.sleep(1.5 * TTL)  # a wait between two attempts that is longer than a TTL
        await far.accept()
        with trio.fail_after(30):
            await two.wait_connected()
        await first.stop_job("a")
        await until(lambda: handler.stops)
        assert (worker.id, handler.starts, handler.stops) == (id_before, ["a"], ["a"])
        assert "worker_buried" not in first.counts


async def test_dispatches_during_an_outage_go_through_after_it(server: EmbeddedServer) -> None:
    handler = Handler()
    async with behind_proxy(server) as (proxy, node):
        await node.add_worker(handler)
        await proxy.refuse()
        proxy.cut()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(node.dispatch, str(number))
            await trio.sleep(0.5)  # that nothing starts has no event: the span is the test
            assert handler.starts == []
            await proxy.accept()
        assert sorted(handler.starts) == [str(number) for number in range(10)]


async def test_what_a_refused_link_left_behind_is_settled_though_no_dispatch_follows(
    server: EmbeddedServer,
) -> None:
    """The server wants a password for a while when the link has to be opened again."""
    names = Names("p")
    stream = stream_key(names.stream)
    async with (
        connect(server.url) as other,
        open_proxy(server.url) as proxy,
        connect(proxy.url) as redis,
        trio.open_nursery() as nursery,
    ):
        event_id = (await other.execute("XADD", stream, "*", "n", "j", "p", b"x")).decode()
        store = Store(redis, names)
        claims = Claims(
            store=store,
            log=default_logger("pool"),
            returns=Returns(),
            guard_for=30.0,
            limit=0,
            homes=homes_of(store),
        )
        nursery.start_soon(claims.run)
        nursery.start_soon(claims.tidy)
        held = proxy.on("EVALSHA", Fault.HOLD)
        job = JobBody("a", "node", b"", 1)
        bid = Bid(job, encode_job(job), "token", Waiting(), None)
        claims.put(bid)
        claims.acknowledge(event_id)
        with trio.fail_after(30):
            await held.wait_hit()
            await trio.testing.wait_all_tasks_blocked(0.1)  # `tidy` has nothing to do any more
            await other.execute("CONFIG", "SET", "requirepass", "secret")
            proxy.cut()
            await bid.waiting.event.wait()
            assert isinstance(bid.waiting.failure, AuthError)
            assert await other.execute("XLEN", stream) == 1
            await other.execute("CONFIG", "SET", "requirepass", "")
            while await other.execute("XLEN", stream):  # noqa: ASYNC110 - a state of Redis
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_what_is_left_behind_by_a_closed_client_is_said_once_and_tried_ever_more_seldom(
    server: EmbeddedServer, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[float] = []

    class Counted(Store):
        async def claim(self, asking: Asking) -> list[Claim | str]:
            tries.append(trio.current_time())
            return await super().claim(asking)

    async with connect(server.url) as redis:
        pass
    mock_clock.autojump_threshold = 0.0
    store = Counted(redis, Names("p"))
    claims = Claims(
        store=store,
        log=default_logger("pool"),
        returns=Returns(),
        guard_for=30.0,
        limit=0,
        homes=homes_of(store),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(claims.run)
        nursery.start_soon(claims.tidy)
        claims.acknowledge("1-1")
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert 5 < len(tries) < 25
    assert [record.message.partition(" ")[0] for record in caplog.records] == ["dispatches"]


async def test_a_claim_that_is_asked_again_makes_nobody_the_owner_of_a_job_that_has_failed(
    redis: Redis,
) -> None:
    """Its reply was lost; by now the start has failed, and is not acknowledged yet."""
    store, stream = Store(redis, Names("p")), stream_key(Names("p").stream)
    created = await store.enlist("w", "")
    assert created is not None
    await redis.execute("XGROUP", "CREATE", stream, SINK, "$", "MKSTREAM")
    await redis.execute("XGROUP", "CREATECONSUMER", stream, SINK, "reader")
    body = encode_job(JobBody("k", "node", b"payload", 1))
    asking = Asking([Asked("k", body, "token", "w", created, "reader")], guard_for=30.0, limit=0)
    [claim] = await store.claim(asking)
    assert isinstance(claim, Claim)
    assert claim.is_owned
    assert await store.claim(asking) == [claim]
    assert await store.change_jobs("w", created, [("end", "k", b"", "")]) == [1]
    [again] = await store.claim(asking)
    assert again == Claim(claim.event_id, is_read=True)
    assert await store.job_keys() == []
    assert await store.payload("k") is None


async def test_a_server_that_is_killed_and_restarted_loses_no_job(
    server: EmbeddedServer,
) -> None:
    handler = Handler()
    async with (
        connect(server.url) as redis,
        pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=5) as node,
    ):
        await node.add_worker(handler)
        for number in range(3):
            await node.dispatch_many((f"{number}-{job}", b"") for job in range(20))
            server_pid = server.pid
            await trio.run_process(["kill", "-9", str(server_pid)])
            with trio.fail_after(30):
                await node.dispatch(f"{number}-after")
        assert len(handler.live) == 63
        assert sorted(handler.starts) == sorted(handler.live)
        assert sorted(await node.job_keys()) == sorted(handler.live)
