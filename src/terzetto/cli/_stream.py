"""``terzetto stream``: event streams, their sinks and their dead letters."""

from collections.abc import Collection
from functools import partial
from typing import Annotated, Any, Final

import attrs
from cyclopts import App

from terzetto.cli._audience import while_read
from terzetto.cli._output import Seen, cell, complain
from terzetto.cli._session import (
    ALL,
    Flag,
    Payload,
    Target,
    check_chosen,
    look_at_each,
    read_payload,
)
from terzetto.errors import TerzettoError
from terzetto.redis import Redis
from terzetto.streaming import (
    NEWEST,
    OLDEST,
    DeadLetter,
    DeadLetters,
    Event,
    Stream,
    find_streams,
)

app = App(name="stream", help="Event streams: their events, sinks and dead letters.")
dead = App(name="dead", help="Events that sinks gave up.")
app.command(dead)

_HERE = Target()
_PAGE: Final = 1000  # letters that one command to Redis brings
STREAM_COLUMNS = {
    "name": "Stream",
    "length": "Length",
    "added": "Added",
    "sinks": "Sinks",
    "pending": "Pending",
    "lag": "Lag",
    "last_id": "Last ID",
}


async def count_streams(redis: Redis) -> Seen:
    """Return the counts of all streams."""
    return await look_at_each(await find_streams(redis), partial(_counts, redis))


async def _counts(redis: Redis, name: str) -> dict[str, object]:
    info = await Stream(name, redis).info()
    lags = [group.lag for group in info.groups]
    return {
        "name": name,
        "length": info.length,
        "added": info.added,
        "sinks": len(info.groups),
        "pending": sum(group.pending for group in info.groups),
        "lag": None if None in lags else sum(lag or 0 for lag in lags),
        "last_id": info.last_id,
    }


@app.command(alias="list")
async def ls(*, target: Target = _HERE) -> int:
    """List the streams there are."""
    async with target.connect() as redis:
        return target.output.show_seen(STREAM_COLUMNS, await count_streams(redis), "No streams")


@app.command
async def info(name: str, /, *, target: Target = _HERE) -> None:
    """Show what a stream holds, and its sinks.

    Args:
        name: The stream.
    """
    async with target.connect() as redis:
        found = await Stream(name, redis).info()
        if not found.added and not found.groups:
            raise TerzettoError(f"there is no stream {name!r}: its first event makes it")
    record: dict[str, Any] = {"name": name, **attrs.asdict(found)}
    if target.json:
        target.output.say("", record)
        return
    target.output.show_record(
        {
            "name": "Stream",
            "length": "Length",
            "added": "Added",
            "first_id": "First ID",
            "last_id": "Last ID",
        },
        record,
    )
    print()
    target.output.show_table(
        {
            "name": "Sink",
            "consumers": "Instances",
            "pending": "Pending",
            "lag": "Lag",
            "last_delivered_id": "Last Delivered",
        },
        record["groups"],
        "No sinks",
    )


@app.command
async def tail(
    name: str,
    /,
    *,
    start: str = "",
    topic: str | None = None,
    count: int | None = None,
    oldest: Flag = False,
    target: Target = _HERE,
) -> None:
    """Show a stream's events as they come, until Ctrl-C.

    Args:
        name: The stream.
        start: Begin after the event of this id.
        topic: Only events of this topic.
        count: End after so many events.
        oldest: Begin with the oldest event that is there.
    """
    position = start or (OLDEST if oldest else NEWEST)
    async with (
        while_read(),
        target.connect() as redis,
        Stream(name, redis).open_reader(start=position, topic=topic) as reader,
    ):
        left = count
        while left is None or left > 0:
            event = await anext(aiter(reader))
            target.output.tell(_line(event), _event_record(event))
            left = None if left is None else left - 1


@app.command
async def add(
    name: str,
    event: str,
    payload: Payload = "",
    /,
    *,
    topic: str | None = None,
    target: Target = _HERE,
) -> None:
    """Add an event to a stream that is there; show its id.

    Args:
        name: The stream.
        event: What happened.
        payload: What goes with it; - reads standard input.
        topic: What readers may filter by.
    """
    data = await read_payload(payload)
    async with target.connect() as redis:
        # A stream that has no end is not for a command to cut, and it sets no expiry.
        event_id = await Stream(name, redis, max_len=0).add(
            event, data, topic=topic, only_if_exists=True
        )
    if event_id is None:
        raise TerzettoError(
            f"there is no stream {name!r}: a program that knows its length makes it"
        )
    target.output.say(event_id, {"stream": name, "id": event_id})


@dead.command(name="ls", alias="list")
async def ls_dead(name: str, /, *, count: int = 100, target: Target = _HERE) -> None:
    """List the events of a stream that sinks gave up, the oldest first.

    Args:
        name: The stream.
        count: How many at most.
    """
    async with target.connect() as redis:
        letters = await Stream(name, redis).dead_letters.read(limit=count)
    target.output.show_table(
        {
            "id": "Letter",
            "event_id": "Event",
            "sink": "Sink",
            "why": "Why",
            "deliveries": "Deliveries",
            "name": "Name",
            "payload": "Payload",
        },
        [attrs.asdict(letter) for letter in letters],
        f'No dead letters of stream "{name}"',
    )


@dead.command
async def replay(
    name: str, /, *letters: str, all_: Annotated[bool, ALL] = False, target: Target = _HERE
) -> int:
    """Add events again that sinks gave up.

    Args:
        name: The stream.
        letters: Their letters' ids.
        all_: All that there are.
    """
    check_chosen(letters, everything=all_)
    async with target.connect() as redis:
        dead_letters = Stream(name, redis, max_len=0).dead_letters
        chosen = await _choose(dead_letters, letters, everything=all_)
        for letter in chosen:
            for event_id in await dead_letters.replay(letter):
                target.output.tell(
                    f"{letter.id} is event {event_id}",
                    {"stream": name, "letter": letter.id, "id": event_id},
                )
    return _code(letters, chosen)


@dead.command
async def discard(
    name: str, /, *letters: str, all_: Annotated[bool, ALL] = False, target: Target = _HERE
) -> int:
    """Forget events that sinks gave up.

    Args:
        name: The stream.
        letters: Their letters' ids.
        all_: All that there are.
    """
    check_chosen(letters, everything=all_)
    async with target.connect() as redis:
        dead_letters = Stream(name, redis).dead_letters
        chosen = await _choose(dead_letters, letters, everything=all_)
        gone = await dead_letters.discard(*chosen)
    target.output.say(f"{gone} forgotten", {"stream": name, "discarded": gone})
    return _code(letters, chosen)


async def _choose(
    dead_letters: DeadLetters, ids: Collection[str], *, everything: bool
) -> list[DeadLetter]:
    """Return the letters of these ids, or all, page by page."""
    chosen: list[DeadLetter] = []
    page = await dead_letters.read(limit=_PAGE)
    while page:
        chosen += [letter for letter in page if everything or letter.id in ids]
        page = await dead_letters.read(after=page[-1].id, limit=_PAGE)
    return chosen


def _code(ids: Collection[str], chosen: Collection[DeadLetter]) -> int:
    """Complain of letters that are not there; return the exit code."""
    missing = sorted(set(ids) - {letter.id for letter in chosen})
    for letter_id in missing:
        complain(f"there is no letter {letter_id}")
    return 1 if missing else 0


def _event_record(event: Event) -> dict[str, object]:
    return {
        "id": event.id,
        "created_at": event.created_at,
        "name": event.name,
        "topic": event.topic,
        "payload": event.payload,
    }


def _line(event: Event) -> str:
    topic = f" [{event.topic}]" if event.topic else ""
    return f"{event.id} {event.name}{topic} {cell(event.payload)}"
