"""One pool, with nodes in Go's Pulse and nodes of ours."""

from pathlib import Path
from typing import cast

import pytest

from terzetto import pool
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.testing import open_program
from tests.interop.gomap import wait_for
from tests.interop.gopeer import Peer, PeerRefusedError, open_peer
from tests.interop.mixed import GRACE, POOL, open_mixed

FOUR = ("go", "ours", "go", "ours")
SHORT = 1.5  # seconds, the TTL where a node is killed


async def test_jobs_start_where_the_ring_says_whoever_dispatches_them(
    server: EmbeddedServer, go: Peer
) -> None:
    async with open_mixed(server.url, go, *FOUR) as mixed:
        keys = await mixed.dispatch(40, by=mixed.sides)
        await mixed.wait_placed(keys)
        assert set((await mixed.where()).values()) == {side.worker_id for side in mixed.sides}
        for side in mixed.sides:
            await wait_for(side.job_keys, sorted(keys))


async def test_stops_and_notifications_reach_the_owner_from_every_node(
    server: EmbeddedServer, go: Peer
) -> None:
    async with open_mixed(server.url, go, *FOUR) as mixed:
        keys = await mixed.dispatch(16, by=mixed.sides)
        await mixed.wait_placed(keys)
        owners = await mixed.where()
        for number, key in enumerate(keys):
            for side in mixed.sides[:2]:  # one of each kind
                await side.notify(key, b"note %d" % number)
        expected = {
            side.worker_id: sorted(
                ["notify", key, f"note {number}"]
                for number, key in enumerate(keys)
                for _ in range(2)
                if owners[key] == side.worker_id
            )
            for side in mixed.sides
        }

        async def notes() -> dict[str, list[list[str]]]:
            return {
                side.worker_id: sorted(line for line in await side.told() if line[0] == "notify")
                for side in mixed.sides
            }

        await wait_for(notes, expected)
        for number, key in enumerate(keys[:8]):
            await mixed.sides[number % 4].stop_job(key)
        await mixed.wait_running(keys[8:])
        for side in mixed.sides:
            await wait_for(side.job_keys, sorted(keys[8:]))


@pytest.mark.parametrize("kind", ["go", "ours"])
async def test_a_refusal_comes_back_to_the_other_side(
    server: EmbeddedServer, redis: Redis, go: Peer, kind: str
) -> None:
    async with open_mixed(server.url, go, kind) as mixed:
        if kind == "go":
            async with pool.open_node(
                POOL, redis, worker_ttl=mixed.ttl, ack_grace_period=GRACE, client_only=True
            ) as node:
                with pytest.raises(pool.JobStartError) as caught:
                    await node.dispatch("k", b"refuse:not today")
                assert caught.value.text == "not today"
                await node.dispatch("k", b"payload")
                with pytest.raises(pool.JobExistsError):
                    await node.dispatch("k", b"payload")
        else:
            await go.call("node.open", "client", name=POOL, ttl=mixed.ttl, grace=GRACE, flag=True)
            with pytest.raises(PeerRefusedError, match="not today"):
                await go.call("node.dispatch", "client", key="k", value=b"refuse:not today")
            await go.call("node.dispatch", "client", key="k", value=b"payload")
            with pytest.raises(PeerRefusedError, match="exists"):
                await go.call("node.dispatch", "client", key="k", value=b"payload")


@pytest.mark.parametrize("newcomer", ["go", "ours"])
async def test_when_a_worker_joins_its_jobs_move_to_it(
    server: EmbeddedServer, go: Peer, newcomer: str
) -> None:
    # A Go node rebalances on a change of the workers only, and hears of signs of life on
    # another channel: when the newcomer's comes after, it holds it for dead and keeps its
    # jobs until the workers change again. Ours move at once, whoever joins.
    async with open_mixed(server.url, go, "go", "ours") as mixed:
        keys = await mixed.dispatch(30, by=mixed.sides)
        await mixed.wait_placed(keys)
        before = await mixed.where()
        side = await mixed.add(newcomer)
        ring = mixed.ring(keys)

        async def misplaced_here() -> list[str]:
            return [key for key in await mixed.sides[1].jobs() if ring[key] != before[key]]

        await wait_for(misplaced_here, [])
        await mixed.wait_running(keys)
        assert {key for key, worker in ring.items() if worker == side.worker_id} >= set(
            await side.jobs()
        )
        passer_by = await mixed.add("ours")
        await passer_by.close()
        mixed.sides.remove(passer_by)
        await mixed.wait_placed(keys)
        after = await mixed.where()
        assert {key for key in keys if before[key] != after[key]} == set(await side.jobs())


@pytest.mark.parametrize("leaver", ["go", "ours"])
async def test_a_node_that_closes_hands_its_jobs_to_the_other_side(
    server: EmbeddedServer, go: Peer, leaver: str
) -> None:
    kinds = [leaver, "ours" if leaver == "go" else "go"]
    async with open_mixed(server.url, go, *kinds) as mixed:
        keys = await mixed.dispatch(20, by=mixed.sides)
        await mixed.wait_placed(keys)
        assert await mixed.sides[0].jobs()
        await mixed.sides[0].close()
        mixed.sides.pop(0)
        await mixed.wait_placed(keys)


async def test_what_a_killed_go_node_ran_is_recovered_by_us(
    server: EmbeddedServer, go: Peer, peer_binary: Path
) -> None:
    async with (
        open_peer(peer_binary, server.url) as victim,
        open_mixed(server.url, go, "ours", ttl=SHORT) as mixed,
    ):
        killed = await mixed.add("go", victim)
        keys = await mixed.dispatch(20, by=mixed.sides)
        await mixed.wait_placed(keys)
        await victim.kill()
        mixed.sides.remove(killed)
        await mixed.wait_placed(keys)


async def test_what_a_killed_node_of_ours_ran_is_recovered_by_go(
    server: EmbeddedServer, go: Peer, tmp_path: Path
) -> None:
    program = Path(__file__).parents[1] / "pool" / "pool_program.py"
    log = tmp_path / "log"
    async with open_mixed(server.url, go, "go", ttl=SHORT) as mixed:
        arguments = (server.url, POOL, "victim", log, str(SHORT), str(GRACE))
        async with open_program(program, *arguments) as victim:

            async def logged() -> bool:
                return log.exists() and "ready" in log.read_text()

            await wait_for(logged, wanted=True)
            keys = await mixed.dispatch(20, by=mixed.sides)
            assert 0 < len(await mixed.where()) < len(keys)
            await victim.kill()
        await mixed.wait_placed(keys)


@pytest.mark.parametrize("asker", ["go", "ours"])
async def test_a_shutdown_ends_the_pool_on_both_sides(
    server: EmbeddedServer, redis: Redis, go: Peer, asker: str
) -> None:
    async with open_mixed(server.url, go, *FOUR) as mixed:
        keys = await mixed.dispatch(12, by=mixed.sides)
        await mixed.wait_placed(keys)
        await mixed.sides[FOUR.index(asker)].shutdown()
        for side in mixed.sides:
            await wait_for(side.is_closed, wanted=True)
            await wait_for(side.jobs, {})
            starts = [line for line in await side.told() if line[0] == "start"]
            stops = [line for line in await side.told() if line[0] == "stop"]
            assert len(starts) == len(stops)  # nothing was started a second time
        for name in ("jobs", "job-payloads", "workers", "pending-jobs"):
            fields = await redis.execute("HKEYS", f"map:{POOL}:{name}:content")
            assert isinstance(fields, list)
            assert set(cast("list[bytes]", fields)) <= {b"=rev", b"=kind"}
