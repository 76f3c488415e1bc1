"""A scheduler in a terminal of its own: ``python -m examples.pool.terminals.scheduler URL``.

Its plan is called every half second, and starts and stops two jobs by turns. Start it twice,
and each turn is one of the two's; a cron spec such as ``"*/5 * * * *"`` may stand for the
seconds.
"""

import sys
from itertools import count

import trio

import terzetto
from terzetto import pool

TURNS = 4


async def main(url: str) -> None:
    """Let the plan be called a few times, then end the schedule and its last job."""
    turns = count(1)
    done = trio.Event()

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        turn = next(turns)
        if turn > TURNS:
            done.set()
            return pool.JobPlan(stop_others=True, stop_schedule=True)
        key = "tick" if turn % 2 else "tock"
        print("turn", turn, "wants", key)
        return pool.JobPlan(start={key: f"turn {turn}".encode()}, stop_others=True)

    async with terzetto.connect(url) as redis, pool.open_node("example", redis) as node:
        async with node.open_schedule("metronome", 0.5, plan) as schedule:
            await done.wait()
            while not schedule.is_stopped:  # noqa: ASYNC110 - another task follows the map
                await trio.sleep(0.01)
        while await node.job_keys():  # noqa: ASYNC110 - what is asked for is in Redis
            await trio.sleep(0.01)
        print("running:", *await node.job_keys())


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
