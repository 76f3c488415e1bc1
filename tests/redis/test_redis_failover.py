"""A master is killed under load: what was acknowledged, what is in doubt, what is lost."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import count

import attrs
import pytest
import trio

from terzetto.redis import (
    Arg,
    LinkLostError,
    LockLostError,
    Message,
    Redis,
    Subscription,
    connect,
)
from terzetto.server import EmbeddedServer, open_cluster, open_sentinel
from tests.redis.scripted import held

_log = logging.getLogger(__name__)

FAIL_OVER = 45.0  # seconds for the others to agree; the machine may be busy
WRITERS = 12  # of each sort
PAUSE = 0.01  # seconds between the writes of a task: the machine has other tests to run
BEFORE, AFTER = 20, 5  # writes of each, before the kill and after the fail-over


@attrs.define(kw_only=True)
class Tally:
    """What became of the writes of some tasks, by key."""

    acknowledged: set[str] = attrs.field(factory=set[str])
    in_doubt: set[str] = attrs.field(factory=set[str])
    not_run: set[str] = attrs.field(factory=set[str])


@attrs.define(kw_only=True)
class Load:
    """Tasks that write, half of them with WAIT 1, one key after the other."""

    redis: Redis
    safe: Tally = attrs.field(factory=Tally)
    plain: Tally = attrs.field(factory=Tally)
    counts: dict[str, int] = attrs.field(factory=dict[str, int])
    tokens: list[int] = attrs.field(factory=list[int])
    _waiting: tuple[dict[str, int], int, trio.Event] | None = None

    async def run(self) -> None:
        """Write until cancelled."""
        async with trio.open_nursery() as nursery:
            for number in range(WRITERS):
                nursery.start_soon(self._write_safely, f"{number}")
                nursery.start_soon(self._write_plainly, f"plain {number}")

    async def lock(self) -> None:
        """Take a lock, and give it back, again and again, at the server that is killed."""
        while True:
            with suppress(LockLostError):
                async with self.redis.open_lock("0", ttl=2) as lock:
                    self.tokens.append(lock.token)
                    await trio.sleep(PAUSE)

    async def wait(self, more: int) -> None:
        """Wait until each task has been told of so many writes more."""
        if len(self.counts) < 2 * WRITERS:
            self.counts.update(dict.fromkeys(map(str, range(WRITERS)), 0))
            self.counts.update({f"plain {number}": 0 for number in range(WRITERS)})
        done = trio.Event()
        self._waiting = dict(self.counts), more, done
        await done.wait()

    async def wait_stuck(self) -> int:
        """Wait until all who write without WAIT to the held server do so; return how many."""
        owner = self.redis.slot_owner("{0}")
        names = [f"plain {number}" for number in range(WRITERS)]
        names = [name for name in names if self.redis.slot_owner(f"{{{name}}}") == owner]
        before: list[int] = []
        while before != (before := [self.counts[name] for name in names]):  # noqa: ASYNC110 - nothing happens any more, which has no event
            await trio.sleep(20 * PAUSE)
        return len(names)

    async def _write_on(
        self, name: str, tally: Tally, write: Callable[[str], Awaitable[bool]]
    ) -> None:
        for number in count():
            key = f"{{{name}}}:{number}"
            try:
                if await write(key):
                    tally.acknowledged.add(key)
            except LinkLostError as error:
                (tally.in_doubt if error.may_have_run else tally.not_run).add(key)
            self.counts[name] = number
            if self._waiting is not None:
                since, more, done = self._waiting
                if all(self.counts[each] >= since[each] + more for each in since):
                    done.set()
            await trio.sleep(PAUSE)

    async def _write_safely(self, name: str) -> None:
        async with self.redis.open_dedicated(f"safe {name}", key=f"{{{name}}}") as dedicated:

            async def write(key: str) -> bool:
                unit: list[tuple[Arg, ...]] = [("SET", key, key), ("WAIT", 1, 200)]
                return await dedicated.execute_many(unit) in ([b"OK", 1], [b"OK", 2])

            await self._write_on(name, self.safe, write)

    async def _write_plainly(self, name: str) -> None:
        async def write(key: str) -> bool:
            return bool(await self.redis.execute("SET", key, key) == b"OK")

        await self._write_on(name, self.plain, write)


@attrs.frozen(kw_only=True)
class Group:
    """Servers of which one is killed."""

    url: str
    victim: Callable[[Redis], Awaitable[EmbeddedServer]]


@asynccontextmanager
async def cluster() -> AsyncGenerator[Group]:
    async with open_cluster() as cluster:

        async def victim(redis: Redis) -> EmbeddedServer:
            owner = redis.slot_owner("{0}") or ""
            return next(m for m in await cluster.masters() if owner.endswith(f":{m.port}"))

        yield Group(url=cluster.url, victim=victim)


@asynccontextmanager
async def sentinel() -> AsyncGenerator[Group]:
    async with open_sentinel() as group:

        async def victim(_: Redis) -> EmbeddedServer:
            master = await group.master()
            assert master is not None
            return master

        yield Group(url=group.url, victim=victim)


@pytest.mark.parametrize("group", [cluster, sentinel])
async def test_a_master_is_killed_under_load(
    group: Callable[[], AbstractAsyncContextManager[Group]],
) -> None:
    async with (
        group() as servers,
        connect(servers.url) as redis,
        redis.subscribe("c") as subscription,
    ):
        load = Load(redis=redis)
        with trio.fail_after(2 * FAIL_OVER):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.run)
                nursery.start_soon(load.lock)
                await load.wait(BEFORE)
                victim = await servers.victim(redis)
                with held(victim):  # so that requests are under way for sure
                    stuck = await load.wait_stuck()
                    await victim.kill()
                at_kill, locked = dict(load.counts), len(load.tokens)
                await load.wait(AFTER)
                while len(load.tokens) < locked + AFTER:  # noqa: ASYNC110 - it is another task's turn
                    await trio.sleep(PAUSE)
                nursery.cancel_scope.cancel()
            await hear(redis, subscription)
            safe, plain = load.safe, load.plain
            there = await existing(redis, safe.acknowledged | plain.acknowledged)
        await victim.start()

    lost = plain.acknowledged - there
    _log.info(
        "%d acknowledged, %d of them lost, %d in doubt; with WAIT 1: %d, %d, %d",
        *map(len, (plain.acknowledged, lost, plain.in_doubt)),
        *map(len, (safe.acknowledged, safe.acknowledged - there, safe.in_doubt)),
    )
    assert len(safe.acknowledged) > WRITERS * BEFORE
    assert safe.acknowledged <= there  # with WAIT 1: all of them
    # What was under way when the master died was reported as in doubt, and nothing else was.
    assert len(plain.in_doubt) == stuck > 0
    assert len(safe.in_doubt) <= WRITERS
    assert load.tokens == sorted(set(load.tokens))  # of one holder after the other
    # Without WAIT, only what the dead master had acknowledged can be lost.
    for key in lost:
        name, _, turn = key.lstrip("{").partition("}:")
        assert int(turn) <= at_kill[name]


async def test_what_no_replica_had_is_lost_and_its_writer_was_told() -> None:
    async with open_cluster() as servers, connect(servers.url) as redis:
        with trio.fail_after(2 * FAIL_OVER):
            owner = redis.slot_owner("{0}") or ""
            master = next(m for m in await servers.masters() if owner.endswith(f":{m.port}"))
            (follower,) = [r for r in await servers.replicas() if await follows(r, master)]
            _, reached = await redis.execute_replicated([("SET", "{0}:kept", "{0}:kept")])
            assert reached == 1
            # More than the system holds back for a process that does not read.
            unread = {f"{{0}}:{number}" for number in range(40)}
            with held(follower):
                for key in sorted(unread):
                    assert await redis.execute("SET", key, key + "x" * 1_000_000) == b"OK"
                told, reached = await redis.execute_replicated(
                    [("SET", "{0}:told", "{0}:told")], within=0.1
                )
                await master.kill()
            await redis.execute("SET", "{0}:after", "{0}:after")  # it waits for the fail-over
            there = await existing(redis, {"{0}:kept", "{0}:told", "{0}:after"})
        await master.start()

    assert (told, reached) == ([b"OK"], 0)
    assert there == {"{0}:kept", "{0}:after"}


async def follows(replica: EmbeddedServer, master: EmbeddedServer) -> bool:
    """Say whether a server is a replica of `master`."""
    async with connect(replica.url) as redis:
        role: list[object] = await redis.execute("ROLE")
    return role[2] == master.port


async def hear(redis: Redis, subscription: Subscription) -> None:
    """Publish until it is heard: the subscription may have been at the victim."""
    heard: object = None
    while heard != Message(b"c", b"on"):
        await redis.execute("PUBLISH", "c", "on")
        with trio.move_on_after(1):
            heard = await anext(subscription)


async def existing(redis: Redis, keys: set[str]) -> set[str]:
    """Return those of `keys` that are there."""
    names = sorted(keys)
    values = await redis.execute("MGET", *names)
    return {name for name, value in zip(names, values, strict=True) if value == name.encode()}
