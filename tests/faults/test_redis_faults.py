"""Redis hangs, dies and is emptied under a fleet: what was accepted runs on, and runs once."""

import os
import random
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

import terzetto
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from tests.faults.fleet import CLIENT, TTL, Fleet, open_fleet, scaled
from tests.faults.record import Kind, say

BATCH = 40

pytestmark = pytest.mark.timeout(1800)


async def test_redis_that_hangs_evicts_nobody(server: EmbeddedServer, tmp_path: Path) -> None:
    """Stopped for three times the TTL, 10 times, with 200 jobs live."""
    keys = [f"job-{number}" for number in range(scaled(200))]
    async with open_fleet(server.url, tmp_path, nodes=4) as fleet:
        await fleet.dispatch(keys)
        assert await fleet.wait_live(keys, within=60) is not None
        for round_ in range(scaled(10)):
            os.kill(server.pid, signal.SIGSTOP)
            await trio.sleep(3 * TTL)  # the scenario is that long
            os.kill(server.pid, signal.SIGCONT)
            key = f"after-{round_}"
            keys.append(key)
            with trio.fail_after(2 * TTL):
                await fleet.dispatch([key])
        verdict = await fleet.judge()
        assert verdict.lost == (), fleet.explain(verdict)
        assert verdict.overlaps == (), fleet.explain(verdict)
        assert verdict.executions == len(keys), "no job was moved or started again"


async def test_redis_that_is_killed_keeps_what_it_acknowledged(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """Killed under a stream of dispatches and started again, 20 times."""
    chance = random.Random(3)  # noqa: S311 - to be repeated
    keys: list[str] = []
    async with open_fleet(server.url, tmp_path, nodes=3) as fleet:
        for round_ in range(scaled(20)):
            batch = [f"job-{round_}-{number}" for number in range(BATCH)]
            keys += batch
            decided = len([event for event in fleet.events if event.node == CLIENT])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fleet.dispatch, batch)
                wanted = decided + chance.randrange(BATCH)
                await fleet.wait_until(partial(has_decided, fleet, wanted))
                await server.kill()
                await server.start()
            # Who got no answer asks again: now everybody is told.
            await dispatch_until_accepted(fleet, batch)
        assert await fleet.wait_live(keys, within=10 * TTL) is not None, "all run, and once"
        verdict = await fleet.judge()
        say(f"worst overlap {verdict.worst_overlap:.3f} s, {verdict.executions} executions")
        assert verdict.lost == (), fleet.explain(verdict)
        assert verdict.worst_overlap <= 0.5 * TTL, fleet.explain(verdict)


def has_decided(fleet: Fleet, count: int) -> bool:
    """Whether `count` dispatches have been decided, whichever way."""
    fleet.live()
    decided = (Kind.ACCEPTED, Kind.UNDECIDED)
    return sum(event.kind in decided for event in fleet.events) >= count


async def dispatch_until_accepted(fleet: Fleet, keys: list[str]) -> None:
    fleet.live()
    while missing := sorted(set(keys) - fleet.accepted()):
        await fleet.dispatch(missing)
        fleet.live()


async def until_known(fleet: Fleet, keys: list[str]) -> None:
    while set(await fleet.client.job_keys()) != set(keys):  # noqa: ASYNC110 - a state of Redis
        await trio.sleep(0.05)


async def flush_all(redis: Redis) -> None:
    await redis.execute("FLUSHALL")


async def flush_scripts(redis: Redis) -> None:
    await redis.execute("SCRIPT", "FLUSH")


async def delete_streams(redis: Redis) -> None:
    await delete(redis, "stream")


async def delete_maps(redis: Redis) -> None:
    await delete(redis, "hash")


async def delete(redis: Redis, kind: str) -> None:
    script = """
    for _, key in ipairs(redis.call('KEYS', '*')) do
        if redis.call('TYPE', key).ok == ARGV[1] then redis.call('DEL', key) end
    end
    """
    await redis.execute("EVAL", script, 0, kind)


@pytest.mark.parametrize("harm", [flush_all, flush_scripts, delete_streams, delete_maps])
async def test_what_is_deleted_comes_back(
    server: EmbeddedServer,
    tmp_path: Path,
    harm: Callable[[Redis], Awaitable[None]],
) -> None:
    """Running jobs run on and are known again; new ones are taken."""
    keys = [f"job-{number}" for number in range(scaled(100))]
    async with (
        open_fleet(server.url, tmp_path, nodes=3) as fleet,
        terzetto.connect(server.url) as redis,
    ):
        await fleet.dispatch(keys)
        assert await fleet.wait_live(keys, within=60) is not None
        await harm(redis)
        keys.append("after")
        with trio.fail_after(3 * TTL):
            await dispatch_until_accepted(fleet, ["after"])
            await until_known(fleet, keys)
        verdict = await fleet.judge()
        assert verdict.lost == (), fleet.explain(verdict)
        assert verdict.overlaps == (), fleet.explain(verdict)


async def test_a_payload_that_is_taken_away_is_reported_as_lost(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """The oracle and the harness are not blind: this loses a job for real."""
    async with (
        open_fleet(server.url, tmp_path, nodes=2) as fleet,
        terzetto.connect(server.url) as redis,
    ):
        await fleet.dispatch(["job-a", "job-b"])
        assert await fleet.wait_live(["job-a", "job-b"], within=60) is not None
        await redis.execute("FLUSHALL")
        for node in list(fleet.nodes):
            await fleet.kill(node)
        await fleet.add_node()
        assert (await fleet.judge()).lost == ("job-a", "job-b")
