"""A cluster's master is killed under a fleet: the pool goes on, and says what is lost."""

from pathlib import Path

import pytest
import trio

from terzetto.server import Cluster, EmbeddedServer, open_cluster
from terzetto.server._ask import ask
from tests.faults.fleet import TTL, open_fleet, scaled
from tests.faults.record import say

pytestmark = pytest.mark.timeout(1800)

NODE_TIMEOUT = 2.0
POOL = "{scenario}"


async def owner_of_the_pool(cluster: Cluster) -> EmbeddedServer:
    """Return the master that has the pool's slot, as the others see it."""
    slot = await ask(cluster.members[0], "CLUSTER", "KEYSLOT", POOL)
    for master in await cluster.masters():
        if await ask(master, "CLUSTER", "COUNTKEYSINSLOT", str(slot)) != 0:
            return master
    raise AssertionError("nobody has the pool")


async def test_a_master_that_is_killed(tmp_path: Path) -> None:
    """500 jobs, the master of the pool killed 10 times: back in time, all of it."""
    keys = [f"job-{number}" for number in range(scaled(500))]
    async with (
        open_cluster(node_timeout=NODE_TIMEOUT) as cluster,
        open_fleet(cluster.url, tmp_path, nodes=3, name=POOL) as fleet,
    ):
        await fleet.dispatch(keys)
        assert await fleet.wait_live(keys, within=60) is not None
        for round_ in range(scaled(10)):
            master = await owner_of_the_pool(cluster)
            began = trio.current_time()
            await master.kill()
            keys.append(f"after-{round_}")
            await fleet.dispatch([keys[-1]])
            while keys[-1] not in fleet.live():
                await fleet.dispatch([keys[-1]])
            say(f"dispatch works {trio.current_time() - began:.1f} s after the kill")
            assert trio.current_time() - began <= NODE_TIMEOUT + 3 * TTL + 2
            await master.start()
            await cluster.wait_ready()
            assert await fleet.wait_live(keys, within=10 * TTL) is not None
        verdict = await fleet.judge()
        say(f"worst overlap {verdict.worst_overlap:.3f} s, {verdict.executions} executions")
        assert verdict.lost == (), fleet.explain(verdict)
        assert verdict.worst_overlap <= 0.5 * TTL, fleet.explain(verdict)
