"""Sinks in processes of their own that are killed and paused, and the scenarios in small."""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import trio

from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.streaming import OLDEST, Event, Sink, Stream
from terzetto.testing import Program, ProgramEndedError, open_program
from tests.faults.record import measure_stalls

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]
GRACE = 1.0

INSTANCE = """
import sys
import trio
import terzetto
from terzetto.streaming import OLDEST, Stream

async def main():
    async with terzetto.connect(sys.argv[1]) as redis:
        stream = Stream("s", redis)
        async with stream.open_sink("k", start=OLDEST, ack_grace_period=1, buffer_size=20) as sink:
            print("ready", flush=True)
            async for event in sink:
                print("got", event.id, flush=True)
                await trio.sleep(0.002)
                print("done" if await sink.ack(event) else "gone", event.id, flush=True)

trio.run(main)
"""


async def take(sink: Sink, count: int) -> list[Event]:
    taken: list[Event] = []
    with trio.fail_after(40):
        while len(taken) < count:
            taken.append(await anext(sink))
    return taken


class Told:
    """What instances have said of events: that they got one, and what its `ack` returned."""

    def __init__(self, programs: list[Program]) -> None:
        self.done: Counter[str] = Counter()
        self.got: set[str] = set()
        self.gone: set[str] = set()  # not pending any more when they acknowledged it
        self.last_got = dict.fromkeys(programs, "")
        self.ended: set[Program] = set()

    async def follow(self, program: Program) -> None:
        """Write down what an instance says until it is gone."""
        while True:
            try:
                word, _, event_id = (await program.read_line()).partition(" ")
            except ProgramEndedError:
                self.ended.add(program)
                return
            if word == "done":
                self.done[event_id] += 1
            elif word == "gone":
                self.gone.add(event_id)
            else:
                self.got.add(event_id)
                self.last_got[program] = event_id


async def test_killed_and_paused_instances_lose_nothing(
    server: EmbeddedServer, stream: Stream, eventually: Eventually
) -> None:
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        programs = [
            await stack.enter_async_context(open_program(INSTANCE, server.url)) for _ in range(3)
        ]
        told = Told(programs)
        for program in programs:
            assert await program.read_line() == "ready"
            nursery.start_soon(told.follow, program)
        killed, paused, _ = programs
        ids = {event_id for event_id in await stream.add_many([("n", b"")] * 600) if event_id}
        await eventually(lambda: len(told.done) > 30)
        await killed.kill()
        paused.pause()
        await eventually(lambda: len(told.done) > 300)
        await trio.sleep(2.5 * GRACE)  # for so long that its peers take it for dead
        paused.resume()

        async def settled() -> bool:
            (group,) = (await stream.info()).groups
            return group.pending == 0 and group.lag == 0

        await eventually(settled)
        await eventually(lambda: killed in told.ended)

        def unsaid() -> set[str]:
            """Return the events of which no instance said, or could not say, that they are done.

            The one that was killed may have had no time to, and who asked again
            after a lost reply heard that it was no longer pending.
            """
            return ids - set(told.done) - {told.last_got[killed]} - told.gone

        # The server has heard of all by now; the pipes may still hold what was said of it.
        await eventually(lambda: not unsaid())
        nursery.cancel_scope.cancel()
    assert told.got == ids
    assert max(told.done.values()) == 1, "only one instance acknowledges an event"
    assert len(told.done) >= len(ids) - 2, "one of the killed, one with a lost reply"


async def test_all_that_dead_instances_had_comes_back_to_two_pools_of_one_name(
    redis: Redis, tmp_path: Path
) -> None:
    grace = 2.0
    streams = [Stream("one:pool", redis), Stream("other:pool", redis)]
    for stream in streams:
        async with stream.open_sink("events", start=OLDEST):
            pass
        await stream.add_many([(f"{n}", b"") for n in range(250)])
        await redis.execute(
            "XREADGROUP", "GROUP", "events", "dead", "COUNT", 250, "STREAMS", stream.key, ">"
        )
    # One pool's instance holds the lease that Go peers share under this name.
    await redis.execute("SET", "sink:events:stalelease", "99999999999999", "PX", 60_000)
    start = trio.current_time()
    async with (
        measure_stalls(tmp_path) as stalled,
        streams[0].open_sink("events", ack_grace_period=grace) as one,
        streams[1].open_sink("events", ack_grace_period=grace) as other,
    ):
        for sink in (one, other):
            assert len({event.id for event in await take(sink, 250)}) == 250
        seconds = trio.current_time() - start
    assert seconds - stalled() < 2 * grace


async def test_poison_among_good_events_kills_no_loop(
    redis: Redis, stream: Stream, eventually: Eventually
) -> None:
    done: Counter[str] = Counter()

    async def handler(event: Event) -> None:
        if event.name == "raises":
            raise ValueError
        done[event.id] += 1

    good: list[str] = []
    dead: set[str] = set()
    poison: list[list[bytes]] = [[b"n", b"x"], [b"p", b"x"], [b"", b""], [b"\xff", b"\x00"]]
    kinds = [*poison, [b"n", b"raises", b"p", b""]]
    for number in range(200):
        fields = kinds[number % 5]
        dead.add(str(await redis.execute("XADD", stream.key, "*", *fields), "ascii"))
        if number % 10 == 0:
            event_id = await stream.add("good", b"")
            assert event_id is not None
            good.append(event_id)
    async with (
        stream.open_sink(
            "k", start=OLDEST, ack_grace_period=GRACE, max_deliveries=2, retry_base=0.01
        ) as sink,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(sink.handle, handler)

        async def settled() -> bool:
            (group,) = (await stream.info()).groups
            return group.pending == 0 and group.lag == 0

        await eventually(settled)
        nursery.cancel_scope.cancel()
    assert done == Counter(good)
    letters = await stream.dead_letters.read(limit=1000)
    assert Counter(letter.event_id for letter in letters) == Counter(dead)


async def test_a_slow_handler_gets_its_event_once_and_holds_up_nobody(
    redis: Redis, stream: Stream
) -> None:
    started: list[str] = []
    finished = trio.Event()
    keepalives: list[bytes] = []

    async def handler(event: Event) -> None:
        started.append(event.name)
        if event.name == "slow":
            await trio.sleep(3 * GRACE)
            finished.set()

    async with (
        stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as sink,
        stream.open_sink("k", start=OLDEST, ack_grace_period=GRACE) as other,
        trio.open_nursery() as nursery,
    ):
        await stream.add("slow", b"")
        nursery.start_soon(sink.handle, handler)
        nursery.start_soon(other.handle, handler)
        with trio.fail_after(30):
            while not finished.is_set():
                start, count = trio.current_time(), len(started)
                await stream.add("fast", b"")
                while len(started) == count:  # noqa: ASYNC110 - handlers of both say it
                    await trio.sleep(0.01)
                assert trio.current_time() - start < 2 * GRACE  # the slow one takes three
                value = await redis.execute("HGET", "map:sink:k:keepalive:content", sink.consumer)
                if value not in keepalives:
                    keepalives.append(value)
                await trio.sleep(GRACE / 5)
        nursery.cancel_scope.cancel()
    assert started.count("slow") == 1
    gaps = [int(b) - int(a) for a, b in pairwise(keepalives)]
    assert max(gaps) < 2 * GRACE * 1e9  # then peers would take it for dead
