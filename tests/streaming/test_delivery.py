"""Events that are handed to a function: order, whose task, errors, ends, and other takers."""

from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack

import pytest
import trio
import trio.testing

from terzetto.errors import ClosedError
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.streaming import OLDEST, Event, Gap, Reader, Stream, Subscription
from terzetto.testing import open_proxy
from tests.redis.moving import wait_blocked

PATIENCE = 20.0


class Collector:
    """Takes events, and tells when there are enough."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.tasks: set[str] = set()
        self._grown = trio.Event()

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def take(self, event: Event) -> None:
        self.events.append(event)
        self.tasks.add(trio.lowlevel.current_task().name)
        self._grown.set()
        self._grown = trio.Event()

    async def until_there_are(self, count: int) -> None:
        with trio.fail_after(PATIENCE):
            while len(self.events) < count:
                await self._grown.wait()


async def deliver(reader: Reader, take: Callable[[Event], None]) -> None:
    await reader.deliver(take)


async def test_events_are_handed_over_in_order_and_at_last_in_the_task_that_read_them(
    stream: Stream,
) -> None:
    sizes = (3, 250, 1, 2)  # many at once are looked at first, and come from the reader's task
    expected: list[str] = []
    found = Collector()
    async with stream.open_reader(start=OLDEST) as reader, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, reader, found.take)
        for size in sizes:
            names = [f"{len(expected) + number}" for number in range(size)]
            await stream.add_many([(name, b"x") for name in names])
            expected += names
            await found.until_there_are(len(expected))
        found.tasks.clear()
        await stream.add("last", b"x")
        await found.until_there_are(len(expected) + 1)
        nursery.cancel_scope.cancel()
    assert found.names == [*expected, "last"]
    assert [event.payload for event in found.events] == [b"x"] * len(found.events)
    (task,) = found.tasks
    assert "link" in task


async def test_what_the_function_raises_ends_its_delivery_and_nothing_else(
    redis: Redis, stream: Stream
) -> None:
    def refuse(event: Event) -> None:
        raise LookupError(event.name)

    found = Collector()
    async with stream.open_reader() as reader, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, reader, found.take)
        with trio.fail_after(PATIENCE):
            await wait_blocked(redis)  # by its link the reader reads
            connections = await redis.execute("CLIENT", "LIST")
            async with trio.open_nursery() as adding:
                adding.start_soon(stream.add_many, [("a", b""), ("b", b"")])
                with pytest.raises(LookupError, match="a"):
                    await reader.deliver(refuse)
        await stream.add("c", b"")
        await found.until_there_are(3)
        assert found.names == ["a", "b", "c"]
        ids = [line.split()[0] for line in connections.splitlines()]
        now = [line.split()[0] for line in (await redis.execute("CLIENT", "LIST")).splitlines()]
        assert now == ids, "no link was lost for it"
        nursery.cancel_scope.cancel()


async def test_what_is_no_exception_comes_out_where_the_delivery_was_asked_for(
    stream: Stream,
) -> None:
    def leave(event: Event) -> None:
        raise SystemExit(event.name)

    async with stream.open_reader(start=OLDEST) as reader:
        await stream.add("a", b"")
        with trio.fail_after(PATIENCE):
            with pytest.raises(SystemExit, match="a"):
                await reader.deliver(leave)
            await stream.add("b", b"")
            assert (await anext(reader)).name == "b", "the link is there still"


async def test_a_matcher_runs_in_the_task_of_the_reader(stream: Stream) -> None:
    tasks: list[str] = []

    def match(_: Event) -> bool:
        tasks.append(trio.lowlevel.current_task().name)
        return True

    found = Collector()
    async with stream.open_reader(matcher=match) as reader, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, reader, found.take)
        for number in range(5):
            await stream.add(f"{number}", b"")
            await found.until_there_are(number + 1)
        nursery.cancel_scope.cancel()
    assert tasks
    assert not [name for name in tasks if "link" in name], "which it may crash, and no link"


async def test_a_function_may_open_and_close_other_takers(stream: Stream) -> None:
    async with (
        stream.open_reader(start=OLDEST) as reader,
        trio.open_nursery() as nursery,
        AsyncExitStack() as stack,
    ):
        earlier = ExitStack()
        earlier.enter_context(reader.subscribe())

        def take(event: Event) -> None:
            earlier.close()
            if event.name == "a":
                opened.append(stack.enter_context(reader.subscribe()))

        opened: list[Subscription] = []
        nursery.start_soon(deliver, reader, take)
        await trio.testing.wait_all_tasks_blocked()
        with reader.subscribe() as later:
            await stream.add("a", b"")
            with trio.fail_after(PATIENCE):
                assert (await anext(later)).name == "a", "though one before it has left"
            await stream.add("b", b"")
            with trio.fail_after(PATIENCE):
                assert (await anext(opened[0])).name == "b", "all from when it was opened"
        nursery.cancel_scope.cancel()


async def test_a_delivery_that_was_cancelled_gets_nothing_more(stream: Stream) -> None:
    found = Collector()
    async with stream.open_reader() as reader, trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver, reader, found.take)
            await stream.add("a", b"")
            await found.until_there_are(1)
            nursery.cancel_scope.cancel()
        later = Collector()
        outer.start_soon(deliver, reader, later.take)
        await trio.testing.wait_all_tasks_blocked()
        await stream.add("b", b"")
        await later.until_there_are(1)
        outer.cancel_scope.cancel()
    assert (found.names, later.names) == (["a"], ["b"])


async def test_a_taker_that_does_not_take_holds_up_a_delivery_too(stream: Stream) -> None:
    found = Collector()
    async with stream.open_reader(start=OLDEST, buffer_size=2) as reader:
        with reader.subscribe() as slow:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(deliver, reader, found.take)
                for name in "abcd":
                    await stream.add(name, b"")
                await found.until_there_are(2)
                await trio.testing.wait_all_tasks_blocked()
                assert found.names == ["a", "b"]
                with trio.fail_after(PATIENCE):
                    await slow.read()
                await found.until_there_are(4)
                nursery.cancel_scope.cancel()
    assert found.names == ["a", "b", "c", "d"]


async def test_a_closed_reader_ends_a_delivery(stream: Stream) -> None:
    async with trio.open_nursery() as nursery:

        async def take_until_closed(reader: Reader) -> None:
            with pytest.raises(ClosedError):
                await reader.deliver(found.take)
            ended.set()

        found, ended = Collector(), trio.Event()
        async with stream.open_reader() as reader:
            nursery.start_soon(take_until_closed, reader)
            await stream.add("a", b"")
            await found.until_there_are(1)
        with trio.fail_after(PATIENCE):
            await ended.wait()
        with pytest.raises(ClosedError), trio.fail_after(PATIENCE):
            await reader.deliver(found.take)


async def test_a_stream_that_is_added_in_the_midst_of_a_delivery_is_read(
    redis: Redis, stream: Stream
) -> None:
    other = Stream("other", redis)
    await other.add("x", b"")
    found = Collector()
    async with stream.open_reader() as reader, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, reader, found.take)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            await stream.add(f"{number}", b"")
            await found.until_there_are(number + 1)
        with trio.fail_after(PATIENCE):
            await reader.add_stream(other, start=OLDEST)
        await found.until_there_are(21)
        await stream.add("20", b"")
        await other.add("y", b"")
        await found.until_there_are(23)
        with trio.fail_after(PATIENCE):
            await reader.remove_stream(stream)
        await stream.add("unread", b"")
        await other.add("z", b"")
        await found.until_there_are(24)
        nursery.cancel_scope.cancel()
    assert found.names[:21] == [*map(str, range(20)), "x"]
    assert sorted(found.names[21:23]) == ["20", "y"]
    assert found.names[23:] == ["z"]


async def test_a_delivery_goes_on_after_cuts_and_hands_over_everything_once(
    server: EmbeddedServer,
) -> None:
    found = Collector()
    async with (
        open_proxy(server.url) as proxy,
        connect(proxy.url, max_backoff=0.05) as link,
        connect(server.url) as beside,
        Stream("s", link).open_reader(start=OLDEST) as reader,
        trio.open_nursery() as nursery,
    ):
        stream = Stream("s", beside)
        nursery.start_soon(deliver, reader, found.take)
        for number in range(60):
            if number % 20 == 10:
                proxy.cut()
            await stream.add(f"{number}", b"")
            if number % 3:
                await found.until_there_are(number + 1)
        await found.until_there_are(60)
        nursery.cancel_scope.cancel()
    assert found.names == [*map(str, range(60))]


async def test_the_readers_own_task_sleeps_while_events_are_handed_over(stream: Stream) -> None:
    steps: list[str] = []

    class Watch(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            steps.append(task.name)

    found, watch = Collector(), Watch()
    async with stream.open_reader() as reader, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, reader, found.take)
        await stream.add("first", b"")
        await found.until_there_are(1)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(watch)
        for number in range(50):
            await stream.add(f"{number}", b"")
            await found.until_there_are(number + 2)
        trio.lowlevel.remove_instrument(watch)
        nursery.cancel_scope.cancel()
    assert not [name for name in steps if "reading" in name]
    assert [name for name in steps if "link" in name]


async def test_what_was_trimmed_under_a_delivery_that_goes_on_is_a_gap(
    redis: Redis, stream: Stream
) -> None:
    """Reads go on by themselves meanwhile; now and then the reader looks at its place."""
    found, missed, is_told = Collector(), list[int | None](), trio.Event()

    def note(gap: Gap) -> None:
        missed.append(gap.missed)
        is_told.set()

    async def keep_adding() -> None:
        while True:
            await stream.add("more", b"")
            await trio.sleep(0.02)  # the stream is never at rest for as long as a read waits

    async with stream.open_reader(block=30, on_gap=note) as reader, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, reader, found.take)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(3):
            await stream.add(f"{number}", b"")
            await found.until_there_are(number + 1)
        burst = [("XADD", stream.key, "*", "n", f"b{number}", "p", "") for number in range(20)]
        trim = ("XTRIM", stream.key, "MAXLEN", 5)
        await redis.execute_many([("MULTI",), *burst, trim, ("EXEC",)])
        await found.until_there_are(8)
        nursery.start_soon(keep_adding)
        with trio.fail_after(PATIENCE):
            await is_told.wait()
        nursery.cancel_scope.cancel()
    assert missed == [15]
    assert found.names[3:8] == [f"b{number}" for number in range(15, 20)]
