"""WATCH: read, decide, and write only if nobody else wrote meanwhile.

Keys are watched for one connection. So a `Watching` has a link of its own, and
all that it sends belongs to the connection on which WATCH was sent: if that is
lost, the transaction is not carried out on another.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypeVar

from redis.commands import AsyncCoreCommands
from redis.event import EventDispatcher
from redis.exceptions import WatchError

from terzetto.redis._commands import check_lent
from terzetto.redis._dedicated import Dedicated
from terzetto.redis._errors import LinkLostError
from terzetto.redis._pipeline import Transaction
from terzetto.redis._refusals import refusal_of
from terzetto.redis._request import lost, replies_of
from terzetto.redis._shape import Shaper, words
from terzetto.redis._wire import Arg, Reply, pack_many

T = TypeVar("T")


class Watching(AsyncCoreCommands):
    """Commands that run at once, while keys are watched; then `transaction` writes.

    Made by `Redis.watch`.
    """

    _is_async_client: Literal[True] = True
    _event_dispatcher = EventDispatcher()  # redis-py's protocol asks for one

    def __init__(self, dedicated: Dedicated, epoch: int, shaper: Shaper) -> None:
        self._dedicated = dedicated
        self._epoch = epoch
        self._shaper = shaper
        self.done = False

    def get_encoder(self) -> Any:  # noqa: ANN401 - redis-py's own
        """Return redis-py's encoder; some of its commands ask for it."""
        return self._shaper.encoder

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's signature
        """Run a command at once, on the connection that watches.

        Raises:
            redis.exceptions.RedisError: the server's error reply.
            LinkLostError: the connection is gone, and the watching with it.
            WrongLinkError: it would change the connection, which is lent to others afterwards,
                or what it watches.
            InvalidPayloadError: it has no name, or an argument cannot be sent.
        """
        command = words(args) if args else args
        check_lent(command)
        (reply,) = await self.send([command])
        return self._shaper.shape(args, reply, options)

    def transaction(self) -> Transaction:
        """Return the transaction that is carried out if no watched key has changed.

        Leaving its block raises `redis.exceptions.WatchError` if one has; nothing
        was done then.
        """
        return Transaction(self._exec, self._shaper)

    async def send(self, commands: Sequence[Sequence[Arg]]) -> list[Reply]:
        """Send a unit that belongs to this connection."""
        link = self._dedicated.link
        value = await link.request_unit(pack_many(commands), len(commands), epoch=self._epoch)
        replies = replies_of(value)
        self._dedicated.note(commands, replies)
        return replies

    async def _exec(self, commands: Sequence[Sequence[Arg]]) -> list[Reply]:
        replies = await self.send(commands)
        self.done = True  # EXEC has ended the watching, whatever it answered
        refusal = refusal_of(commands, replies)
        if refusal is not None and await self._dedicated.leaves(refusal):
            raise lost(str(refusal), may_have_run=False)
        return replies


async def transact(
    watch: Callable[[], AbstractAsyncContextManager[Watching]],
    change: Callable[[Watching, Transaction], Awaitable[T]],
) -> T:
    """Call `change` with what `watch` opens until nobody else has written; see `Redis.transact`."""
    while True:
        try:
            async with watch() as now:
                then = now.transaction()
                result = await change(now, then)
                await then.execute()
                return result
        except WatchError:
            continue
        except LinkLostError as error:
            if error.may_have_run:
                raise
