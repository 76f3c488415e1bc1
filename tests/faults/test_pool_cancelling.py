"""A node's life, cancelled at five hundred of its steps; `tests` has 25."""

import pytest

from terzetto.server import EmbeddedServer
from tests.pool.test_pool_cancel_cycles import check_cycles

CYCLES = 500

pytestmark = pytest.mark.timeout(1800)


async def test_five_hundred_cancelled_lives_leave_nothing(server: EmbeddedServer) -> None:
    await check_cycles(server, [number / CYCLES for number in range(CYCLES)])
