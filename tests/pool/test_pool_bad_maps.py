"""What others left in the pool's maps: whatever it is, nodes go on, and jobs run."""

from collections.abc import Callable

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.pool._names import RESERVED
from terzetto.redis import Redis

TTL = 1.0
MAPS = sorted(RESERVED - {"pool"})
ODD = {
    b"": b"",
    b"\xff\xfe": b"\xff",
    b"01M80000000000000000000000": b"not a number",
    b"another": b"99999999999999999999999999",
    b"third": b'["a", 5, {"b": null}]',
    b"fourth": b"-1",
    b"p:t": b"0|0s|often",
    b"shutdown": b"\xff",
    b"k" * 70_000: b"\0" * 100,
}


@attrs.define
class Handler:
    live: set[str] = attrs.field(factory=set[str])
    notes: list[bytes] = attrs.field(factory=list[bytes])

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        self.live.add(job.key)

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.live.discard(key)

    async def notify(self, key: str, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.notes.append(payload)

    def has_heard(self, note: str) -> Callable[[], bool]:
        return lambda: note.encode() in self.notes


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.01)


async def litter(redis: Redis, suffix: str) -> None:
    for key, value in ODD.items():
        if key == b"shutdown" and suffix == "shutdown":
            continue  # that one ends the pool, whatever it says
        await redis.execute("HSET", f"map:p:{suffix}:content", key, value)
    await redis.execute("HINCRBY", f"map:p:{suffix}:content", "=rev", 1)


@pytest.mark.parametrize("suffix", MAPS)
async def test_odd_values_of_a_map_stop_nothing(redis: Redis, suffix: str) -> None:
    handler = Handler()
    await litter(redis, suffix)
    async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
        await node.add_worker(handler)
        for turn in ("before", "after"):
            await node.dispatch(turn, b"payload")
            await node.notify(turn, turn.encode())
            await until(handler.has_heard(turn))
            assert turn in await node.job_keys()
            await node.dead_letters()
            await pool.look_at_pool("p", redis)
            async with node.open_ticker("t", 0.05) as ticker:
                with trio.fail_after(30):
                    await anext(ticker)
            await litter(redis, suffix)
            await trio.sleep(
                TTL
            )  # the sweeps of a TTL meet what was left there: the span is the test
        for turn in ("before", "after"):
            await node.stop_job(turn)
        await until(lambda: not {"before", "after"} & handler.live)
        assert not node.is_closed


async def test_whatever_the_map_of_shutdowns_says_a_pool_whose_asker_is_gone_can_be_joined(
    redis: Redis,
) -> None:
    for asker in (b"", b"\xff", b"01M80000000000000000000000"):
        await redis.execute("HSET", "map:p:shutdown:content", "shutdown", asker, "=rev", 7)
        with trio.fail_after(30):
            async with pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node:
                await node.add_worker(Handler())
                await node.dispatch("a")
