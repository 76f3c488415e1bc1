"""Replies that are lost after the command ran: everything is known, and happens once."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from terzetto.server import EmbeddedServer
from terzetto.testing import Fault, Proxy, open_proxy
from tests.faults.fleet import TTL, Fleet, open_fleet, scaled
from tests.faults.record import say

pytestmark = pytest.mark.timeout(1800)

LOST = 500
SHARE = 0.2  # of the replies to such commands


def lose_some(proxy: Proxy, seed: int) -> None:
    """Lose the replies to a part of the commands that change something."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated

    def chosen(words: Sequence[bytes]) -> bool:
        del words
        return chance.random() < SHARE

    for command in ("EVALSHA", "XADD", "XACK"):
        proxy.on(command, Fault.DROP_REPLY, times=scaled(LOST) // 3, where=chosen)


async def test_a_dispatcher_that_loses_replies(server: EmbeddedServer, tmp_path: Path) -> None:
    """No job is refused as running that nobody had accepted, and each starts once."""
    async with open_proxy(server.url) as proxy:
        lose_some(proxy, 4)
        async with open_fleet(server.url, tmp_path, nodes=3, client_url=proxy.url) as fleet:
            await check_each_starts_once(fleet, proxy)


async def test_workers_that_lose_replies(server: EmbeddedServer, tmp_path: Path) -> None:
    """Likewise, when it is claims and acknowledgements that are lost."""
    async with (
        open_proxy(server.url) as proxy,
        open_fleet(proxy.url, tmp_path, nodes=3, client_url=server.url) as fleet,
    ):
        lose_some(proxy, 5)
        await check_each_starts_once(fleet, proxy)


async def check_each_starts_once(fleet: Fleet, proxy: Proxy) -> None:
    keys: list[str] = []
    for round_ in range(scaled(100)):
        batch = [f"job-{round_}-{number}" for number in range(10)]
        keys += batch
        await fleet.dispatch(batch)
    assert await fleet.wait_live(keys, within=20 * TTL) is not None, "all run, and once"
    verdict = await fleet.judge()
    say(f"{proxy.accepted} connections, {len(keys)} jobs, {verdict.executions} executions")
    assert proxy.accepted > 10, "replies were lost"
    assert fleet.known == [], "a first dispatch is never told that its key exists"
    assert verdict.lost == (), fleet.explain(verdict)
    assert verdict.executions == len(keys), "one start a job"
