"""``terzetto server``: the embedded server as a program of its own."""

import signal
from pathlib import Path

import trio
from cyclopts import App

from terzetto.cli._session import View
from terzetto.server import open_embedded

app = App(name="server", help="Servers: the embedded one, and those that work on queues.")

_HERE = View()


@app.command
async def start(
    directory: Path | None = None, /, *, port: int | None = None, view: View = _HERE
) -> None:
    """Run the embedded server until Ctrl-C or SIGTERM.

    Args:
        directory: Where it keeps its data, shared by all who name it; a private one that
            is removed at the end if none is given.
        port: A TCP port on 127.0.0.1 besides the unix socket; 0 chooses a free one.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_embedded(directory, port=port) as server:
            tcp = "" if server.port is None else f"redis://127.0.0.1:{server.port}"
            lines = [f"Running at {server.url}", *([f"and at {tcp}"] if tcp else [])]
            record = {
                "url": server.url,
                "tcp_url": tcp or None,
                "directory": str(server.directory),
                "pid": server.pid,
            }
            view.output.tell("\n".join(lines), record)
            async for _ in signals:
                break
