"""``terzetto top``: a live view of queues, servers, pools, streams and maps, in one screen."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import trio
from cyclopts import Parameter, validators
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from terzetto.cli._keys import raw_keys, wait_key
from terzetto.cli._map import MAP_COLUMNS, count_maps
from terzetto.cli._output import Record, make_table
from terzetto.cli._pool import POOL_COLUMNS, count_pools
from terzetto.cli._queue import QUEUE_COLUMNS, count_queues
from terzetto.cli._server import SERVER_COLUMNS, list_servers
from terzetto.cli._session import Target
from terzetto.cli._stream import STREAM_COLUMNS, count_streams
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis

_HERE = Target()
_FRAME: Final = 3  # lines of a part that are not rows: title, header, blank
_HEAD: Final = 2

Seconds = Annotated[float, Parameter(validator=validators.Number(gte=0.1))]
_PARTS: Final = (
    ("Queues", QUEUE_COLUMNS, count_queues),
    ("Servers", SERVER_COLUMNS, list_servers),
    ("Pools", POOL_COLUMNS, count_pools),
    ("Streams", STREAM_COLUMNS, count_streams),
    ("Maps", MAP_COLUMNS, count_maps),
)


async def top(*, every: Seconds = 1.0, target: Target = _HERE) -> None:
    """Watch queues, servers, pools, streams and maps until q is pressed.

    Where the terminal has too few lines, the rows that are left out are counted.

    Args:
        every: Seconds between two looks.
    """
    if target.json or not sys.stdout.isatty():
        raise InvalidOptionError(
            "top needs a terminal; programs ask queue ls, pool ls and so on for --json"
        )
    console = Console(highlight=False)
    async with target.connect() as redis:
        with raw_keys(), Live(console=console, screen=True, auto_refresh=False) as live:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_refresh, redis, console, live, every)
                await wait_key("q", "Q")
                nursery.cancel_scope.cancel()


async def _refresh(redis: Redis, console: Console, live: Live, every: float) -> None:
    while True:
        parts = [(title, columns, await count(redis)) for title, columns, count in _PARTS]
        live.update(draw(parts, redis.url, console.height), refresh=True)
        await trio.sleep(every)


def draw(
    parts: Sequence[tuple[str, dict[str, str], Sequence[Record]]], url: str, height: int
) -> RenderableType:
    """Return the picture of all parts, in `height` lines."""
    room = fit([len(rows) for _, _, rows in parts], height - _HEAD - _FRAME * len(parts))
    head = Text.assemble(
        ("terzetto top", "bold"), f"  {datetime.now(UTC):%H:%M:%S} UTC  {url}  q leaves"
    )
    drawn: list[RenderableType] = [head]
    for (title, columns, rows), count in zip(parts, room, strict=True):
        hidden = len(rows) - count
        more = f" ({count} of {len(rows)})" if hidden else ""
        drawn += [Text(f"\n{title}{more}", style="bold cyan"), _table(columns, rows[:count])]
    return Group(*drawn)


def _table(columns: dict[str, str], rows: Sequence[Record]) -> RenderableType:
    if not rows:
        return Text("none", style="dim")
    table: Table = make_table(columns, rows)
    for column in table.columns:
        column.overflow, column.no_wrap = "ellipsis", True
    return table


def fit(wanted: Sequence[int], room: int) -> list[int]:
    """Share `room` lines among parts that want so many each, evenly, none left unused."""
    given = [0] * len(wanted)
    left = max(room, 0)
    while left and (short := [i for i, want in enumerate(wanted) if given[i] < want]):
        for part in short[:left]:
            given[part] += 1
        left = max(room, 0) - sum(given)
    return given
