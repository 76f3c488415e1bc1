"""A graceful deploy: a new version joins, the old one leaves, and no job stands still for long.

Run it with ``python -m examples.pool.deploy``. The old process leaves its block, as a
service does on SIGTERM under `terzetto.serve`; its jobs go to the new one, with the
payloads that they were dispatched with.
"""

import attrs
import trio

import terzetto
from terzetto import pool
from terzetto.redis import Redis


@attrs.define
class Device:
    """A handler of one version; it keeps a connection for each job."""

    version: int
    connected: dict[str, int]

    async def start(self, job: pool.Job) -> None:
        """Connect to a device."""
        await trio.lowlevel.checkpoint()
        self.connected[job.key] = self.version

    async def stop(self, key: str) -> None:
        """Disconnect from it."""
        await trio.lowlevel.checkpoint()
        del self.connected[key]


async def serve(redis: Redis, handler: Device, scope: trio.CancelScope, up: trio.Event) -> None:
    """Be a process of one version until the scope is cancelled."""
    with scope:
        async with pool.open_node("devices", redis) as node:
            await node.add_worker(handler)
            up.set()
            await trio.sleep_forever()


async def main() -> None:
    """Deploy version 2 over version 1."""
    connected: dict[str, int] = {}
    old, new = trio.CancelScope(), trio.CancelScope()
    async with terzetto.connect("embedded://") as redis, trio.open_nursery() as nursery:
        up = trio.Event()
        nursery.start_soon(serve, redis, Device(1, connected), old, up)
        await up.wait()
        async with pool.open_node("devices", redis, client_only=True) as client:
            await client.dispatch_many((f"device-{number}", b"") for number in range(100))
            print("version 1:", list(connected.values()).count(1))
            up = trio.Event()
            nursery.start_soon(serve, redis, Device(2, connected), new, up)
            await up.wait()
            old.cancel()
            while list(connected.values()).count(2) < 100:  # noqa: ASYNC110 - set by the handlers
                await trio.sleep(0.01)
            print("version 2:", list(connected.values()).count(2))
        new.cancel()
    print("connected:", len(connected))


if __name__ == "__main__":
    trio.run(main)
