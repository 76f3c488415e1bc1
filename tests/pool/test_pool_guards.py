"""What keeps the key of a dispatch while its job is started: the payload, and else a guard."""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio

from terzetto import pool
from terzetto.pool._asking import RUNNING, Asked, Asking, Claim
from terzetto.pool._codec import JobBody, encode_job
from terzetto.pool._ledger import deferral
from terzetto.pool._names import SINK, Names
from terzetto.pool._store import Store
from terzetto.redis import Redis
from terzetto.rmap import content_key
from terzetto.streaming import stream_key

NAMES: Final = Names("p")
GUARDS: Final = content_key(NAMES.pending)
STREAM: Final = stream_key(NAMES.stream)
FAR: Final = 30.0  # seconds: what is guarded for so long is so for the whole test


async def eventually(ask: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(20):
        while not await ask():  # noqa: ASYNC110 - what is asked for is in Redis
            await trio.sleep(0.01)


async def claim_for_a_worker(redis: Redis, key: str) -> tuple[Claim, str]:
    """Enlist a worker and claim a key for it; return the claim, and when it was enlisted."""
    store = Store(redis, NAMES)
    created = await store.enlist("w", "")
    assert created is not None
    await redis.execute("XGROUP", "CREATE", STREAM, SINK, "$", "MKSTREAM")
    await redis.execute("XGROUP", "CREATECONSUMER", STREAM, SINK, "reader")
    body = encode_job(JobBody(key, "nobody", b"payload", 1))
    asked = Asked(key, body, "token", "w", created, "reader")
    [claim] = await store.claim(Asking([asked], guard_for=FAR, limit=0))
    assert isinstance(claim, Claim)
    return claim, created


async def test_a_job_that_is_owned_when_it_is_claimed_needs_no_guard(redis: Redis) -> None:
    claim, _ = await claim_for_a_worker(redis, "a")
    assert claim.is_owned
    assert await redis.execute("EXISTS", GUARDS) == 0
    body = encode_job(JobBody("a", "another", b"", 1))
    asking = Asking([Asked("a", body, "another token")], guard_for=FAR, limit=0)
    assert await Store(redis, NAMES).claim(asking) == [RUNNING]


async def test_a_job_whose_start_is_put_off_keeps_its_key(redis: Redis) -> None:
    tries = 0
    may_start = False

    async def later(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        nonlocal tries
        tries += 1
        if not may_start:
            raise pool.JobRetryError
        task_status.started()
        await trio.sleep_forever()

    async def is_put_off() -> bool:
        return tries > 0 and await node.job_payload("a") is None

    async def is_free_of_guards() -> bool:
        return not await redis.execute("HEXISTS", GUARDS, "a")

    async with (
        pool.open_node("p", redis, ack_grace_period=FAR) as node,
        pool.open_node("p", redis, ack_grace_period=FAR) as other,
        trio.open_nursery() as nursery,
    ):
        await node.add_worker(later)
        nursery.start_soon(node.dispatch, "a")
        await eventually(is_put_off)
        for _ in range(20):
            with pytest.raises(pool.JobExistsError):
                await other.dispatch("a")
        may_start = True
        await eventually(is_free_of_guards)
        assert await node.job_payload("a") == b""


async def test_the_guard_of_a_start_that_is_put_off_is_its_dispatchs(redis: Redis) -> None:
    store = Store(redis, NAMES)
    claim, created = await claim_for_a_worker(redis, "a")
    change = deferral("a", claim.event_id, FAR)
    assert await store.change_jobs("w", created, [change]) == [1]
    assert await store.job_keys() == []
    sent_ms = int(claim.event_id.partition("-")[0])
    guard = b"%d000000" % (sent_ms + FAR * 1000)
    assert await redis.execute("HGET", GUARDS, "a") == guard
    assert await store.change_jobs("w", created, [change]) == [0], "it is owned no more"
    await store.claim(Asking([], guards=[("a", "token")], guard_for=FAR, limit=0))
    assert await redis.execute("HGET", GUARDS, "a") is None


@pytest.mark.parametrize("event_id", ["", "1-0"])
async def test_no_guard_is_made_of_an_event_that_is_unknown_or_too_old(
    redis: Redis, event_id: str
) -> None:
    _, created = await claim_for_a_worker(redis, "a")
    change = deferral("a", event_id, FAR)
    assert await Store(redis, NAMES).change_jobs("w", created, [change]) == [1]
    assert await Store(redis, NAMES).job_keys() == []
    assert await redis.execute("EXISTS", GUARDS) == 0
