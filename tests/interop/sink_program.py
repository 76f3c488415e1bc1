"""A process with one instance of a sink that takes events and acknowledges none: to be killed.

Arguments: URL, stream, sink, grace period in seconds. It says "ready", then the
id of each event that it has taken.
"""

import sys

import trio

from terzetto import connect
from terzetto.streaming import OLDEST, Stream


async def main(*arguments: str) -> None:
    """Take events for ever."""
    url, stream, name, grace = arguments
    async with (
        connect(url) as redis,
        Stream(stream, redis).open_sink(
            name, start=OLDEST, ack_grace_period=float(grace), block=0.2
        ) as sink,
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        async for event in sink:
            sys.stdout.write(f"{event.id}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
