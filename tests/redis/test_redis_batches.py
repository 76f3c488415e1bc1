"""Who writes what, and when: the requests of one turn of the scheduler."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import attrs
import trio
import trio.testing

from terzetto.redis import Dedicated, LinkLostError, Redis
from terzetto.redis._connection import Connection
from terzetto.redis._io import Transport
from terzetto.redis._link import Link
from terzetto.redis._reader import ReplyReader
from terzetto.redis._url import Endpoint, Options, parse_url
from terzetto.server import EmbeddedServer
from tests.redis.scripted import PATIENCE, open_scripted

REQUEST = b"*1\r\n$4\r\nPING\r\n"


@attrs.define(eq=False)
class Recorder(Transport):
    """A socket that takes what `limit` lets it take, and answers with `reply`."""

    limit: Callable[[int], int] = lambda size: size
    can_send_now: bool = True
    writes: list[bytes] = attrs.field(factory=list[bytes])
    writers: list[trio.lowlevel.Task] = attrs.field(factory=list[trio.lowlevel.Task])
    writable: trio.Event = attrs.field(factory=trio.Event)
    replies: trio.MemorySendChannel[bytes] = attrs.field(init=False)
    _coming: trio.MemoryReceiveChannel[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.replies, self._coming = trio.open_memory_channel[bytes](10_000)

    def send_now(self, data: bytes | memoryview, /) -> int:
        taken = bytes(data)[: self.limit(len(data))]
        if taken:
            self.writes.append(taken)
            self.writers.append(trio.lowlevel.current_task())
        return len(taken)

    async def wait_writable(self) -> None:
        await self.writable.wait()

    async def send_all(self, data: bytes, /) -> None:
        self.send_now(data)
        await trio.lowlevel.checkpoint()

    async def receive_into(self, reader: ReplyReader, /, turns: int = 0) -> int:
        del turns
        data = await self._coming.receive()
        if data:
            reader.feed(data, len(data))
        return len(data)

    def close(self) -> None:
        pass


@asynccontextmanager
async def running(
    recorder: Recorder, endpoint: Endpoint | None = None, *, max_in_flight: int = 10_000
) -> AsyncGenerator[Link]:
    """Run a link on `recorder` for the time of a block; it reconnects to `endpoint`."""
    options = Options(endpoint=endpoint or Endpoint(), max_in_flight=max_in_flight)
    first = Connection(
        transport=recorder,
        reader=ReplyReader(options.max_reply_bytes),
        endpoint=options.endpoint,
        client_id=1,
    )
    link = Link(options, "test", first=first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await link.wait_connected()
        await trio.testing.wait_all_tasks_blocked()
        yield link
        link.close()


def sizes(recorder: Recorder) -> list[int]:
    return [write.count(REQUEST) for write in recorder.writes]


async def test_a_busy_turn_is_written_in_batches_while_it_goes_on() -> None:
    recorder = Recorder()
    got: list[object] = []
    async with running(recorder) as link:

        async def call() -> None:
            got.append(await link.request(REQUEST))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(120):
                    nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                assert sizes(recorder) == [1, 50, 50, 19]  # the first found an idle link
                recorder.replies.send_nowait(b"".join(b":%d\r\n" % n for n in range(120)))
    assert sorted(got, key=str) == sorted(range(120), key=str)


async def test_the_last_of_those_who_were_woken_together_sends_what_they_ask() -> None:
    recorder = Recorder()
    callers: set[trio.lowlevel.Task] = set()
    async with running(recorder) as link:

        async def call(times: int) -> None:
            callers.add(trio.lowlevel.current_task())
            for _ in range(times):
                await link.request(REQUEST)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(call, 3 if number < 4 else 2)
                await trio.testing.wait_all_tasks_blocked()
                assert sizes(recorder) == [1, 9]
                assert recorder.writers[-1] not in callers  # nobody knew who would ask
                recorder.replies.send_nowait(b"+PONG\r\n" * 10)
                await trio.testing.wait_all_tasks_blocked()
                assert sizes(recorder) == [1, 9, 10]
                assert recorder.writers[-1] in callers
                recorder.replies.send_nowait(b"+PONG\r\n" * 10)
                await trio.testing.wait_all_tasks_blocked()
                assert sizes(recorder) == [1, 9, 10, 4]  # who was waited for has left
                recorder.replies.send_nowait(b"+PONG\r\n")
                await trio.testing.wait_all_tasks_blocked()
                recorder.replies.send_nowait(b"+PONG\r\n" * 3)


async def test_who_is_woken_alone_asks_at_once_though_others_wait_for_replies() -> None:
    recorder = Recorder()
    callers: set[trio.lowlevel.Task] = set()
    async with running(recorder) as link:

        async def call() -> None:
            callers.add(trio.lowlevel.current_task())
            for _ in range(2):
                await link.request(REQUEST)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                recorder.replies.send_nowait(b"+PONG\r\n")
                await trio.testing.wait_all_tasks_blocked()
                assert sizes(recorder) == [1, 2, 1]
                assert recorder.writers[-1] in callers
                recorder.replies.send_nowait(b"+PONG\r\n" * 3)
                await trio.testing.wait_all_tasks_blocked()
                recorder.replies.send_nowait(b"+PONG\r\n" * 2)


async def test_the_last_to_ask_is_left_out_if_it_is_cancelled_already() -> None:
    recorder = Recorder()
    asked = 0
    async with running(recorder) as link:

        async def call() -> None:
            nonlocal asked
            await link.request(REQUEST)
            with trio.CancelScope() as scope:
                asked += 1
                if asked == 10:
                    scope.cancel()
                await link.request(REQUEST)
            assert scope.cancelled_caught == scope.cancel_called

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                recorder.replies.send_nowait(b"+PONG\r\n" * 10)
                await trio.testing.wait_all_tasks_blocked()
                assert sizes(recorder) == [1, 9, 9]
                recorder.replies.send_nowait(b"+PONG\r\n" * 9)


async def test_who_leaves_a_crowd_leaves_the_way_free() -> None:
    recorder = Recorder()
    async with running(recorder, max_in_flight=120) as link:

        async def call() -> None:
            await link.request(REQUEST)

        async def call_together() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(120):
                    nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                async with trio.open_nursery() as crowd:
                    crowd.start_soon(call)
                    await trio.testing.wait_all_tasks_blocked()
                    assert link.statistics().crowd == 1
                    crowd.cancel_scope.cancel()
                recorder.replies.send_nowait(b"+PONG\r\n" * 120)

        with trio.fail_after(PATIENCE):
            await call_together()
            before = len(recorder.writes)
            await call_together()
        assert sizes(recorder)[before:] == [50, 50, 20]  # not as those who stand behind a crowd


async def test_a_batch_leaves_out_who_is_cancelled_already() -> None:
    recorder = Recorder()
    async with running(recorder) as link:

        async def call(number: int) -> None:
            with trio.CancelScope() as scope:
                if number % 2:
                    scope.cancel()
                await link.request(REQUEST)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(call, number)
                await trio.testing.wait_all_tasks_blocked()
                assert sum(sizes(recorder)) == 100
                recorder.replies.send_nowait(b"+PONG\r\n" * 100)


async def test_what_the_system_does_not_take_of_a_batch_goes_before_all_later() -> None:
    recorder = Recorder(limit=lambda size: min(size, 11))
    expected = b"".join(REQUEST + b"%d" % number for number in range(180))
    async with running(recorder) as link:

        async def call(number: int) -> None:
            await link.request(REQUEST + b"%d" % number)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(180):
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(call, number)
                    if number == 120:
                        recorder.writable.set()
                await trio.testing.wait_all_tasks_blocked()
                assert b"".join(recorder.writes) == expected
                recorder.replies.send_nowait(b"+PONG\r\n" * 180)


async def test_a_batch_that_cannot_be_written_goes_to_the_next_connection() -> None:
    def limit(size: int) -> int:
        if size > len(REQUEST):
            raise BrokenPipeError("gone")
        return size

    async def answer(stream: trio.SocketStream) -> None:
        received = b""
        while received.count(REQUEST) < 119:
            received += await stream.receive_some()
        await stream.send_all(b"+PONG\r\n" * 119)
        await stream.receive_some()

    got: list[object] = []
    async with open_scripted(answer) as server:
        endpoint = Endpoint(host="127.0.0.1", port=server.port)
        async with running(Recorder(limit=limit), endpoint) as link:

            async def call() -> None:
                got.append(await link.request(REQUEST))

            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for _ in range(120):
                        nursery.start_soon(call)
    assert got.count(b"PONG") == 119
    assert sum(isinstance(each, Exception) for each in got) == 1  # it had been written: who knows


async def test_the_seat_of_a_caller_who_left_goes_to_nobody_while_its_reply_is_due() -> None:
    recorder = Recorder()
    async with running(recorder) as link:

        async def call(expected: int) -> None:
            assert await link.request(REQUEST) == expected

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, 1)
                nursery.start_soon(call, 1)
                await trio.testing.wait_all_tasks_blocked()
                recorder.replies.send_nowait(b":1\r\n:1\r\n")
            async with trio.open_nursery() as leaving:
                for number in range(20):  # more than the seats of those before
                    leaving.start_soon(call, number)
                await trio.testing.wait_all_tasks_blocked()
                leaving.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(call, 2)
                await trio.testing.wait_all_tasks_blocked()
                recorder.replies.send_nowait(b":0\r\n" * 20 + b":2\r\n" * 20)
    assert sum(sizes(recorder)) == 2 + 20 + 20


async def test_who_waits_on_the_server_may_leave_at_any_turn_of_the_connections_end(
    redis: Redis, server: EmbeddedServer
) -> None:
    async def take(dedicated: Dedicated) -> None:
        with suppress(LinkLostError):
            await dedicated.execute("BLPOP", "none", 0)

    endpoint = parse_url(server.url).endpoint
    for turns in [turns for turns in range(8) for _ in range(8)]:  # the order in a turn is chance
        recorder = Recorder()
        async with running(recorder, endpoint) as link:
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(take, Dedicated(link, redis))
                    await trio.testing.wait_all_tasks_blocked()
                    recorder.replies.send_nowait(b"")
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
