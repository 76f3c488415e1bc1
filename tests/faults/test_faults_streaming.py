"""Streams under faults, whole: a soak of killed and paused instances, and thousands of poison."""

import logging
import random
import resource
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import trio

from terzetto.redis import connect
from terzetto.server import open_embedded
from terzetto.streaming import OLDEST, Event, Stream
from terzetto.testing import Program, ProgramEndedError, open_program

EVENTS = 20_000
KILLS = 30
PAUSES = 10
POISON = 10_000
GOOD = 1_000

INSTANCE = """
import sys
import trio
import terzetto
from terzetto.streaming import OLDEST, Stream

async def main():
    async with terzetto.connect(sys.argv[1]) as redis:
        stream = Stream("s", redis)
        async with stream.open_sink("k", start=OLDEST, ack_grace_period=1, buffer_size=50) as sink:
            print("ready", flush=True)
            async for event in sink:
                print("got", event.payload.decode(), flush=True)
                await trio.sleep(0.002)
                await sink.ack(event)

trio.run(main)
"""


async def follow(program: Program, got: Counter[int]) -> None:
    """Write down which events an instance got, until it is gone."""
    while True:
        try:
            word, _, number = (await program.read_line()).partition(" ")
        except ProgramEndedError:
            return
        if word == "got":
            got[int(number)] += 1


@pytest.mark.timeout(600)
async def test_a_soak_of_kills_and_pauses_loses_nothing() -> None:
    chance = random.Random(7)  # noqa: S311 - the same faults each time
    got: Counter[int] = Counter()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(open_embedded())
        redis = await stack.enter_async_context(connect(server.url))
        nursery = await stack.enter_async_context(trio.open_nursery())
        stream = Stream("s", redis, max_len=0)

        async def start() -> Program:
            program = await stack.enter_async_context(open_program(INSTANCE, server.url))
            assert await program.read_line() == "ready"
            nursery.start_soon(follow, program, got)
            return program

        programs = [await start() for _ in range(4)]
        faults = ["kill"] * KILLS + ["pause"] * PAUSES
        chance.shuffle(faults)
        step = EVENTS // len(faults)
        for turn, fault in enumerate(faults):
            await stream.add_many(
                ("n", b"%d" % number) for number in range(turn * step, (turn + 1) * step)
            )
            victim = programs.pop(chance.randrange(len(programs)))
            if fault == "kill":
                await victim.kill()
                programs.append(await start())
            else:
                victim.pause()
                await trio.sleep(chance.uniform(0.5, 3))
                victim.resume()
                programs.append(victim)
        with trio.fail_after(400):
            while True:
                (group,) = (await stream.info()).groups
                if group.pending == 0 and group.lag == 0:
                    break
                await trio.sleep(0.1)
        await trio.sleep(1)  # for the last lines to be read
        nursery.cancel_scope.cancel()
    assert set(got) == set(range(step * len(faults)))
    # An instance that dies has at most its buffer and one event in hand.
    assert sum(got.values()) - len(got) <= (KILLS + PAUSES) * 51


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
