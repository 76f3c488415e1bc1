"""Lost replies, cancelled calls and servers that hang or are gone, for each thing that waits."""

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError

from terzetto.redis import LinkClosedError, LinkLostError, Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.tasks import (
    Client,
    EnqueueEvent,
    Inspector,
    SchedulerEntry,
    ServerInfo,
    Task,
    TaskState,
)
from terzetto.tasks._broker_values import CancelRequest, Enqueue, Lease, Tick
from terzetto.tasks._redis_base import TOKENS
from terzetto.tasks._redis_broker import RedisBroker
from terzetto.testing import Fault, Proxy, Rule, open_proxy
from tests.tasks.conftest import START, ManualClock
from tests.tasks.work import PATIENCE, PENDING, entry, ids, state_of, take, take_one, task, unique


@attrs.frozen
class Setting:
    """A broker behind a proxy, and another that nothing happens to."""

    proxy: Proxy
    broker: RedisBroker
    witness: RedisBroker

    def lose_reply(self) -> Rule:
        return self.proxy.on("EVALSHA", Fault.DROP_REPLY, times=1)


@asynccontextmanager
async def open_setting(url: str, clock: ManualClock) -> AsyncGenerator[Setting]:
    async with open_proxy(url) as proxy, connect(proxy.url) as redis, connect(url) as straight:
        await straight.execute("FLUSHALL")
        yield Setting(proxy, RedisBroker(redis, clock=clock), RedisBroker(straight, clock=clock))


@pytest.fixture
async def setting(single_url: str, clock: ManualClock) -> AsyncGenerator[Setting]:
    async with open_setting(single_url, clock) as setting:
        yield setting


OUTCOMES: dict[str, tuple[Callable[[RedisBroker, Lease], Awaitable[bool]], TaskState | None]] = {
    "complete": (lambda b, lease: b.complete(lease, retain=False), None),
    "keep": (lambda b, lease: b.complete(lease, result=b"x"), TaskState.COMPLETED),
    "requeue": (lambda b, lease: b.requeue(lease), TaskState.PENDING),
    "retry": (lambda b, lease: b.retry(lease, at=START + 9, error="e"), TaskState.RETRY),
    "archive": (lambda b, lease: b.archive(lease, error="e"), TaskState.ARCHIVED),
    "write_result": (lambda b, lease: b.write_result(lease, b"x"), TaskState.ACTIVE),
}


@pytest.mark.parametrize("name", OUTCOMES)
async def test_an_outcome_whose_reply_was_lost_is_written_once_and_known(
    setting: Setting, name: str
) -> None:
    write, expected = OUTCOMES[name]
    await setting.witness.enqueue([entry("warm", retention=9), entry("t", retention=9)])
    warm, lease = await take(setting.witness, limit=2)
    await write(setting.witness, warm)  # the server knows the script now
    (before,) = await setting.witness.read_queues(["q"])
    rule = setting.lose_reply()

    with trio.fail_after(PATIENCE):
        assert await write(setting.broker, lease)

    assert rule.hits == 1
    assert await state_of(setting.witness, "t") is expected
    (after,) = await setting.witness.read_queues(["q"])
    assert before is not None
    assert after is not None
    assert after.processed == before.processed * 2
    assert after.failed == before.failed * 2
    assert after.size == before.size - (expected is None)


@pytest.mark.parametrize("name", OUTCOMES)
async def test_an_outcome_waits_for_redis_to_come_back(setting: Setting, name: str) -> None:
    write, expected = OUTCOMES[name]
    await setting.broker.enqueue([entry("t", retention=9)])
    lease = await take_one(setting.broker)
    await setting.proxy.refuse()
    setting.proxy.cut()
    written: list[bool] = []

    async def finish() -> None:
        written.append(await write(setting.broker, lease))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish)
            await trio.testing.wait_all_tasks_blocked()
            assert await state_of(setting.witness, "t") is TaskState.ACTIVE
            await setting.proxy.accept()
    assert written == [True]
    assert await state_of(setting.witness, "t") is expected


async def test_a_dequeue_whose_reply_was_lost_finds_what_it_took(setting: Setting) -> None:
    await setting.witness.enqueue([entry(f"t{n}") for n in range(6)])
    await take(setting.witness)
    setting.lose_reply()

    with trio.fail_after(PATIENCE):
        leases = await take(setting.broker, limit=3)

    assert ids(leases) == ["t1", "t2", "t3"]
    assert ids(await take(setting.witness, limit=9)) == ["t4", "t5"]
    for lease in leases:
        assert await setting.broker.complete(lease)


async def test_a_dequeue_that_redis_refuses_midway_returns_what_it_took(setting: Setting) -> None:
    await setting.witness.enqueue([entry("t")])
    await setting.witness.redis.execute("SET", "asynq:{broken}:pending", "no list")
    (lease,) = await take(setting.broker, "q", "broken", limit=9)
    assert await setting.broker.complete(lease)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await take(setting.broker, "q", "broken", limit=9)


async def test_a_dequeue_that_is_cancelled_midway_hands_back_what_it_took(
    setting: Setting, clock: ManualClock
) -> None:
    await setting.witness.enqueue([entry(f"t{n}") for n in range(3)])
    await take(setting.broker, "other")  # the client knows that the server knows the script
    await setting.witness.enqueue([entry("late", "other")])
    rule = setting.proxy.on(
        "EVALSHA", Fault.HOLD, where=lambda words: b"asynq:{other}:pending" in words
    )
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(setting.broker.dequeue, ["q", "other"], 9)
            await rule.wait_hit()
            assert await state_of(setting.witness, "t0") is TaskState.ACTIVE
            nursery.cancel_scope.cancel()
            rule.release()
        while await state_of(setting.witness, "late", "other") is not TaskState.ACTIVE:  # noqa: ASYNC110 - it is taken, and nobody hears of it
            await trio.sleep(0.01)
    assert ids(await take(setting.witness, limit=9)) == ["t0", "t1", "t2"]
    assert await setting.witness.take_expired("other") == []
    clock.advance(30)
    (lease,) = await setting.witness.take_expired("other")
    assert lease.message.id == "late"
    assert await setting.witness.requeue(lease)


async def test_a_take_over_whose_reply_was_lost_finds_what_it_took(
    setting: Setting, clock: ManualClock
) -> None:
    await setting.witness.enqueue([entry(f"t{n}") for n in range(3)])
    await take(setting.witness, limit=3)
    assert await setting.witness.take_expired("q") == []
    clock.advance(30)
    setting.lose_reply()

    with trio.fail_after(PATIENCE):
        leases = await setting.broker.take_expired("q")

    assert sorted(ids(leases)) == ["t0", "t1", "t2"]
    for lease in leases:
        assert await setting.broker.retry(lease, at=START, error="lost")


async def test_a_batch_whose_reply_was_lost_is_taken_and_finished(setting: Setting) -> None:
    await setting.witness.enqueue([entry(f"t{n}", group="g") for n in range(4)])
    warm = await setting.witness.take_batch("q", "g", max_size=2, grace=60)
    assert warm is not None
    await setting.witness.finish_batch(warm, entry("warm"))
    with trio.fail_after(PATIENCE):
        setting.lose_reply()
        batch = await setting.broker.take_batch("q", "g", max_size=2, grace=60)
        assert batch is not None
        assert len(batch.messages) == 2
        setting.lose_reply()
        assert await setting.broker.finish_batch(batch, entry("whole")) == PENDING
    (info,) = await setting.witness.read_queues(["q"])
    assert info is not None
    assert (info.size, info.pending) == (2, 2)


@pytest.mark.parametrize("kind", ["plain", "unique", "tick", "scheduled"])
async def test_an_enqueue_whose_reply_was_lost_is_read_back(setting: Setting, kind: str) -> None:
    def make(name: str) -> Enqueue:
        if kind == "unique":
            return unique(name, name)
        if kind == "tick":
            return Enqueue(message=task(name), tick=Tick(schedule=name, at=START))
        return Enqueue(message=task(name), process_in=9 if kind == "scheduled" else 0)

    (expected,) = await setting.witness.enqueue([make("warm")])
    rule = setting.lose_reply()

    with trio.fail_after(PATIENCE):
        assert await setting.broker.enqueue([make("t")]) == [expected]

    assert rule.hits == 1


async def test_an_enqueue_that_is_not_there_says_so(setting: Setting) -> None:
    await setting.witness.enqueue([entry("warm")])
    rule = setting.proxy.on("EVALSHA", Fault.CUT, times=1)

    with trio.fail_after(PATIENCE), pytest.raises(LinkLostError):
        await setting.broker.enqueue([entry("t")])

    assert rule.hits == 1
    assert await state_of(setting.witness, "t") is None


async def test_who_watches_hears_the_end_over_an_outage(setting: Setting) -> None:
    handle = await Client(setting.broker.redis).enqueue(Task("t", queue="q", retention=60))
    lease = await take_one(setting.witness)
    results: list[bytes | None] = []

    async def wait() -> None:
        results.append(await handle.result())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await setting.proxy.refuse()
            setting.proxy.cut()
            await setting.witness.complete(lease, result=b"x")
            await setting.proxy.accept()
    assert results == [b"x"]


# -------------------------------------------------------- for every await

INFO = ServerInfo(host="h", pid=1, server_id="s", concurrency=1, queues={"q": 1}, started_at=0)
LEASE = Lease(message=task("t"), token=f"{TOKENS}x", expires_at=0)

BROKER: dict[str, Callable[[RedisBroker], Awaitable[object]]] = {
    "sync_clock": lambda b: b.sync_clock(),
    "enqueue": lambda b: b.enqueue([entry("new"), unique("u")]),
    "dequeue": lambda b: b.dequeue(["q"], 1),
    "extend": lambda b: b.extend([LEASE]),
    "complete": lambda b: b.complete(LEASE),
    "requeue": lambda b: b.requeue(LEASE),
    "retry": lambda b: b.retry(LEASE, at=0, error="e"),
    "archive": lambda b: b.archive(LEASE, error="e"),
    "write_result": lambda b: b.write_result(LEASE, b""),
    "forward": lambda b: b.forward("q"),
    "take_expired": lambda b: b.take_expired("q"),
    "delete_expired": lambda b: b.delete_expired("q"),
    "list_groups": lambda b: b.list_groups("q"),
    "take_batch": lambda b: b.take_batch("q", "g", grace=1),
    "reclaim_batches": lambda b: b.reclaim_batches("q"),
    "send_cancel": lambda b: b.send_cancel(CancelRequest(task_id="t")),
    "write_server": lambda b: b.write_server(INFO, []),
    "clear_server": lambda b: b.clear_server(INFO),
    "write_entries": lambda b: b.write_entries(
        "s", [SchedulerEntry(id="e", spec="@daily", task_type="t")]
    ),
    "clear_entries": lambda b: b.clear_entries("s"),
    "record_event": lambda b: b.record_event("e", EnqueueEvent(task_id="t", enqueued_at=0)),
    "acquire": lambda b: b.acquire("s", "h", limit=1, until=1),
    "release": lambda b: b.release("s", "h"),
    "take_rate": lambda b: b.take_rate("s", per_second=1, burst=1),
}


def client_of(broker: RedisBroker) -> Client:
    return Client(broker.redis)


def inspector_of(broker: RedisBroker) -> Inspector:
    return Inspector(broker.redis)


PUBLIC: dict[str, Callable[[RedisBroker], Awaitable[object]]] = {
    "client.enqueue": lambda b: client_of(b).enqueue(Task("new")),
    "client.enqueue_many": lambda b: client_of(b).enqueue_many([Task("new")]),
    "list_queues": lambda b: inspector_of(b).list_queues(),
    "queue_info": lambda b: inspector_of(b).queue_info("q"),
    "queue_infos": lambda b: inspector_of(b).queue_infos(memory=True),
    "history": lambda b: inspector_of(b).history("q"),
    "inspector.list_groups": lambda b: inspector_of(b).list_groups("q"),
    "pause_queue": lambda b: inspector_of(b).pause_queue("q"),
    "resume_queue": lambda b: inspector_of(b).resume_queue("q"),
    "delete_queue": lambda b: inspector_of(b).delete_queue("q", force=True),
    "task_info": lambda b: inspector_of(b).task_info("q", "t"),
    "list_tasks": lambda b: inspector_of(b).list_tasks("q", TaskState.RETRY),
    "run_task": lambda b: inspector_of(b).run_task("q", "t"),
    "archive_task": lambda b: inspector_of(b).archive_task("q", "t"),
    "delete_task": lambda b: inspector_of(b).delete_task("q", "t"),
    "run_all": lambda b: inspector_of(b).run_all("q", TaskState.RETRY),
    "archive_all": lambda b: inspector_of(b).archive_all("q", TaskState.RETRY),
    "delete_all": lambda b: inspector_of(b).delete_all("q", TaskState.RETRY),
    "update_payload": lambda b: inspector_of(b).update_payload("q", "t", b""),
    "cancel_task": lambda b: inspector_of(b).cancel_task("t"),
    "list_servers": lambda b: inspector_of(b).list_servers(),
    "list_scheduler_entries": lambda b: inspector_of(b).list_scheduler_entries(),
    "list_enqueue_events": lambda b: inspector_of(b).list_enqueue_events("e"),
    "cluster_nodes": lambda b: inspector_of(b).cluster_nodes("q"),
}
AWAITS = BROKER | PUBLIC


async def dump(redis: Redis) -> dict[bytes, object]:
    return {
        key: await redis.execute("DUMP", key) for key in sorted(await redis.execute("KEYS", "*"))
    }


async def test_what_is_cancelled_at_once_was_not_sent(setting: Setting) -> None:
    await setting.witness.enqueue([entry("t")])
    before = await dump(setting.witness.redis)
    for name, call in AWAITS.items():
        with trio.CancelScope() as scope:
            scope.cancel()
            await call(setting.broker)
        assert scope.cancelled_caught, name
    await setting.broker.redis.execute("ECHO", "all before were written, if any was")
    assert await dump(setting.witness.redis) == before


async def test_everything_can_be_cancelled_while_redis_hangs(server: EmbeddedServer) -> None:
    async with connect(server.url) as redis:
        broker = RedisBroker(redis)
        await broker.enqueue([entry("t")])
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for name, call in AWAITS.items():
                with trio.move_on_after(0.01) as scope:
                    await call(broker)
                assert scope.cancelled_caught, name
        finally:
            os.kill(server.pid, signal.SIGCONT)
        with trio.fail_after(PATIENCE):
            await redis.execute("ECHO", "it goes on")


async def test_everything_ends_when_the_client_is_closed(single_url: str) -> None:
    async with connect(single_url) as redis:
        broker = RedisBroker(redis)
    for name, call in AWAITS.items():
        with trio.fail_after(PATIENCE), pytest.raises(LinkClosedError):
            await call(broker)
            raise AssertionError(name)


async def test_signals_can_be_cancelled(setting: Setting) -> None:
    broker = setting.broker
    async with (
        broker.open_wakeups(["q"]) as wakeups,
        broker.open_cancels() as cancels,
        broker.watch_outcome("q", "t") as watch,
    ):
        await watch.wait()
        for wait in (wakeups.wait, cancels.__anext__, watch.wait):
            with trio.move_on_after(0.05) as scope:
                await wait()
            assert scope.cancelled_caught


async def test_workers_look_everywhere_after_an_outage(setting: Setting) -> None:
    with trio.fail_after(PATIENCE):
        async with setting.broker.open_wakeups(["q", "r"]) as wakeups:
            setting.proxy.cut()
            assert await wakeups.wait() == {"q", "r"}
