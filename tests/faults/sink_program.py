"""A process of a scenario of sinks: one instance, whose handlers write down what they do.

Arguments: URL, stream, sink, name, file of events, grace in seconds, how many handlers
run at a time, and how it takes: "handle" (the handler loop), "hoard" (likewise, and
no handler ends), "block" (it takes one event and never comes back) or "forget" (a
planted bug: it acknowledges before it has dealt with the event). What a handler does
is in the event's name: "work" is soon done, "slow" takes three grace periods, "fails"
raises. It says "ready" when it has joined, and leaves when its standard input ends.
"""

import sys
from functools import partial
from pathlib import Path

import trio

import terzetto
from terzetto.streaming import OLDEST, Event, Sink, Stream
from tests.faults.record import Kind, Recorder, keep_time, say

WORK = 0.005  # seconds
LIMIT = 3  # deliveries


def key_of(stream: str, event_id: str) -> str:
    """Return the key of an event in what is written down."""
    return f"{stream}/{event_id}"


class FailedError(Exception):
    """What an event named "fails" does."""


async def deal_with(
    event: Event, *, recorder: Recorder, name: str, grace: float, hoards: bool
) -> None:
    """Do what the event's name says."""
    write = partial(recorder.write, name, key_of(event.stream, event.id))
    write(Kind.STARTED)
    try:
        if hoards:
            await trio.sleep_forever()
        await trio.sleep(3 * grace if event.name == "slow" else WORK)
        if event.name == "fails":
            raise FailedError
        write(Kind.DONE)
    finally:
        write(Kind.ENDED)


async def take(sink: Sink, how: str, concurrency: int, recorder: Recorder, name: str) -> None:
    """Take events in one of the ways."""
    handler = partial(
        deal_with,
        recorder=recorder,
        name=name,
        grace=float(sys.argv[6]),
        hoards=how == "hoard",
    )
    if how == "block":
        await anext(sink)
        await trio.sleep_forever()
    elif how == "forget":
        async for event in sink:
            await sink.ack(event)
            await handler(event)
    else:
        await sink.handle(handler, concurrency=concurrency)


async def keep_time_within(scope: trio.CancelScope, recorder: Recorder, name: str) -> None:
    """Write down the stalls of this process until the scope is cancelled."""
    with scope:
        await keep_time(recorder, name)


async def main(*arguments: str) -> None:
    """Take part until standard input ends."""
    url, stream, sink_name, name, events, grace, concurrency, how = arguments
    recorder = Recorder(Path(events))
    async with (
        terzetto.connect(url) as redis,
        trio.open_nursery() as nursery,
        Stream(stream, redis, max_len=0).open_sink(
            sink_name,
            start=OLDEST,
            ack_grace_period=float(grace),
            max_deliveries=LIMIT if how == "handle" else None,
            retry_base=0.01,
            close_grace=1,
            buffer_size=max(50, int(concurrency)),
        ) as sink,
    ):
        nursery.start_soon(take, sink, how, int(concurrency), recorder, name)
        time_keeping = trio.CancelScope()
        nursery.start_soon(keep_time_within, time_keeping, recorder, name)
        say("ready")
        stdin = trio.lowlevel.FdStream(sys.stdin.fileno())
        while await stdin.receive_some():
            pass
        time_keeping.cancel()
        if how != "handle":
            nursery.cancel_scope.cancel()
    recorder.close()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
