"""Streams on a cluster: read together wherever they live, through moves and a fail-over."""

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count

import attrs
import pytest
import trio

from terzetto.errors import InvalidOptionError
from terzetto.redis import LinkLostError, Redis, connect
from terzetto.server import Cluster, open_cluster
from terzetto.streaming import OLDEST, Event, Reader, Sink, Stream
from tests.redis.moving import KEY, begin_move, end_move, move_keys, owner_and_other

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]
SLOTS = 16384
GRACE = 1.0
FAIL_OVER = 60.0  # seconds for the cluster to agree; the machine may be busy


async def take(taker: Reader | Sink, count: int) -> set[str]:
    with trio.fail_after(30):
        return {(await anext(taker)).name for _ in range(count)}


def streams_of_all_masters(redis: Redis) -> list[Stream]:
    """Return a stream of each third of the slots, which is what a master begins with.

    The first one is in the slot that `tests.redis.moving` moves.
    """
    found = {redis.slot_of(KEY) * 3 // SLOTS: Stream("{moving}s", redis)}
    for number in count():
        stream = Stream(f"{{{number}}}s", redis, max_len=0)
        found.setdefault(redis.slot_of(stream.key) * 3 // SLOTS, stream)
        if len(found) == 3:
            return list(found.values())
    raise AssertionError


@attrs.define
class Work:
    """Adds events to streams, and has two instances of a sink, and a reader, deal with them."""

    redis: Redis
    streams: list[Stream]
    added: set[str] = attrs.Factory(set[str])
    undecided: set[str] = attrs.Factory(set[str])
    acknowledged: Counter[str] = attrs.Factory(Counter[str])
    delivered: Counter[str] = attrs.Factory(Counter[str])
    read: dict[str, list[str]] = attrs.Factory(dict[str, list[str]])
    adding: int = 0

    async def add(self, stream: Stream, stop: trio.Event) -> None:
        self.adding += 1
        for number in count():
            name = f"{stream.name}-{number}"
            try:
                await stream.add(name, b"")
                # What a master has not passed on when it dies is lost: Redis' own window.
                await self.redis.execute("EXISTS", stream.key)
                self.added.add(name)
            except LinkLostError:
                self.undecided.add(name)
            if stop.is_set():
                self.adding -= 1
                return
            await trio.sleep(0.005)

    async def share(self, sink: Sink) -> None:
        async for event in sink:
            self.delivered[event.name] += 1
            self.acknowledged[event.name] += await sink.ack(event)

    async def follow(self, reader: Reader) -> None:
        async for event in reader:
            self.read.setdefault(event.stream, []).append(event.name)

    async def settled(self) -> bool:
        """Tell whether nothing is left to be added, delivered or acknowledged, or read."""
        if self.adding:  # what is added after the look at its group would not be seen
            return False
        for stream in self.streams:
            (group,) = (await stream.info()).groups
            if group.pending or group.lag:
                return False
        # Whoever had an event acknowledged may be told so a turn later than this.
        has_heard = set(self.delivered) <= set(self.acknowledged)
        return has_heard and self.added <= {name for each in self.read.values() for name in each}


async def open_work(stack: AsyncExitStack, cluster: Cluster, sink: str) -> tuple[Work, trio.Event]:
    redis = await stack.enter_async_context(connect(cluster.url))
    nursery = await stack.enter_async_context(trio.open_nursery())
    stack.callback(nursery.cancel_scope.cancel)
    streams = streams_of_all_masters(redis)
    work, stop = Work(redis, streams), trio.Event()
    for _ in range(2):
        opened = await stack.enter_async_context(
            streams[0].open_sink(sink, start=OLDEST, ack_grace_period=GRACE)
        )
        for stream in streams[1:]:
            await opened.add_stream(stream)
        nursery.start_soon(work.share, opened)
    reader = await stack.enter_async_context(streams[0].open_reader(start=OLDEST))
    for stream in streams[1:]:
        await reader.add_stream(stream)
    nursery.start_soon(work.follow, reader)
    for stream in streams:
        nursery.start_soon(work.add, stream, stop)
    return work, stop


def more(work: Work, streams: list[Stream], number: int) -> Callable[[], bool]:
    """Return what tells whether so many more events of each stream have been read than now."""
    goal = {stream.name: len(work.read.get(stream.name, ())) + number for stream in streams}
    return lambda: all(len(work.read.get(name, ())) >= least for name, least in goal.items())


async def test_streams_of_any_slots_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terzetto.streaming._poll._PATIENCE", math.inf)
    async with open_cluster() as cluster, connect(cluster.url) as redis:
        first, *others = streams_of_all_masters(redis)
        assert len({redis.slot_owner(stream.key) for stream in (first, *others)}) == 3
        second = Stream("{moving}t", redis)
        async with (
            first.open_reader(start=OLDEST, block=0) as reader,
            first.open_sink("k", start=OLDEST, block=0, buffer_size=2) as sink,
        ):
            for taker in (reader, sink):
                for stream in (second, *others):
                    await taker.add_stream(stream)
                assert set(taker.streams) == {first.name, second.name, *(s.name for s in others)}
            for number in range(20):
                for stream in (first, second, *others):
                    await stream.add(f"{stream.name}{number}", b"")
            everything = {
                f"{stream.name}{n}" for n in range(20) for stream in (first, second, *others)
            }
            assert await take(reader, 80) == everything
            assert await take(sink, 80) == everything
            # A read that waits for ever is ended where it waits, when streams come and go; were
            # it not, that would be waited for, since nobody's patience runs out here.
            with trio.fail_after(FAIL_OVER):
                for taker in (reader, sink):
                    for stream in (first, *others, second):
                        await taker.remove_stream(stream)
                    assert taker.streams == ()
                    await taker.add_stream(others[0], start=OLDEST)
            await others[0].add("last", b"")
            assert "last" in await take(reader, 21)
            assert "last" in await take(sink, 1)


async def test_a_sinks_stream_needs_a_tag_for_its_dead_letters() -> None:
    async with open_cluster() as cluster, connect(cluster.url) as redis:
        stream = Stream("plain", redis)
        with pytest.raises(InvalidOptionError, match=r"such as \{plain\}"):
            stream.open_sink("k")
        async with Stream("{a}", redis).open_sink("k", start=OLDEST, max_deliveries=1) as sink:
            with pytest.raises(InvalidOptionError, match="dead letters are in two slots"):
                await sink.add_stream(stream)
            await Stream("{a}", redis).add("bad", b"")
            await sink.reject(await anext(sink), "no good")
            assert await Stream("{a}", redis).dead_letters.count() == 1
        async with stream.open_reader(start=OLDEST) as reader:
            await stream.add("one", b"")
            assert await take(reader, 1) == {"one"}


async def test_a_slot_that_moves_while_it_is_read_loses_nothing(eventually: Eventually) -> None:
    async with open_cluster() as cluster, AsyncExitStack() as stack:
        source, target = await owner_and_other(stack, cluster)
        work, stop = await open_work(stack, cluster, "k")
        with trio.fail_after(50):
            await eventually(more(work, work.streams, 20))
            for _ in range(2):  # there, and back again
                await begin_move(source, target)
                await eventually(more(work, work.streams, 5))
                name = work.streams[0].name
                keys = [work.streams[0].key, f"map:stream:{name}:sinks:content"]
                await move_keys(source, target, keys)
                await eventually(more(work, work.streams, 5))  # by redirection only
                await end_move(source, target)
                await eventually(more(work, work.streams, 20))
                source, target = target, source
            stop.set()
            await eventually(work.settled)
    assert work.added
    assert not work.undecided
    assert work.acknowledged == Counter(work.added), "each is acknowledged once"
    for names in work.read.values():
        assert names == [f"{names[0].rpartition('-')[0]}-{n}" for n in range(len(names))]
    assert set(work.delivered) == work.added


async def test_a_master_that_is_killed_while_it_is_read_loses_nothing(
    eventually: Eventually,
) -> None:
    async with open_cluster() as cluster, AsyncExitStack() as stack:
        work, stop = await open_work(stack, cluster, "{moving}k")
        with trio.fail_after(FAIL_OVER):
            await eventually(more(work, work.streams, 50))
            owner = work.redis.slot_owner(work.streams[0].key)
            (victim,) = [
                master for master in await cluster.masters() if str(master.port) in str(owner)
            ]
            await victim.kill()
            # The lanes of the other masters go on while this one's is without a server.
            await eventually(more(work, work.streams[1:], 50))
            await cluster.wait_ready()
            await eventually(more(work, work.streams, 50))
            stop.set()
            await eventually(work.settled)
            await victim.start()
    assert work.added <= set(work.acknowledged)
    # An acknowledgement that the dead master had not passed on is made again, and a
    # lost reply to one counts 0; of the other masters' events each was acknowledged once.
    for name, times in work.acknowledged.items():
        if not name.startswith(work.streams[0].name):
            assert times == 1, name
    assert set(work.acknowledged) <= work.added | work.undecided


async def test_a_lane_that_is_added_in_the_midst_of_a_delivery_gets_its_share_of_the_room() -> None:
    names: list[str] = []
    is_going_on, has_come = trio.Event(), trio.Event()

    def take(event: Event) -> None:
        names.append(event.name)
        if len(names) == 10:
            is_going_on.set()
        if event.name == "late":
            has_come.set()

    async with (
        open_cluster() as cluster,
        connect(cluster.url) as redis,
        connect(cluster.url) as beside,
    ):
        busy, late, _ = streams_of_all_masters(redis)
        async with busy.open_reader(buffer_size=100) as reader, trio.open_nursery() as nursery:
            lanes = reader._feed.lanes  # pyright: ignore[reportPrivateUsage] - how much a read may bring is seen nowhere else

            async def keep_adding() -> None:
                for number in count():
                    await Stream(busy.name, beside).add(f"busy {number}", b"")
                    await trio.sleep(0.005)  # so that each read brings one, and goes on

            nursery.start_soon(reader.deliver, take)
            nursery.start_soon(keep_adding)
            with trio.fail_after(30):
                await is_going_on.wait()
                await reader.add_stream(late, start=OLDEST)
                while [lane.reserved for lane in lanes] != [50, 50]:  # noqa: ASYNC110 - a state of two loops, which tell nobody
                    await trio.sleep(0.001)
                await Stream(late.name, beside).add("late", b"")
                await has_come.wait()
            nursery.cancel_scope.cancel()
