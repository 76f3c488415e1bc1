"""The tasks that run links, under one roof for each client.

A link's logic is in `Link.run` and `Hub.run`; here they are only started and
stopped. Called by `connect` and by the client.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from terzetto.redis._connection import Connection
from terzetto.redis._link import Link
from terzetto.redis._pubsub import Hub


class Keeper:
    """Runs the links of one client."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def keep(self, link: Link, first: Connection) -> None:
        """Run a link, on its first connection, until the client's block is left."""
        self._nursery.start_soon(link.run, first, name="terzetto.redis.link")

    async def keep_hub(self, hub: Hub) -> None:
        """Run the pub/sub link and its hub until the client's block is left."""
        self._nursery.start_soon(hub.link.run, name="terzetto.redis.pubsub")
        self._nursery.start_soon(hub.run, name="terzetto.redis.hub")

    @asynccontextmanager
    async def keep_for_block(self, link: Link, name: str) -> AsyncGenerator[None, None]:
        """Run a link for the time of a block."""
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await link.run()

        self._nursery.start_soon(run, name=f"terzetto.redis.{name}")
        try:
            yield
        finally:
            scope.cancel()


@asynccontextmanager
async def open_keeper() -> AsyncGenerator[Keeper, None]:
    """Open the roof; leaving it stops all links."""
    crash: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield Keeper(nursery)
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's own, raised again unwrapped
            crash = error
        nursery.cancel_scope.cancel()
    if crash is not None:
        raise crash
