"""Worker processes that are killed and paused: nothing accepted is lost, nothing runs twice."""

import random
from pathlib import Path

import pytest

from terzetto.server import EmbeddedServer
from tests.faults.fleet import TTL, Fleet, open_fleet, scaled
from tests.faults.record import say

pytestmark = pytest.mark.timeout(1800)


def names(count: int) -> list[str]:
    return [f"job-{number}" for number in range(count)]


async def all_live(fleet: Fleet, keys: list[str]) -> None:
    await fleet.dispatch(keys)
    assert await fleet.wait_live(keys, within=60) is not None


async def test_a_soak_of_kills_loses_nothing(server: EmbeddedServer, tmp_path: Path) -> None:
    """Four nodes, 2,000 jobs, 100 kills."""
    keys = names(scaled(2000))
    chance = random.Random(1)  # noqa: S311 - to be repeated
    async with open_fleet(server.url, tmp_path, nodes=4) as fleet:
        await all_live(fleet, keys)
        for _ in range(scaled(100)):
            await fleet.kill(chance.choice(fleet.nodes))
            await fleet.add_node()
            # Whether it was in time is judged at the end.
            await fleet.wait_live(keys, within=10 * TTL)
        verdict = await fleet.judge()
        say(f"recovery p50 {verdict.recovery(0.5):.2f} s, max {verdict.recovery(1):.2f} s")
        assert verdict.lost == (), fleet.explain(verdict)
        assert verdict.overlaps_of_able(TTL / 3) == (), fleet.explain(verdict)
        assert verdict.worst_overlap <= 0.5 * TTL, "of those that the machine had stalled"
        assert verdict.recoveries
        assert verdict.recovery(0.5) <= 2 * TTL
        assert verdict.recovery(1) <= 4 * TTL


async def test_a_paused_node_gives_up_what_has_moved(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """200 jobs, SIGSTOP for three times the TTL and SIGCONT, 20 times."""
    keys = names(scaled(200))
    chance = random.Random(2)  # noqa: S311 - to be repeated
    async with open_fleet(server.url, tmp_path, nodes=4) as fleet:
        await all_live(fleet, keys)
        for round_ in range(scaled(20)):
            node = chance.choice(fleet.nodes)
            fleet.pause(node)
            assert await fleet.wait_live(keys, within=10 * TTL) is not None, "moved"
            fleet.resume(node)
            assert await fleet.wait_live(keys, within=10 * TTL) is not None, "given up"
            await all_live_again(fleet, keys, f"after-{round_}")
        verdict = await fleet.judge()
        say(f"worst overlap {verdict.worst_overlap:.3f} s")
        assert verdict.lost == (), fleet.explain(verdict)
        assert verdict.worst_overlap <= 0.5 * TTL, fleet.explain(verdict)


async def all_live_again(fleet: Fleet, keys: list[str], key: str) -> None:
    """Dispatch one more job: it has started within twice the TTL."""
    keys.append(key)
    await fleet.dispatch([key])
    assert await fleet.wait_live(keys, within=2 * TTL) is not None
