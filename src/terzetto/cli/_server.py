"""``terzetto server``: the embedded server as a program, and servers that work on queues."""

import signal
from datetime import UTC
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import App, Parameter, validators

from terzetto.cli._output import Past, Seen
from terzetto.cli._session import Target, View
from terzetto.redis import Redis
from terzetto.server import open_embedded
from terzetto.tasks import Inspector

app = App(name="server", help="Servers: the embedded one, and those that work on queues.")

Port = Annotated[int | None, Parameter(validator=validators.Number(gte=0, lte=65_535))]

_HERE = View()
_THERE = Target()


@app.command
async def start(directory: Path | None = None, /, *, port: Port = None, view: View = _HERE) -> None:
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


SERVER_COLUMNS = {
    "host": "Host",
    "pid": "PID",
    "state": "State",
    "active_workers": "Active Workers",
    "queues": "Queues",
    "started": "Started",
}


async def list_servers(redis: Redis) -> Seen:
    """Return the servers that work on task queues."""
    records = [
        {
            "id": each.info.server_id,
            "host": each.info.host,
            "pid": each.info.pid,
            "state": each.info.status,
            "active_workers": f"{len(each.workers)}/{each.info.concurrency}",
            "queues": [
                f"{name}:{weight}"
                for name, weight in sorted(
                    each.info.queues.items(), key=lambda item: (-item[1], item[0])
                )
            ],
            "started": Past.fromtimestamp(each.info.started_at, UTC),
            "tasks": [worker.task_id for worker in each.workers],
        }
        for each in await Inspector(redis).list_servers()
    ]
    return Seen(records)


@app.command(alias="list")
async def ls(*, target: Target = _THERE) -> int:
    """List the servers that work on task queues, and how busy they are."""
    async with target.connect() as redis:
        seen = await list_servers(redis)
    return target.output.show_seen(SERVER_COLUMNS, seen, "No running servers")
