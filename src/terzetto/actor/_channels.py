"""Bridges between actors and code that knows trio's channels and async iterables only."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any, Generic, TypeVar, cast

import attrs
import trio

from terzetto.actor._actor import Actor
from terzetto.actor._errors import ActorStoppedError
from terzetto.actor._ref import Ref

A = TypeVar("A", bound=Actor)
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


@attrs.define(eq=False)
class ActorChannel(trio.abc.SendChannel[T_contra], Generic[T_contra]):
    """A send channel whose values are told to an actor, each as one message.

    Sending waits while the mailbox is full. Closing the channel leaves the
    actor running; when the actor has stopped, the channel is broken.
    """

    _ref: Ref[Any]
    _method: Callable[[Any, T_contra], Coroutine[Any, Any, Any]]
    _closed: bool = False

    async def send(self, value: T_contra) -> None:
        """Send one value; cancelling takes it back.

        Raises:
            trio.ClosedResourceError: this channel was closed.
            trio.BrokenResourceError: the actor has stopped.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this channel was closed")
        try:
            await self._ref.tell(self._method, value)
        except ActorStoppedError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def aclose(self) -> None:
        """Close the channel, not the actor."""
        self._closed = True
        await trio.lowlevel.checkpoint()


def as_channel(
    ref: Ref[A], method: Callable[[A, T], Coroutine[Any, Any, Any]]
) -> trio.abc.SendChannel[T]:
    """Return a `trio.abc.SendChannel` that tells `ref` every value as the message `method`."""
    return ActorChannel[T](ref, method)


async def feed(
    ref: Ref[A],
    method: Callable[[A, T], Coroutine[Any, Any, Any]],
    source: AsyncIterable[T],
) -> int:
    """Tell `ref` every item of `source` as the message `method`; return how many there were.

    It goes no faster than the mailbox takes them. An async generator is closed
    on every way out. Cancelling stops between two items, or takes the one back
    that waits for room.

    Raises:
        ActorStoppedError: the actor has stopped; the item at hand was not sent.
        Exception: what `source` raised, as it is.
    """
    count = 0
    async with AsyncExitStack() as stack:
        if isinstance(source, AsyncGenerator):
            await stack.enter_async_context(aclosing(cast("AsyncGenerator[T, None]", source)))
        async for item in source:
            await ref.tell(method, item)
            count += 1
    return count
