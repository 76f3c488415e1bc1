"""Every instance of a sink is killed with events in its hands: they come again, on each stream."""

import time
from pathlib import Path

import pytest
import trio

from terzetto.server import EmbeddedServer
from tests.faults.fleet import scaled
from tests.faults.record import Kind, say
from tests.faults.sinks import GRACE, open_sinks

pytestmark = pytest.mark.timeout(600)

EVENTS = 500  # of each pool
POOLS = ("one:pool", "other:pool")


async def test_all_that_was_pending_comes_again(server: EmbeddedServer, tmp_path: Path) -> None:
    """Two pools' streams with a sink of one name, 500 pending in each: 500 of 500, twice."""
    count = scaled(EVENTS)
    async with open_sinks(server.url, tmp_path) as sinks:
        hoarders = [
            await sinks.start(pool, sink="events", how="hoard", concurrency=count)
            for pool in POOLS
            for _ in range(3)
        ]
        for pool in POOLS:
            await sinks.add(pool, ["work"] * count)
        with trio.fail_after(60):
            await sinks.wait_count(Kind.STARTED, 2 * count)
        for hoarder in hoarders:
            await sinks.kill(hoarder)
        # A peer that is stuck holds the lease that Go's instances share under this name.
        await sinks.redis.execute("SET", "sink:events:stalelease", "99999999999999", "PX", 600_000)
        for pool in POOLS:
            await sinks.start(pool, sink="events", concurrency=50)
        began = time.monotonic()
        with trio.fail_after(60):
            await sinks.wait_count(Kind.DONE, 2 * count)
        seconds = time.monotonic() - began
        stalled = sinks.stalled_since(began)
        with trio.fail_after(60):
            await sinks.settle(*POOLS)
        verdict = await sinks.judge(*POOLS)
    say(f"{2 * count} pending events done in {seconds:.2f} s, stalled for {stalled:.2f} s of them")
    assert verdict.is_clean, verdict
    assert len(verdict.recoveries) == 2 * count
    # What is due is claimed at once: the last was delivered before its process was killed.
    assert seconds - stalled <= 2 * GRACE
