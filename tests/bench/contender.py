"""A contender's process: sets itself up, then takes a turn for every line it reads.

Started by `runner.py` with its order as JSON in the one argument. It answers in
lines of JSON on its standard output, which nothing else writes to: what a
contender prints goes to standard error. It ends with its standard input, so it
never outlives the bench.
"""

import asyncio
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from typing import IO, Any

import trio

from tests.bench.harness import AsyncMeasure, Figures, Measure, MissingPeerError, Setting


class Channel:
    """The way back to the runner; takes standard output for itself."""

    def __init__(self) -> None:
        self._pipe: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, **message: object) -> None:
        """Send one message."""
        self._pipe.write(json.dumps(message) + "\n")
        self._pipe.flush()


def is_told_to_go_on() -> bool:
    """Wait for the next turn; return whether there is one."""
    return bool(sys.stdin.readline())


def find_versions(packages: list[str]) -> dict[str, str]:
    """Return the versions of those of the distributions `packages` that are installed."""
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError as error:
            raise MissingPeerError(f"{name} is not installed") from error
    return found


def report(channel: Channel, figures: Figures) -> None:
    """Send the figures of a turn."""
    channel.say(figures=dict(figures))


def run_plain(
    channel: Channel, opening: AbstractContextManager[Measure], ready: Callable[[], None]
) -> None:
    """Take turns with a plain contender."""
    with opening as measure:
        ready()
        while is_told_to_go_on():
            report(channel, measure())


async def run_on_trio(
    channel: Channel, opening: AbstractAsyncContextManager[AsyncMeasure], ready: Callable[[], None]
) -> None:
    """Take turns with a contender on trio; between turns its loop goes on."""
    async with opening as measure:
        ready()
        while await trio.to_thread.run_sync(is_told_to_go_on):
            report(channel, await measure())


async def run_on_asyncio(
    channel: Channel, opening: AbstractAsyncContextManager[AsyncMeasure], ready: Callable[[], None]
) -> None:
    """Take turns with a contender on asyncio; between turns its loop goes on."""
    async with opening as measure:
        ready()
        while await asyncio.to_thread(is_told_to_go_on):
            report(channel, await measure())


def run(channel: Channel, order: dict[str, Any]) -> None:
    """Set the contender up and take its turns until the input ends."""
    versions = find_versions(order["packages"])
    module, _, function = order["target"].partition(":")
    opening = attrgetter(function)(importlib.import_module(module))(Setting(**order["setting"]))
    ready = partial(channel.say, versions=versions)
    if order["loop"] == "trio":
        trio.run(run_on_trio, channel, opening, ready)
    elif order["loop"] == "asyncio":
        asyncio.run(run_on_asyncio(channel, opening, ready))
    elif order["loop"] == "uvloop":
        new_loop = importlib.import_module("uvloop").new_event_loop
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(run_on_asyncio(channel, opening, ready))
    else:
        run_plain(channel, opening, ready)


def main() -> int:
    """Run the contender that the argument describes; return 1 if it could not go on."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    if order["cores"]:
        os.sched_setaffinity(0, order["cores"])
    channel = Channel()
    try:
        run(channel, order)
    except (MissingPeerError, ModuleNotFoundError) as error:
        channel.say(missing=str(error))
    except BaseException:  # noqa: BLE001 - whatever a peer raises is told to the bench, not lost
        channel.say(error=traceback.format_exc())
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
