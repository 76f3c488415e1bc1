"""What a client promises over every kind of server.

Keys that one command or unit names share the hash tag `{t}`, as a cluster wants it.
"""

from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError, WatchError

from terzetto.redis import Message, Redis, Script, Transaction, Watching
from tests.contract.conftest import Deployment
from tests.redis.scripted import PATIENCE

CALLERS = 4000  # for each kind and bound; with those of the link's own test, 100,000 in all
ADD = Script("add", "return redis.call('INCRBY', KEYS[1], ARGV[1])")


async def test_commands(client: Redis) -> None:
    assert await client.execute("SET", "k", b"\0\xff") == b"OK"
    assert await client.get("k") == b"\0\xff"
    await client.hset("h", "f", "v")
    assert await client.hgetall("h") == {b"f": b"v"}
    with pytest.raises(ResponseError):
        await client.execute("INCR", "h")


async def test_large_values(client: Redis) -> None:
    large = bytes(range(256)) * 20_000
    await client.execute("SET", "k", large)
    assert await client.execute("GET", "k") == large


async def test_units_and_scripts(client: Redis) -> None:
    replies = await client.execute_many([("SET", "{t}a", 1), ("INCR", "{t}a"), ("GET", "{t}b")])
    assert replies == [b"OK", 2, None]
    assert await client.run_script(ADD, keys=["n"], args=[5]) == 5
    assert await client.run_script(ADD, keys=["n"], args=[5]) == 10
    add = client.register_script(ADD.source)
    assert await add(keys=["n"], args=[5]) == 15


async def test_pipelines_and_transactions(client: Redis) -> None:
    async with client.pipeline() as pipe:
        pipe.set("{t}a", 1)
        got = pipe.get("{t}a")
    assert await got == b"1"
    async with client.transaction() as then:
        then.incr("{t}a")
        got = then.get("{t}a")
    assert await got == b"2"
    async with client.watch_keys("{t}a") as now:
        await client.execute("SET", "{t}a", 9)
        with pytest.raises(WatchError):
            async with now.transaction() as then:
                then.incr("{t}a")


async def test_transact(client: Redis) -> None:
    async def increment(now: Watching, then: Transaction) -> None:
        then.set("n", int(await now.get("n") or 0) + 1)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(client.transact, increment, "n")
    assert await client.execute("GET", "n") == b"5"


async def test_blocking(client: Redis) -> None:
    popped: list[object] = []

    async def pop() -> None:
        popped.append(await client.execute("BLPOP", "list", 0))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pop)
            await trio.testing.wait_all_tasks_blocked()
            await client.execute("RPUSH", "list", "x")
    assert popped == [[b"list", b"x"]]


async def test_a_dedicated_link(client: Redis) -> None:
    async with client.open_dedicated("reader", key="stream") as dedicated:
        await client.execute("XADD", "stream", "0-1", "f", "v")
        reply = await dedicated.execute("XREAD", "BLOCK", 0, "STREAMS", "stream", "0")
        assert reply == {b"stream": [[b"0-1", [b"f", b"v"]]]}
        with trio.move_on_after(0.05) as scope:
            await dedicated.execute("XREAD", "BLOCK", 0, "STREAMS", "stream", "$")
        assert scope.cancelled_caught
        with trio.fail_after(PATIENCE):
            assert await dedicated.execute("ECHO", "mine") == b"mine"


async def test_publish_and_subscribe(client: Redis) -> None:
    async with client.subscribe("c", patterns=["p*"]) as subscription:
        await client.execute("PUBLISH", "c", "one")
        await client.execute("PUBLISH", "p1", "two")
        with trio.fail_after(PATIENCE):
            got = {await anext(subscription), await anext(subscription)}
    assert got == {Message(b"c", b"one"), Message(b"p1", b"two", b"p*")}


async def test_scans(client: Redis) -> None:
    names = {b"key:%d" % number for number in range(200)}
    for name in names:
        await client.execute("SET", name, 1)
    found = {name async for name in client.scan_iter(match="key:*", count=30)}  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] - redis-py types it in part only
    assert found == names


async def test_a_lock(client: Redis) -> None:
    tokens: list[int] = []

    async def work() -> None:
        async with client.open_lock("till") as lock:
            tokens.append(lock.token)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(work)
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 5


@pytest.mark.parametrize("bound", [None, 50])
async def test_callers_that_are_cancelled_at_random(
    deployment: Deployment, bound: int | None
) -> None:
    random = Random(3)  # noqa: S311 - a test's dice
    outcomes = {"answered": 0, "cancelled": 0}
    limiter = trio.CapacityLimiter(100)
    descriptors = count_descriptors()
    async with deployment.connect(max_in_flight=bound) as client:

        async def call(number: int) -> None:
            async with limiter:
                patience = random.expovariate(300) if random.random() < 0.7 else PATIENCE
                with trio.move_on_after(patience) as scope:
                    key = b"k%d" % number
                    await client.execute("SET", key, number)
                    assert await client.execute("GET", key) == b"%d" % number
                    outcomes["answered"] += 1
                outcomes["cancelled"] += scope.cancelled_caught

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(CALLERS):
                    nursery.start_soon(call, number)
            await client.execute("ECHO", "last")
        assert sum(outcomes.values()) == CALLERS
        assert min(outcomes.values()) > CALLERS / 20
        left = client.statistics()
        assert (left.queued, left.in_flight, left.crowd) == (0, 0, 0)
    with trio.fail_after(PATIENCE):
        while count_descriptors() > descriptors:  # a front in this process closes its own later
            await trio.lowlevel.checkpoint()


def count_descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


async def test_blocking_calls_that_are_cancelled_at_random(client: Redis) -> None:
    random = Random(5)  # noqa: S311 - a test's dice
    cancelled = 0
    async with client.open_dedicated("stress", key="none") as dedicated:
        with trio.fail_after(PATIENCE):
            for number in range(300):
                token = b"%d" % number
                with trio.move_on_after(random.expovariate(800)) as scope:
                    await dedicated.execute("BLPOP", "none", "0.002")
                    assert await dedicated.execute("ECHO", token) == token
                cancelled += scope.cancelled_caught
            assert await dedicated.execute("ECHO", "last") == b"last"
        assert cancelled > 30
        assert dedicated.link.statistics().connections == 1
