"""Streams under faults, whole: a soak, handlers that are slow or fail, thousands of poison."""

import logging
import random
import resource
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from terzetto.redis import connect
from terzetto.server import EmbeddedServer, open_embedded
from terzetto.streaming import OLDEST, Event, Stream
from terzetto.testing import Fault, open_proxy
from tests.faults.fleet import scaled
from tests.faults.record import Kind, say
from tests.faults.sink_program import LIMIT, key_of
from tests.faults.sinks import GRACE, Sinks, open_sinks

EVENTS = 20_000
KILLS = 30
PAUSES = 10
CUTS = 20
POISON = 10_000
GOOD = 1_000
LIVES = 500

SLOW = 20
FAILING = 20
FAST = 1_000
FAST_EVERY = 0.01  # seconds


@pytest.mark.timeout(900)
async def test_a_soak_of_kills_pauses_and_cuts_loses_nothing(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """Four instances, 20,000 events, 30 kills, 10 pauses of up to 3 periods, 20 cut connections."""
    chance = random.Random(7)  # noqa: S311 - the same faults each time
    faults = ["kill"] * scaled(KILLS) + ["pause"] * scaled(PAUSES) + ["cut"] * scaled(CUTS)
    chance.shuffle(faults)
    step = scaled(EVENTS) // len(faults)
    async with open_proxy(server.url) as proxy, open_sinks(server.url, tmp_path) as sinks:
        processes = [await sinks.start("s", concurrency=4, url=proxy.url) for _ in range(4)]
        for fault in faults:
            await sinks.add("s", ["work"] * step)
            victim = chance.choice(processes)
            if fault == "kill":
                processes.remove(victim)
                await sinks.kill(victim)
                processes.append(await sinks.start("s", concurrency=4, url=proxy.url))
            elif fault == "pause":
                sinks.pause(victim)
                await trio.sleep(chance.uniform(0.5, 3) * GRACE)
                sinks.resume(victim)
            else:
                proxy.on("XACK", Fault.DROP_REPLY, times=5)
                proxy.on("XREADGROUP", Fault.DROP_REPLY, times=2)
                await trio.sleep(0.1)
                proxy.cut()
        with trio.fail_after(400):
            await sinks.settle("s")
        took = [await sinks.leave(process) for process in processes]
        verdict = await sinks.judge("s")
    say(f"done again {verdict.again}, closed in {max(took):.2f} s at most")
    assert verdict.is_clean, verdict
    assert len(verdict.starts) == step * len(faults)
    # Done again: what handlers had in hand when they were killed, paused or cut off.
    assert verdict.again <= 4 * (KILLS + PAUSES + 4 * CUTS) + 7 * CUTS


@pytest.mark.timeout(300)
async def test_slow_blocked_and_failing_handlers_hold_up_nobody(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """Handlers of three periods, a subscriber that never comes back, and handlers that fail."""
    keepalives: dict[bytes, list[int]] = {}

    async def watch(sinks: Sinks) -> None:
        """Write down when each instance showed that it lives, by its own clock."""
        async with sinks.redis.subscribe("map:sink:k:keepalive:updates") as updates:
            async for _ in updates:
                shown = await sinks.redis.execute("HGETALL", "map:sink:k:keepalive:content")
                for consumer, value in shown.items():
                    times = keepalives.setdefault(consumer, [])
                    if not consumer.startswith(b"=") and int(value) not in times:
                        times.append(int(value))

    async with open_sinks(server.url, tmp_path) as sinks, trio.open_nursery() as nursery:
        nursery.start_soon(watch, sinks)
        blocked = await sinks.start("s", how="block")
        await sinks.add("s", ["work"] * 30)
        # One may get all the slow ones, and has handlers left.
        processes = [await sinks.start("s", concurrency=2 * SLOW) for _ in range(2)]
        with trio.fail_after(60):  # what the one that blocks had read comes to the others
            await sinks.wait_count(Kind.DONE, 30)
        slow = set(await sinks.add("s", ["slow"] * SLOW))
        failing = set(await sinks.add("s", ["fails"] * FAILING))
        fast: set[str] = set()
        with trio.fail_after(120):
            while len(fast) < scaled(FAST) or sinks.count(Kind.DONE) < 30 + SLOW:
                fast.update(await sinks.add("s", ["work"]))
                await trio.sleep(FAST_EVERY)
            await sinks.settle("s")
        took = [await sinks.leave(process) for process in (*processes, blocked)]
        verdict = await sinks.judge("s")
        letters = await sinks.stream("s").dead_letters.read(limit=1000)
        nursery.cancel_scope.cancel()
    worst = max(verdict.waits[key] for key in fast)
    gap = max(b - a for times in keepalives.values() for a, b in pairwise(times)) / 1e9
    say(f"worst wait {worst:.2f} s, keep-alive gap {gap:.2f} s, closed in {max(took):.2f} s")
    assert verdict.is_clean, verdict
    assert {verdict.starts[key] for key in slow} == {1}
    assert verdict.overlaps == ()
    assert worst <= 1
    assert gap <= GRACE
    assert {key_of("s", letter.event_id) for letter in letters} == failing
    assert {letter.deliveries for letter in letters} == {LIMIT}
    assert {verdict.starts[key] for key in failing} == {LIMIT}
    assert max(took) <= 2


@pytest.mark.timeout(300)
async def test_keys_do_not_pile_up_over_five_hundred_lives(server: EmbeddedServer) -> None:
    async with connect(server.url) as redis:

        async def live(stream: Stream) -> None:
            async with stream.open_sink("k", start=OLDEST) as sink, stream.open_reader():
                await stream.add_many([("good", b""), ("bad", b"")])
                good, bad = await anext(sink), await anext(sink)
                await sink.ack(good)
                await sink.reject(bad, "no good")
            await stream.dead_letters.discard(*await stream.dead_letters.read())
            await stream.destroy()

        for _ in range(2):
            await live(Stream("s", redis))
        before = await redis.execute("DBSIZE")
        for _ in range(LIVES):
            await live(Stream("s", redis))
        assert await redis.execute("DBSIZE") == before


async def test_the_oracle_finds_what_a_careless_instance_loses(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """A bug in a real process: it acknowledges before it has dealt with an event."""
    async with open_sinks(server.url, tmp_path) as sinks:
        careless = await sinks.start("s", how="forget")
        (held, *_) = keys = await sinks.add("s", ["slow", *["work"] * 100])
        with trio.fail_after(60):
            await sinks.wait_count(Kind.STARTED, 1)
            await sinks.kill(careless)
            await sinks.start("s")
            await sinks.settle("s")
            await sinks.wait_count(Kind.DONE, len(keys) - 1)
        assert (await sinks.judge("s")).lost == (held,)


@pytest.mark.timeout(300)
async def test_ten_thousand_pieces_of_poison_kill_no_loop_and_leave_no_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "terzetto")  # or pytest's copy of the log is what grows
    done: Counter[str] = Counter()

    async def handler(event: Event) -> None:
        if event.name == "raises":
            raise ValueError
        done[event.id] += 1

    async with open_embedded() as server, connect(server.url) as redis:
        stream = Stream("s", redis, max_len=0)
        poison = [[b"n", b"x"], [b"p", b"x" * 100], [b"\xff", b"\x00"]]
        kinds = [*poison, [b"n", b"raises", b"p", b""]]
        dead: set[str] = set()
        good: list[str] = []
        for turn in range(GOOD):
            commands: list[list[str | bytes]] = [
                ["XADD", stream.key, "*", *kinds[number % 4]] for number in range(POISON // GOOD)
            ]
            replies = await redis.execute_many(commands)
            dead.update(str(entry, "ascii") for entry in replies if isinstance(entry, bytes))
            good.append(await stream.add("good", b"%d" % turn) or "")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with (
            stream.open_sink(
                "k", start=OLDEST, ack_grace_period=1, max_deliveries=2, retry_base=0.01
            ) as sink,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(sink.handle, handler)
            with trio.fail_after(250):
                while True:
                    (group,) = (await stream.info()).groups
                    if group.pending == 0 and group.lag == 0:
                        break
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        letters = await stream.dead_letters.read(limit=2 * POISON)
    assert done == Counter(good)
    assert Counter(letter.event_id for letter in letters) == Counter(dead)
    assert grown <= 20 * 1024, f"{grown} KiB"
