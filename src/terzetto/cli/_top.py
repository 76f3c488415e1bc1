"""``terzetto top``: a live view of queues, servers, pools, streams and maps, in one screen."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias

import attrs
import trio
from cyclopts import Parameter, validators
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from terzetto.cli._keys import raw_keys, wait_key
from terzetto.cli._map import MAP_COLUMNS, count_maps
from terzetto.cli._output import Record, Seen, Terminal, duration, make_table
from terzetto.cli._pool import POOL_COLUMNS, count_pools
from terzetto.cli._queue import QUEUE_COLUMNS, count_queues
from terzetto.cli._server import SERVER_COLUMNS, list_servers
from terzetto.cli._session import Target
from terzetto.cli._stream import STREAM_COLUMNS, count_streams
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis

_HERE = Target()
_PATIENCE: Final = 1.0  # seconds for a look, after which what is shown counts as old
_HEAD: Final = 1  # lines above the parts

Part: TypeAlias = tuple[str, dict[str, str], Sequence[Record]]
"""What is shown of a room: its title, its columns' titles by field, and its rows."""

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

    Where the terminal has too few lines, what is left out is counted.

    Args:
        every: Seconds between two looks.
    """
    if target.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidOptionError(
            "top needs a terminal; programs ask queue ls, pool ls and so on for --json"
        )
    console = Terminal(highlight=False)
    async with target.connect() as redis:
        with raw_keys(), Live(console=console, screen=True, auto_refresh=False) as live:
            view = _View(redis, console, live)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(view.look_on, every)
                nursery.start_soon(view.complain_on)
                await wait_key("q", "Q")
                nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class _View:
    """What was seen last, on the screen."""

    redis: Redis
    console: Console
    live: Live
    _parts: Sequence[Part] = ()
    _asked_at: float | None = None
    """When the look began that goes on, on trio's clock; None between two looks."""

    async def look_on(self, every: float) -> None:
        """Look again and again."""
        while True:
            self._asked_at = trio.current_time()
            self._parts = [
                _part(title, columns, await count(self.redis)) for title, columns, count in _PARTS
            ]
            self._asked_at = None
            self._show(0.0)
            await trio.sleep(every)

    async def complain_on(self) -> None:
        """Say so while Redis does not answer: what is shown is old by then."""
        while True:
            await trio.sleep(_PATIENCE)
            asked_at = self._asked_at
            if asked_at is not None and (silent := trio.current_time() - asked_at) >= _PATIENCE:
                self._show(silent)

    def _show(self, silent: float) -> None:
        picture = draw(self._parts, self.redis.url, self.console.height, silent=silent)
        self.live.update(picture, refresh=True)


def _part(title: str, columns: dict[str, str], seen: Seen) -> Part:
    lacking = f" ({len(seen.broken)} cannot be read)" if seen.broken else ""
    return title + lacking, columns, seen.records


def draw(parts: Sequence[Part], url: str, height: int, *, silent: float = 0.0) -> RenderableType:
    """Return the picture of all parts, in `height` lines; what has no place there is counted.

    `silent`: for how many seconds Redis has not answered; 0.0 if it has.
    """
    shown, hidden = choose(parts, height - _HEAD)
    left = height - _HEAD - sum(_frame(part) for part in shown) - bool(hidden)
    room = fit([len(rows) for _, _, rows in shown], left)
    head = Text.assemble(("terzetto top", "bold"), f"  {datetime.now(UTC):%H:%M:%S} UTC")
    if silent:
        head.append(f"  no answer for {duration(silent)}: what is shown is old", "bold red")
    head.append(f"  q leaves  {url}")
    drawn: list[RenderableType] = [_line(head)]
    for (title, columns, rows), count in zip(shown, room, strict=True):
        if not rows:
            drawn += [Text(), _line(Text.assemble((title, "bold cyan"), ("  none", "dim")))]
            continue
        more = f" ({count} of {len(rows)})" if count < len(rows) else ""
        drawn += [Text(), _line(Text(f"{title}{more}", style="bold cyan"))]
        drawn.append(_table(columns, rows[:count]))
    if hidden:
        counts = ", ".join(f"{len(rows)} {title.lower()}" for title, _, rows in hidden)
        drawn.append(_line(Text(f"not shown: {counts}", style="dim")))
    return Group(*drawn)


def choose(parts: Sequence[Part], height: int) -> tuple[list[Part], list[Part]]:
    """Return the first parts, as many as have a row each in `height` lines, and the others."""
    shown = list(parts)
    while shown:
        last = len(shown) < len(parts)  # a line that counts the others
        if sum(_frame(part) + bool(part[2]) for part in shown) + last <= height:
            break
        shown.pop()
    return shown, list(parts[len(shown) :])


def _frame(part: Part) -> int:
    """Return how many lines of a part are not rows: a blank one, its title, its header."""
    return 3 if part[2] else 2


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _table(columns: dict[str, str], rows: Sequence[Record]) -> Table:
    table = make_table(columns, rows)
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
