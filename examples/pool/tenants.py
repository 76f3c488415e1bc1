"""Pollers for each tenant: a plan says which should run, and the pool follows it.

Run it with ``python -m examples.pool.tenants``. The tenants stand in a replicated
map; every node opens the schedule, and one of them looks at the map each tick.
Whoever signs up gets a poller, whoever leaves loses theirs.
"""

from functools import partial

import trio

import terzetto
from terzetto import pool, rmap

EVERY = 0.2  # seconds between two looks; minutes in real life


async def poll(running: set[str], job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
    """Poll for one tenant until that is stopped."""
    running.add(job.key)
    task_status.started()
    try:
        await trio.sleep_forever()
    finally:
        running.discard(job.key)


async def plan(tenants: rmap.Map) -> pool.JobPlan:
    """Want one poller for each tenant, and no other."""
    await trio.lowlevel.checkpoint()
    return pool.JobPlan(
        start={f"poll:{tenant}": settings.encode() for tenant, settings in tenants.items()},
        stop_others=True,
    )


async def wait_for(running: set[str], *tenants: str) -> None:
    """Wait until exactly these tenants have a poller."""
    while running != {f"poll:{tenant}" for tenant in tenants}:  # noqa: ASYNC110 - set by jobs
        await trio.sleep(0.01)
    print("polled:", *sorted(tenants))


async def main() -> None:
    """Let tenants come and go."""
    running: set[str] = set()
    async with (
        terzetto.connect("embedded://") as redis,
        rmap.join("tenants", redis) as tenants,
        pool.open_node("pollers", redis) as one,
        pool.open_node("pollers", redis) as two,
    ):
        await one.add_worker(partial(poll, running))
        await two.add_worker(partial(poll, running))
        await tenants.set_and_wait("ada", "hourly")
        await tenants.set_and_wait("bob", "daily")
        ask = partial(plan, tenants)
        async with (
            one.open_schedule("tenants", EVERY, ask),
            two.open_schedule("tenants", EVERY, ask),
        ):
            await wait_for(running, "ada", "bob")
            await tenants.set("cy", "hourly")
            await tenants.delete("ada")
            await wait_for(running, "bob", "cy")
        await one.shutdown()
    print("after the shutdown:", len(running))


if __name__ == "__main__":
    trio.run(main)
