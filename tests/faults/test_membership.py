"""Workers that come and go, and more work than they take: all of it runs or is refused."""

import random
from pathlib import Path

import pytest
import trio

import terzetto
from terzetto import pool
from terzetto.server import EmbeddedServer
from tests.faults.fleet import GRACE, POOL, TTL, open_fleet, scaled

pytestmark = pytest.mark.timeout(1800)


async def test_workers_join_and_leave(server: EmbeddedServer, tmp_path: Path) -> None:
    """50 joins and leaves with 300 jobs: nothing is lost, nothing runs twice."""
    keys = [f"job-{number}" for number in range(scaled(300))]
    chance = random.Random(6)  # noqa: S311 - to be repeated
    async with open_fleet(server.url, tmp_path, nodes=3) as fleet:
        await fleet.dispatch(keys)
        assert await fleet.wait_live(keys, within=60) is not None
        for _ in range(scaled(50)):
            if len(fleet.nodes) < 3 or chance.random() < 0.5:
                await fleet.add_node()
            else:
                await fleet.leave(chance.choice(fleet.nodes))
        assert await fleet.wait_live(keys, within=10 * TTL) is not None
        verdict = await fleet.judge()
        assert verdict.lost == (), fleet.explain(verdict)
        assert verdict.overlaps == (), fleet.explain(verdict)


async def test_a_burst_without_workers_is_kept_or_refused(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """Five times what may wait: what was not refused runs once there is a worker."""
    limit = scaled(200)
    refused: set[str] = set()
    undecided: set[str] = set()
    async with (
        open_fleet(server.url, tmp_path, nodes=0) as fleet,
        terzetto.connect(server.url) as redis,
        pool.open_node(
            POOL,
            redis,
            worker_ttl=TTL,
            ack_grace_period=GRACE,
            max_queued_jobs=limit,
            client_only=True,
        ) as client,
    ):

        async def dispatch(key: str) -> None:
            try:
                await client.dispatch(key)
            except pool.PoolFullError:
                refused.add(key)
            except pool.DispatchUnknownError:
                undecided.add(key)

        async with trio.open_nursery() as nursery:
            for number in range(5 * limit):
                nursery.start_soon(dispatch, f"job-{number}")
            nursery.start_soon(fleet.add_node)
        assert refused, "there was more than may wait"
        wanted = {f"job-{number}" for number in range(5 * limit)} - refused
        assert undecided <= wanted
        assert await fleet.wait_live(wanted, within=20 * TTL) is not None
