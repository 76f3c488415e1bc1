"""How the command shows things: tables and lines for people, JSON for programs.

Colours and bold type only reach a terminal. Names and payloads come from Redis, from
anybody, so characters that steer a terminal are shown as escapes.
"""

import base64
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import singledispatch
from time import time
from typing import Any, Final

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE: Final = 100_000  # columns where there is no terminal: nothing is cut
_UNITS: Final = ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))


class Bytes(int):
    """How much memory something takes."""


class Past(datetime):
    """When something was; people are shown how long ago, as asynq does, and programs the date."""


class Due(datetime):
    """When something is to be; people are shown in what time, as asynq does."""


Record = Mapping[str, Any]
"""A thing that is shown: its fields by name, in order."""


@attrs.frozen
class Seen:
    """Things of one kind that were looked at one by one.

    Attributes:
        records: those that could be read.
        broken: of the others, the names and what Redis says to them.
    """

    records: Sequence[Record]
    broken: Mapping[str, str] = attrs.field(factory=dict[str, str])


@attrs.frozen
class Output:
    """Where a command shows what it found.

    Attributes:
        as_json: show JSON instead of text: one document, or for what goes on and on one a line.
    """

    as_json: bool

    def show_table(self, columns: Mapping[str, str], records: Sequence[Record], empty: str) -> None:
        """Show things as a table, with the titles of `columns` by field, or say `empty`."""
        if self.as_json:
            _print_json(records)
        elif not records:
            print(empty)
        else:
            console = _console()
            with console.capture() as drawn:
                console.print(make_table(columns, records))
            print("\n".join(line.rstrip() for line in drawn.get().splitlines()))

    def show_seen(self, columns: Mapping[str, str], seen: Seen, empty: str) -> int:
        """Show things as `show_table` does, complain of the others; return the exit code."""
        self.show_table(columns, seen.records, empty)
        for name, why in seen.broken.items():
            complain(f"{name!r} cannot be read: {why}")
        return 1 if seen.broken else 0

    def show_title(self, text: str) -> None:
        """Show what comes next, to people."""
        _console().print(Text(text, style="bold"))

    def show_record(self, titles: Mapping[str, str], record: Record) -> None:
        """Show one thing: a line for each field that `titles` names."""
        if self.as_json:
            _print_json(record)
            return
        width = max(map(len, titles.values())) + 1
        for field, title in titles.items():
            text = Text(f"{title}:".ljust(width + 1), style="bold")
            _console().print(text.append(cell(record[field]), style="not bold"), soft_wrap=True)

    def say(self, text: str, record: Record) -> None:
        """Say what was done."""
        if self.as_json:
            _print_json(record)
        else:
            print(printable(text))

    def tell(self, text: str, record: Record) -> None:
        """Show one of many things that come as they happen, at once."""
        line = json.dumps(plain(record), ensure_ascii=False) if self.as_json else printable(text)
        print(line, flush=True)


def make_table(columns: Mapping[str, str], records: Iterable[Record]) -> Table:
    """Return a table of `records` with the titles of `columns`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in columns.values():
        table.add_column(title, overflow="fold")
    for record in records:
        table.add_row(*(Text(cell(record[field])) for field in columns))
    return table


@singledispatch
def cell(value: object) -> str:
    """Return how a value is shown to people."""
    return "-" if value is None else printable(str(value))


@cell.register
def _(value: bool) -> str:  # noqa: FBT001 - it is the value that is shown
    return "yes" if value else "no"


@cell.register
def _(value: Bytes) -> str:
    return size_text(value)


@cell.register
def _(value: float) -> str:
    return duration(value)


@cell.register
def _(value: timedelta) -> str:
    return duration(value.total_seconds())


@cell.register
def _(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@cell.register
def _(value: Past) -> str:
    return f"{duration(max(0.0, time() - value.timestamp()))} ago"


@cell.register
def _(value: Due) -> str:
    left = value.timestamp() - time()
    return f"In {duration(left)}" if left > 0 else "Now"


@cell.register
def _(value: bytes) -> str:
    return payload_text(value)


@cell.register(list)
@cell.register(tuple)
def _(value: Sequence[object]) -> str:
    return " ".join(map(cell, value)) or "-"


def duration(seconds: float) -> str:
    """Return a span of time in what matters of it: ``1h5m``, ``2m10s``, ``3.2s``, ``15ms``."""
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:  # noqa: PLR2004 - one decimal while it says something
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for size, unit, part, part_unit in _UNITS:
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part}{part_unit}"
    return f"{whole}s"


def size_text(count: int) -> str:
    """Return a number of bytes as people read it: ``812 B``, ``3.4 kB``, ``27 MB``."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:  # noqa: PLR2004 - would be shown as 1000
            break
        size, unit = size / 1000, larger
    shown = f"{size:.1f}" if unit != "B" and size < 9.95 else f"{size:.0f}"  # noqa: PLR2004 - two digits at least
    return f"{shown} {unit}"


def payload_text(data: bytes) -> str:
    """Return a payload as text, or how long it is if it is none."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"({len(data)} bytes)"
    return text if text.isprintable() else f"({len(data)} bytes)"


def printable(text: str) -> str:
    """Return `text` with what is not printable as escapes; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(
        char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in text
    )


@singledispatch
def plain(value: object) -> object:
    """Return a value as JSON can hold it: bytes as text, or ``{"base64": …}`` if they are none."""
    return value


@plain.register(Mapping)
def _(value: Mapping[object, object]) -> object:
    return {str(key): plain(item) for key, item in value.items()}


@plain.register(list)
@plain.register(tuple)
def _(value: Sequence[object]) -> object:
    return [plain(item) for item in value]


@plain.register
def _(value: datetime) -> object:
    return value.isoformat()


@plain.register
def _(value: timedelta) -> object:
    return value.total_seconds()


@plain.register
def _(value: bytes) -> object:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


@plain.register
def _(value: str) -> object:
    return value.encode("utf-8", "backslashreplace").decode()


def _print_json(value: object) -> None:
    print(json.dumps(plain(value), ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


class Terminal(Console):
    """A console that says when nobody reads, instead of ending the program on its own."""

    def on_broken_pipe(self) -> None:
        """Let the command as a whole deal with it."""
        raise BrokenPipeError


def _console() -> Console:
    if sys.stdout.isatty():
        return Terminal(highlight=False)
    return Terminal(highlight=False, width=_WIDE, color_system=None)


def complain(text: str) -> None:
    """Say what went wrong."""
    print(f"error: {printable(text)}", file=sys.stderr)


def warn(text: str) -> None:
    """Say what went wrong and was dealt with."""
    print(f"warning: {printable(text)}", file=sys.stderr)
