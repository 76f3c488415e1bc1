"""``terzetto map``: replicated maps, their values and their changes."""

from datetime import UTC, datetime

import attrs
from cyclopts import App
from rich.console import Console

from terzetto.cli._audience import while_read
from terzetto.cli._output import Seen, cell
from terzetto.cli._session import Target, look_at_each
from terzetto.errors import TerzettoError
from terzetto.redis import Gap, Redis
from terzetto.rmap import Update, find_maps, join, open_log, read_map

app = App(name="map", help="Replicated maps: their values and changes.")

_HERE = Target()
MAP_COLUMNS = {
    "name": "Map",
    "keys": "Keys",
    "revision": "Revision",
    "last_op": "Last Change",
    "expires_in": "Expires In",
}


async def count_maps(redis: Redis) -> Seen:
    """Return the counts of all maps."""

    async def look(name: str) -> dict[str, object]:
        found = await read_map(name, redis)
        return {
            "name": found.name,
            "keys": len(found.values),
            "revision": found.revision,
            "last_op": found.last_op,
            "expires_in": found.expires_in,
        }

    return await look_at_each(await find_maps(redis), look)


@app.command(alias="list")
async def ls(*, target: Target = _HERE) -> int:
    """List the maps there are."""
    async with target.connect() as redis:
        return target.output.show_seen(MAP_COLUMNS, await count_maps(redis), "No maps")


@app.command
async def get(name: str, key: str | None = None, /, *, target: Target = _HERE) -> None:
    """Show a map's value of one key, or all that it holds.

    Args:
        name: The map.
        key: The key; all if none is given.
    """
    async with target.connect() as redis:
        values = (await read_map(name, redis)).values
    if key is None:
        rows = [{"key": each, "value": values[each]} for each in sorted(values)]
        target.output.show_table({"key": "Key", "value": "Value"}, rows, f'Map "{name}" is empty')
    elif key in values:
        target.output.say(values[key], {"map": name, "key": key, "value": values[key]})
    else:
        raise TerzettoError(f"map {name!r} has no key {key!r}")


@app.command(name="set")
async def set_(name: str, key: str, value: str, /, *, target: Target = _HERE) -> None:
    """Set a map's value of a key; show the one before.

    Args:
        name: The map.
        key: The key.
        value: Its new value.
    """
    async with target.connect() as redis, join(name, redis) as joined:
        previous = await joined.set(key, value)
    target.output.say(
        cell(previous), {"map": name, "key": key, "value": value, "previous": previous}
    )


@app.command
async def watch(name: str, /, *keys: str, count: int | None = None, target: Target = _HERE) -> None:
    """Show a map's values, and again the ones that change, until Ctrl-C.

    Values are those of a replica: of changes that come at once only the last may be shown.

    Args:
        name: The map.
        keys: Only these keys.
        count: End after so many changes.
    """
    async with (
        while_read(),
        target.connect() as redis,
        join(name, redis) as joined,
        joined.subscribe() as changes,
    ):
        before = joined.snapshot()
        for key in sorted(keys or before):
            _tell_value(target, name, key, before.get(key))
        left = count
        while left is None or left > 0:
            await anext(changes)
            after = joined.snapshot()
            changed = [
                key
                for key in sorted({*before, *after})
                if before.get(key) != after.get(key) and (not keys or key in keys)
            ]
            for key in changed:
                _tell_value(target, name, key, after.get(key))
            left = None if left is None else left - len(changed)
            before = after


@app.command
async def history(name: str, /, *, count: int | None = None, target: Target = _HERE) -> None:
    """Show every change of a map in order, from now on, until Ctrl-C.

    Redis keeps the last state of a map and not how it came about, so the history
    begins when this command does.

    Args:
        name: The map.
        count: End after so many changes.
    """
    async with while_read(), target.connect() as redis, open_log(name, redis) as log:
        if not target.json:
            revision = (await read_map(name, redis)).revision
            Console(stderr=True, highlight=False).print(
                f"{name} is at revision {cell(revision)}; its changes from now on:", style="dim"
            )
        left = count
        while left is None or left > 0:
            change = await anext(log)
            now = datetime.now(UTC)
            if isinstance(change, Gap):
                target.output.tell("(changes may be missing here)", {"at": now, "gap": True})
                continue
            target.output.tell(
                f"{now:%H:%M:%S} {_line(change)}", {"at": now, **attrs.asdict(change)}
            )
            left = None if left is None else left - 1


def _tell_value(target: Target, name: str, key: str, value: str | None) -> None:
    said = "is gone" if value is None else f"= {value}"
    target.output.tell(f"{key} {said}", {"map": name, "key": key, "value": value})


def _line(change: Update) -> str:
    what = {"set": f"{change.key} = {change.value}", "delete": change.key}.get(change.op, "")
    return f"{change.revision} {change.op} {what}".rstrip()
