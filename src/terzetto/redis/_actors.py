"""The actors that run links, under one supervisor for each client.

They are thin: the logic is in `Link.run` and `Hub.run`, and callers talk to
the link itself, not to a mailbox. A link outlives a crash of its actor: the next
life runs the same link, and what waits in its queue goes on waiting. An outage
is no crash, so no restart is counted for it.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

import attrs
import trio

from terzetto.actor import Actor, ActorStoppedError, Context, Ref, Stop, Supervisor, open_supervisor
from terzetto.redis._link import Link
from terzetto.redis._pubsub import Hub
from terzetto.redis._request import closed
from terzetto.redis._shards import Shards
from terzetto.redis._url import Options

A = TypeVar("A", bound=Actor)

_CLOSING_GRACE = 5.0  # seconds for a link's tasks to end; they wait for nothing


@attrs.define(eq=False)
class LinkActor(Actor):
    """Runs a link."""

    _link: Link

    async def started(self, ctx: Context[Any]) -> None:
        """Start the link's task; it connects in the background."""
        ctx.start_soon(self._run, ctx, name=self._link.name)

    async def stopping(self, reason: Stop) -> None:
        """Close the link, unless a crash has brought this about and it will be run again."""
        if reason is not Stop.CRASHED:
            self._link.close()

    async def _run(self, ctx: Context[Any]) -> None:
        await self._link.run()
        ctx.stop()


@attrs.define(eq=False)
class HubActor(Actor):
    """Runs what looks after subscriptions, with its links."""

    _hub: Hub | Shards

    async def started(self, ctx: Context[Any]) -> None:
        """Start the hub; its links connect in the background."""
        ctx.start_soon(self._hub.run, name="pubsub")

    async def stopping(self, reason: Stop) -> None:
        """End the subscriptions, unless a crash has brought this about."""
        if reason is not Stop.CRASHED:
            self._hub.close()


@attrs.define(eq=False)
class TaskActor(Actor):
    """Runs a function in the background."""

    _run: Callable[[], Awaitable[None]]

    async def started(self, ctx: Context[Any]) -> None:
        """Start the task."""
        ctx.start_soon(self._to_the_end, ctx, name="task")

    async def _to_the_end(self, ctx: Context[Any]) -> None:
        await self._run()
        ctx.stop()


class Keeper:
    """Runs the links of one client."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._links: WeakSet[Link] = WeakSet()

    @property
    def links(self) -> list[Link]:
        """The links of the client that are open."""
        return [link for link in self._links if link.status.state != "closed"]

    @asynccontextmanager
    async def keep(self, link: Link) -> AsyncGenerator[None, None]:
        """Run a link for the time of a block; it is closed and gone when the block is left."""
        self._links.add(link)
        try:
            ref = await self._spawn(partial(LinkActor, link))
            try:
                yield
            finally:
                link.close()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSING_GRACE):
                    await ref.wait_stopped()
        finally:
            link.close()

    async def start(self, link: Link) -> None:
        """Run a link until it is closed, or the client's block is left.

        If this is cancelled or fails, the link is closed.
        """
        started = False
        self._links.add(link)
        try:
            await self._spawn(partial(LinkActor, link))
            started = True
        finally:
            if not started:
                link.close()

    @asynccontextmanager
    async def run_for_block(self, run: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
        """Run a function in the background for the time of a block; it may end earlier."""
        ref = await self._spawn(partial(TaskActor, run))
        try:
            yield
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSING_GRACE):
                await ref.close()

    async def keep_hub(self, hub: Hub | Shards) -> None:
        """Run what looks after subscriptions until the client's block is left."""
        if isinstance(hub, Hub):
            self._links.add(hub.link)
        await self._spawn(partial(HubActor, hub))

    async def _spawn(self, factory: Callable[[], A]) -> Ref[A]:
        try:
            return await self._supervisor.spawn(factory)
        except ActorStoppedError:
            raise closed() from None


@asynccontextmanager
async def open_keeper(options: Options) -> AsyncGenerator[Keeper, None]:
    """Open the roof of a client's links; leaving it stops them all."""
    async with open_supervisor(name="redis", logger=options.logger) as supervisor:
        yield Keeper(supervisor)
