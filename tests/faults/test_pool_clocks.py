"""Clocks that are stepped by two minutes, again and again, under 200 jobs."""

from pathlib import Path

import pytest

from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from tests.pool.test_pool_clock import LIBRARY, check_steps

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
async def test_clocks_that_are_stepped_again_and_again_harm_nobody(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    await check_steps(server, redis, tmp_path, jobs=200, steps=20)
