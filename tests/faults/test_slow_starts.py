"""A start that takes three graces, a watch that nobody reads, a job that always fails: at once."""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.redis import Redis, connect
from terzetto.rmap import content_key
from terzetto.server import EmbeddedServer
from tests.faults.fleet import GRACE, POOL, TTL, scaled
from tests.faults.record import measure_stalls, say

RESTARTS = 3
SLOW, POISON = "slow", "poison"


@attrs.define
class Runs:
    """What ran, and how often."""

    starts: Counter[str] = attrs.field(factory=Counter[str])

    async def job(self, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        self.starts[job.key] += 1
        if job.key == SLOW:
            await trio.sleep(3 * GRACE)
        task_status.started()
        if job.key == POISON:
            raise ValueError("whatever is done")
        await trio.sleep_forever()


@attrs.define
class Signs:
    """The greatest time between two signs of life of each worker."""

    redis: Redis
    greatest: dict[str, float] = attrs.field(factory=dict[str, float])
    _seen: dict[str, tuple[bytes, float]] = attrs.field(factory=dict[str, "tuple[bytes, float]"])

    async def watch(self, workers: list[str]) -> None:
        key = content_key(f"{POOL}:worker-keepalive")
        while True:
            for worker, sign in zip(
                workers, await self.redis.execute("HMGET", key, *workers), strict=True
            ):
                now = trio.current_time()
                last, at = self._seen.setdefault(worker, (sign, now))
                self.greatest[worker] = max(self.greatest.get(worker, 0.0), now - at)
                if sign != last:
                    self._seen[worker] = (sign, now)
            await trio.sleep(0.02)


@pytest.mark.timeout(300)
async def test_what_is_slow_or_always_fails_holds_up_nobody(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    runs = Runs()
    others, closings = list[float](), list[float]()
    async with (
        measure_stalls(tmp_path) as stalled,
        connect(server.url) as redis,
        connect(server.url) as another,
        pool.open_node(POOL, redis, worker_ttl=TTL, ack_grace_period=GRACE) as one,
        pool.open_node(POOL, another, worker_ttl=TTL, ack_grace_period=GRACE) as two,
    ):

        async def take_time(act: Callable[[], Awaitable[None]]) -> float:
            began, before = trio.current_time(), stalled()
            await act()
            return trio.current_time() - began - (stalled() - before)

        async def start_slowly() -> None:
            with pytest.raises(pool.DispatchUnknownError):  # a dispatch waits for two graces
                await one.dispatch(SLOW)

        nodes = (one, two)
        for node in nodes:
            await node.add_worker(runs.job, max_restarts=RESTARTS)
        signs = Signs(redis)
        with one.watch(buffer_size=1) as watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(signs.watch, [node.workers[0].id for node in nodes])
                nursery.start_soon(start_slowly)
                await two.dispatch(POISON)
                for number in range(scaled(200)):
                    dispatch = partial(nodes[number % 2].dispatch, f"other {number}")
                    others.append(await take_time(dispatch))
                    await trio.sleep(4 * GRACE / scaled(200))  # as long as the slow start, and on
                with trio.fail_after(10 * TTL):
                    while not (letters := await two.dead_letters()):  # noqa: ASYNC110 - a state of Redis
                        await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
            gap, stalls = max(signs.greatest.values()), stalled()
            starts = runs.starts.copy()  # what closes moves its jobs, and they start again
            closings.extend([await take_time(node.close) for node in nodes])
    say(
        f"{len(others)} others, the slowest in {max(others):.2f} s; signs of life {gap:.2f} s "
        f"apart, with stalls of {stalls:.2f} s; closed in {max(closings):.2f} s"
    )
    assert starts[SLOW] == 1
    assert max(others) <= 1.0
    assert gap <= TTL + stalls
    assert [letter.key for letter in letters] == [POISON]
    assert starts[POISON] == 1 + RESTARTS
    assert watch.lost > 0
    assert max(closings) <= 2.0
