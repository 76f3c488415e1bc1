"""What cannot be is refused where it is given, by an error that names it; nothing is written."""

from functools import partial
from typing import Any

import pytest

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
