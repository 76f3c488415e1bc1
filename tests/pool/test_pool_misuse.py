"""What cannot be is refused where it is given, by an error that names it; nothing is written."""

from functools import partial
from typing import Any

import pytest
import trio

from terzetto import pool
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis


def not_async(*arguments: object) -> None:
    pytest.fail("it was called")


@pytest.mark.parametrize("plan", [pool.JobPlan(), pool.JobPlan, not_async, partial(not_async, 1)])
async def test_a_schedule_does_not_begin_with_a_plan_that_would_fail_at_each_tick(
    redis: Redis,
    plan: Any,  # noqa: ANN401 - what an untyped caller may give
) -> None:
    async with pool.open_node("p", redis) as node:
        with pytest.raises(InvalidOptionError, match="is no plan: give an async function"):
            node.open_schedule("s", 60, plan)
    keys: list[bytes] = await redis.execute("KEYS", "*:s:*")
    assert keys == []


@pytest.mark.parametrize("redis", ["redis://127.0.0.1:6379", None])
def test_a_node_needs_a_client(redis: Any) -> None:  # noqa: ANN401 - as above
    for make in (pool.open_node, pool.child):
        with pytest.raises(TypeError, match="a node needs a client"):
            make("p", redis)


async def test_jobs_may_be_dispatched_out_of_a_mapping_too(redis: Redis) -> None:
    """As a `JobPlan` has them."""
    started = dict[str, bytes]()

    async def work(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        started[job.key] = job.payload
        task_status.started()
        await trio.sleep_forever()

    wanted = {"one": b"1", "two": b"2"}
    async with pool.open_node("p", redis) as node:
        await node.add_worker(work)
        assert await node.dispatch_many(wanted) == dict.fromkeys(wanted)
    assert started == wanted
