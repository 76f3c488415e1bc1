"""Keys and payloads made up by chance: byte-exact to the last, or refused before any write.

Each goes the whole way of a job: dispatched, read back, notified and stopped, on a
worker of the same node and on one of another.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.errors import InvalidNameError
from terzetto.pool._names import MAX_KEY_BYTES
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer

CASES: Final = 60
BIG: Final = 10_000_000  # bytes of the greatest payloads
BIG_ONES: Final = 2
_CHARACTERS: Final = "=,:{}\"\\'\0\r\n\t /*[]-_aZ09é鍵\U0001f511\ufeff\u202e\udcff\ud800"
_WORDS: Final = ("true", "null", "[]", "{}", "-1", "1e400", "*", "jobs", "shutdown", "-")


@attrs.define
class Recorder:
    """What reached the handler."""

    live: dict[str, bytes] = attrs.field(factory=dict[str, bytes])
    notes: dict[str, bytes] = attrs.field(factory=dict[str, bytes])

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()
        assert job.key not in self.live
        self.live[job.key] = job.payload

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        del self.live[key]

    async def notify(self, key: str, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.notes[key] = payload


def some_key(chance: Random) -> str:
    """Return a key that may be any text, allowed or not."""
    kind = chance.random()
    if kind < 0.1:
        return chance.choice(_WORDS)
    if kind < 0.15:
        return "k" * chance.choice([MAX_KEY_BYTES - 1, MAX_KEY_BYTES, MAX_KEY_BYTES + 1])
    return "".join(chance.choices(_CHARACTERS, k=chance.choice([0, 1, 2, 5, 20, 300])))


def is_key(key: str) -> bool:
    """Tell whether a key is allowed, by the words of the documentation."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= MAX_KEY_BYTES and "=" not in key


def some_payload(chance: Random) -> bytes:
    """Return a payload: any bytes."""
    if chance.random() < 0.3:
        return chance.choice(
            [b"", b"\0", b"\xff\xfe", b"=,:{}", b"\r\n$-1\r\n", b"[]", b"\xed\xa0\x80"]
        )
    return chance.randbytes(chance.choice([1, 7, 255, 256, 4096, 70_000]))


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not is_so():  # noqa: ASYNC110 - a state of several tasks
            await trio.sleep(0.005)


@asynccontextmanager
async def two_nodes(server: EmbeddedServer, handler: Recorder) -> AsyncGenerator[list[pool.Node]]:
    """Open two nodes, each with a client and a worker of its own, that know each other."""
    async with (
        connect(server.url) as one,
        connect(server.url) as two,
        pool.open_node("p", one) as first,
        pool.open_node("p", two) as second,
    ):
        for node in (first, second):
            await node.add_worker(handler)
        await until(lambda: len(first.pool_workers) == len(second.pool_workers) == 2)
        yield [first, second]


async def check_job(node: pool.Node, handler: Recorder, key: str, payload: bytes) -> None:
    """See a job through; whatever comes back is what was given."""
    await node.dispatch(key, payload)
    assert handler.live == {key: payload}
    assert await node.job_keys() == [key]
    assert await node.job_payload(key) == payload
    with pytest.raises(pool.JobExistsError):
        await node.dispatch(key)
    await node.notify(key, payload)
    await until(lambda: key in handler.notes)
    assert handler.notes.pop(key) == payload
    await node.stop_job(key)
    await until(lambda: not handler.live)
    with trio.fail_after(60):
        while await node.job_keys():  # noqa: ASYNC110 - a state of Redis
            await trio.sleep(0.005)
    assert await node.job_payload(key) is None


async def check_refusal(node: pool.Node, key: str) -> None:
    """See every call refuse a key that is none."""
    for call in (node.dispatch(key, b"x"), node.stop_job(key), node.notify(key, b"x")):
        with pytest.raises(InvalidNameError):
            await call
    with pytest.raises(InvalidNameError):
        await node.job_payload(key)


async def written(redis: Redis) -> tuple[object, ...]:
    """Return what a dispatch would change: the events ever added, the guards, the payloads."""
    stream = await redis.execute("XINFO", "STREAM", "pulse:stream:p:pool")
    maps = [await entries(redis, name) for name in ("pending-jobs", "job-payloads")]
    return stream[b"entries-added"], *maps


async def entries(redis: Redis, name: str) -> list[bytes]:
    """Return the keys in a map of the pool, without the map's own bookkeeping."""
    fields = await redis.execute("HKEYS", f"map:p:{name}:content")
    return [field for field in fields if not field.startswith(b"=")]


async def settled(redis: Redis) -> None:
    """Wait until no guard is left of the dispatches before."""
    with trio.fail_after(60):
        while await entries(redis, "pending-jobs"):  # noqa: ASYNC110 - a state of Redis
            await trio.sleep(0.005)


async def check_fuzz(
    server: EmbeddedServer, redis: Redis, *, seed: int, cases: int, big: int
) -> None:
    """Try made-up keys and payloads, and as many payloads of 10 MB as `big` says."""
    chance = Random(seed)  # noqa: S311 - to be repeated
    handler = Recorder()
    refused = 0
    async with two_nodes(server, handler) as nodes:
        for _ in range(cases):
            key, payload, node = some_key(chance), some_payload(chance), chance.choice(nodes)
            if is_key(key):
                await check_job(node, handler, key, payload)
                continue
            refused += 1
            await settled(redis)
            before = await written(redis)
            await check_refusal(node, key)
            assert await written(redis) == before
        for number in range(big):
            await check_job(nodes[number % 2], handler, f"big-{number}", chance.randbytes(BIG))
        assert all("dead_letter" not in node.counts for node in nodes)
    assert cases > refused > 0


async def test_any_key_and_payload_comes_through_unchanged_or_is_refused_before_a_write(
    server: EmbeddedServer, redis: Redis
) -> None:
    await check_fuzz(server, redis, seed=16, cases=CASES, big=BIG_ONES)
