"""A thousand made-up keys and payloads, and twenty of 10 MB; `tests` has 60 and two."""

import pytest

from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from tests.pool.test_pool_fuzz import check_fuzz

pytestmark = pytest.mark.timeout(1800)


async def test_a_thousand_keys_and_payloads_come_through_or_are_refused(
    server: EmbeddedServer, redis: Redis
) -> None:
    await check_fuzz(server, redis, seed=1600, cases=1000, big=20)
