"""A process with one task server, for tests that kill, pause and count.

Arguments: url, name, queue, log file, and where to die: ``""`` for nowhere, else
``dequeued`` (before anything knows of it), ``started``, ``held`` (while another task is
held), ``finished`` (the function has returned), or ``written`` (the outcome, too); and
perhaps ``default``, for a server with the options that it has by default, and not the
quick ones. It appends a line for each start and end of a function: name, event, task id.
Tasks of type ``sleep`` take as long as their payload says. On SIGTERM it shuts down.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from terzetto.redis import connect
from terzetto.tasks import Router, TaskContext, open_server
from terzetto.tasks._broker_values import Completion, Lease
from terzetto.tasks._redis_broker import RedisBroker

QUICK: Final[dict[str, Any]] = {
    "lease": 3.0,
    "heartbeat_interval": 0.3,
    "recover_interval": 0.2,
    "forward_interval": 0.1,
    "poll_interval": 0.2,
    "shutdown_timeout": 1.0,
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@attrs.define
class Mortal:
    """A broker that dies at one place."""

    broker: RedisBroker
    where: str

    def __getattr__(self, name: str) -> object:
        return getattr(self.broker, name)

    async def dequeue(self, queues: list[str], limit: int, *, lease_for: float) -> list[Lease]:
        leases = await self.broker.dequeue(queues, limit, lease_for=lease_for)
        if leases and self.where == "dequeued":
            die()
        return leases

    async def complete_many(self, completions: list[Completion]) -> list[bool]:
        if self.where == "finished":
            die()
        kept = await self.broker.complete_many(completions)
        if self.where == "written":
            die()
        return kept


async def main(*arguments: str) -> None:
    url, name, queue, log, where, *pace = arguments
    descriptor = os.open(Path(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    router = Router()

    def note(event: str, task_id: str) -> None:
        os.write(descriptor, f"{name} {event} {task_id}\n".encode())  # one write to the end

    @router.task("sleep")
    async def sleep(payload: bytes, ctx: TaskContext) -> bytes:
        note("start", ctx.id)
        if where == "started":
            die()
        try:
            await trio.sleep(float(payload))
            if where == "held" and server.core and server.core.held.leases:
                die()
        except trio.Cancelled:
            note("cancelled", ctx.id)
            raise
        note("end", ctx.id)
        return name.encode()

    def soon(retried: int, error: BaseException, message: object) -> float:
        return 0.1

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with (
            connect(url) as redis,
            open_server(
                Mortal(RedisBroker(redis), where),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - it stands in for a broker
                queues={queue: 1},
                concurrency=8,
                retry_delay=soon,
                **({} if pace == ["default"] else QUICK),
            ) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(server.run, router)
            note("ready", "-")
            async for _ in signals:
                break
            await server.close()
            note("closed", repr(server.statistics().lost))
            nursery.cancel_scope.cancel()
    os.close(descriptor)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
