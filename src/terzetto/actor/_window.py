"""A window into a running tree: a unix socket that shows its picture to its owner.

The program that runs the tree opens it (`serve` does), and who wants to look,
`terzetto actors` for one, calls `look`. Who connects is sent the tree's picture
as one JSON object in UTF-8, and the connection is closed; nothing is read, so a
window shows and can't be used to steer. The socket's mode is 0600.
"""

import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from terzetto.actor._describe import Description
from terzetto.errors import InvalidOptionError, TerzettoError

_PATIENCE: Final = 5.0  # seconds that one who looks may take to read
_MOST: Final = 8  # who look at once; more wait, at no cost to the tree
_PICTURE_LIMIT: Final = 256 * 1024 * 1024  # bytes


class WindowError(TerzettoError):
    """No running tree could be seen through a socket."""


@asynccontextmanager
async def open_window(path: str | os.PathLike[str]) -> AsyncGenerator[trio.SocketListener]:
    """Have a socket to show a tree on, for the time of a block; `show_tree` shows it.

    A socket that a dead process left behind is replaced; the own one goes when the
    block is left.

    Raises:
        InvalidOptionError: another process shows its tree there, there is something
            that is no socket, or the path is none that a socket can have.
    """
    place = Path(path)
    await _clear(place)
    async with trio.SocketListener(_listen(place)) as listener:
        ours = _inode(place)
        try:
            yield listener
        finally:
            if _inode(place) == ours:  # otherwise it is somebody else's by now
                _remove(place)


async def show_tree(listener: trio.SocketListener, describe: Callable[[], Description]) -> None:
    """Show what `describe` returns to all who connect, until cancelled."""
    limit = trio.CapacityLimiter(_MOST)
    await trio.serve_listeners(partial(_show, describe, limit), [listener])


async def look(path: str | os.PathLike[str]) -> Description:
    """Return the picture of the tree that a process shows at `path`.

    Raises:
        WindowError: nobody shows a tree there, or what came is no picture of one.
    """
    picture = bytearray()
    try:
        async with await trio.open_unix_socket(os.fspath(path)) as stream:
            async for part in stream:
                picture += part
                if len(picture) > _PICTURE_LIMIT:
                    raise WindowError(f"what {os.fspath(path)} shows does not end")
    except (OSError, trio.BrokenResourceError) as error:
        raise WindowError(
            f"no process shows its actors at {os.fspath(path)}: {error}. "
            "Run it with serve(tree, inspect=path), as the same user"
        ) from error
    try:
        return _description(json.loads(picture))
    except (ValueError, TypeError, KeyError) as error:
        raise WindowError(f"what {os.fspath(path)} shows is no tree: {error}") from error


async def _show(
    describe: Callable[[], Description], limit: trio.CapacityLimiter, stream: trio.SocketStream
) -> None:
    with trio.move_on_after(_PATIENCE):
        async with limit:
            picture = json.dumps(attrs.asdict(describe())).encode()
            with suppress(trio.BrokenResourceError):  # who left needs no picture
                await stream.send_all(picture)
    # No graceful close: there is nothing more to say, whether it was read or not.
    await trio.aclose_forcefully(stream)


def _description(data: dict[str, Any]) -> Description:
    children = tuple(_description(child) for child in data.pop("children"))
    return Description(**data, children=children)


async def _clear(place: Path) -> None:
    """Remove the socket of a process that is gone."""
    await trio.lowlevel.checkpoint()
    if _is_free(place):
        return
    try:
        stream = await trio.open_unix_socket(str(place))
    except ConnectionRefusedError:
        _remove(place)
    except OSError as error:
        raise InvalidOptionError(f"{place} can't be used for a socket: {error}") from error
    else:
        await stream.aclose()
        raise InvalidOptionError(f"a process shows its actors at {place}: name another path")


def _is_free(place: Path) -> bool:
    """Tell whether there is nothing at `place`; refuse it if it is something but a socket."""
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return True
    except OSError as error:
        raise InvalidOptionError(f"{place} can't be used for a socket: {error}") from error
    if not stat.S_ISSOCK(mode):
        raise InvalidOptionError(f"{place} is no socket and is left as it is: name another path")
    return False


def _inode(place: Path) -> int | None:
    try:
        return place.stat().st_ino
    except FileNotFoundError:
        return None


def _remove(place: Path) -> None:
    place.unlink(missing_ok=True)


def _listen(place: Path) -> trio.socket.SocketType:
    """Return a listening socket at `place` that only its owner may connect to."""
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # in force from the moment that the socket is there
        try:
            plain.bind(str(place))
        finally:
            os.umask(before)
        plain.listen()
    except OSError as error:
        plain.close()
        raise InvalidOptionError(f"{place} can't be used for a socket: {error}") from error
    return trio.socket.from_stdlib_socket(plain)
