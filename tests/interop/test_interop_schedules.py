"""Tickers and schedules that nodes in Go's Pulse and nodes of ours share."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from terzetto import pool, rmap
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from tests.interop.gomap import PATIENCE, wait_for
from tests.interop.gopeer import Peer
from tests.interop.mixed import POOL, Mixed, Ours, Theirs, open_mixed

INTERVAL = 0.25  # seconds
TICKERS = f"{POOL}:tickers"


@asynccontextmanager
async def open_two(url: str, go: Peer) -> AsyncGenerator[tuple[Mixed, Theirs, Ours]]:
    async with open_mixed(url, go, "go", "ours") as mixed:
        theirs, ours = mixed.sides
        assert isinstance(theirs, Theirs)
        assert isinstance(ours, Ours)
        yield mixed, theirs, ours


@pytest.mark.parametrize("stopper", ["go", "ours"])
async def test_a_tick_goes_to_one_side_and_a_stop_to_both(
    server: EmbeddedServer, redis: Redis, go: Peer, stopper: str
) -> None:
    async with (
        open_two(server.url, go) as (_, theirs, ours),
        rmap.join(TICKERS, redis) as tickers,
    ):
        began = trio.current_time()
        name = {"in": theirs.node, "name": "tick", "seconds": INTERVAL}
        await go.call("ticker.open", "ticker", **name)
        async with ours.node.open_ticker("tick", INTERVAL) as ticker:
            await tickers.sync()
            assert tickers[f"{POOL}:tick"].endswith("|250ms")
            ticks = 0

            async def count() -> None:
                nonlocal ticks
                async for _ in ticker:
                    ticks += 1

            async def enough() -> bool:
                return ticks + int(await go.call("ticker.count", "ticker")) >= 8

            async with trio.open_nursery() as nursery:
                nursery.start_soon(count)
                await wait_for(enough, wanted=True)
                if stopper == "go":
                    await go.call("ticker.stop", "ticker")
                else:
                    await ticker.stop()
                with trio.fail_after(PATIENCE):
                    await tickers.wait_for(lambda m: f"{POOL}:tick" not in m)
                # Our loop ends by itself, and the nursery with it.
                nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
            assert ticker.is_stopped
            total = ticks + int(await go.call("ticker.count", "ticker"))
            assert total <= (trio.current_time() - began) / INTERVAL + 1


@pytest.mark.parametrize("ender", ["go", "ours"])
async def test_a_schedule_is_shared_and_ends_for_both(
    server: EmbeddedServer, redis: Redis, go: Peer, ender: str
) -> None:
    keys = [f"scheduled {number}" for number in range(6)]
    calls = 0

    async def plan() -> pool.JobPlan:
        nonlocal calls
        calls += 1
        return pool.JobPlan(start={key: key.encode() for key in keys}, stop_others=True)

    async with (
        open_two(server.url, go) as (mixed, theirs, ours),
        rmap.join(TICKERS, redis) as tickers,
    ):
        name = {"in": theirs.node, "name": "plan", "seconds": INTERVAL}
        await go.call("schedule.open", "schedule", **name, items=keys, flag=True)
        async with ours.node.open_schedule("plan", INTERVAL, plan) as schedule:

            async def all_run() -> dict[str, str | None]:
                return dict(await mixed.where())

            await wait_for(all_run, mixed.ring(keys))
            with trio.fail_after(PATIENCE):
                await tickers.wait_for(lambda m: f"{POOL}:plan" in m)

            async def kept() -> list[str]:
                return schedule.keys

            await wait_for(kept, keys)

            async def ticked() -> bool:
                return calls + int(await go.call("schedule.calls", "schedule")) >= 6

            await wait_for(ticked, wanted=True)
            if ender == "go":
                await go.call("schedule.end", "schedule")
            else:
                await schedule.stop()
            with trio.fail_after(PATIENCE):  # a tick has to fall to Go first, if Go ends it
                await tickers.wait_for(lambda m: f"{POOL}:plan" not in m)

            async def is_stopped() -> bool:
                return schedule.is_stopped

            await wait_for(is_stopped, wanted=True)
            assert set(await mixed.where()) == set(keys)  # the jobs go on


async def test_a_ticker_in_go_survives_a_cron_spec_under_its_name(
    server: EmbeddedServer, redis: Redis, go: Peer
) -> None:
    """They should have names of their own; where they have not, who comes last decides."""
    async with (
        open_two(server.url, go) as (_, theirs, ours),
        rmap.join(TICKERS, redis) as tickers,
    ):
        name = {"in": theirs.node, "name": "tick", "seconds": INTERVAL}
        await go.call("ticker.open", "first", **name)
        async with ours.node.open_ticker("tick", "0 3 * * *"):
            await tickers.sync()
            assert tickers[f"{POOL}:tick"].endswith("h0m0s|CRON_TZ=UTC 0 3 * * *")
            await go.call("ticker.open", "second", **name)

            async def goes_on() -> bool:
                counts = [await go.call("ticker.count", each) for each in ("first", "second")]
                return sum(int(count) for count in counts) >= 6

            await wait_for(goes_on, wanted=True)
            await tickers.sync()
            assert tickers[f"{POOL}:tick"].endswith("|250ms")
