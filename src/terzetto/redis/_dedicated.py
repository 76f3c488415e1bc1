"""A link of one's own, for what blocks or holds state on the connection.

It is a whole `Link`, with its own reconnecting, and one caller at a time. A
cancelled call leaves its place in the queue of the link, so nothing slips: the
next call waits until the server has answered the cancelled one.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import trio
from redis.exceptions import RedisError

from terzetto.redis._commands import blocking_time, check_dedicated
from terzetto.redis._link import Link
from terzetto.redis._request import Blocking, Notice, replies_of
from terzetto.redis._url import Endpoint
from terzetto.redis._wire import Arg, Reply, pack

_UNBLOCK_PATIENCE: Final = 1.0  # seconds that a server may take to end a command's waiting


async def _give_up(request: Blocking) -> None:
    with trio.move_on_after(_UNBLOCK_PATIENCE):
        await request.settled.wait()
    request.give_up()


class Others(Protocol):
    """What a dedicated link has to know of the client that it belongs to."""

    def shared(self, endpoint: Endpoint, /) -> Link | None:
        """Return the shared link to a server, if there is one."""
        ...

    async def misplaced(self, error: Exception, /) -> bool:
        """Return True if the command was not carried out, and may be on a new connection."""
        ...


class Dedicated:
    """A link that serves one caller; made by `Redis.open_dedicated`."""

    def __init__(self, link: Link, others: Others) -> None:
        self._link = link
        self._others = others
        self._notice: Notice | None = None
        self._busy = False

    def __repr__(self) -> str:
        return f"<Dedicated {self._link!r}>"

    @property
    def link(self) -> Link:
        """The link underneath: its `status`, and `wait_connected`."""
        return self._link

    async def execute(self, *args: Arg) -> Reply:
        """Run one command, blocking ones too, and return its reply.

        A command that waits on the server (XREAD BLOCK, BLPOP) may do so for the
        time it names. Cancelling is safe, and the next call is not disturbed.
        Cancelling a command that waits asks the server to end it (CLIENT
        UNBLOCK); if it has just taken something, that is returned all the same,
        so that it is not lost, and the cancellation is met at the next
        checkpoint. A server that does not react has 1 s.

        Raises:
            redis.exceptions.RedisError: the server's error reply.
            LinkLostError: the connection was lost while the command ran.
            LinkClosedError: the block has been left.
            WrongLinkError: no shared or dedicated link can carry this command.
            trio.BusyResourceError: another task is using this link.
        """
        data = pack(args)
        check_dedicated(args)
        patience = blocking_time(args)
        with self._hold(patience):
            if self._notice is not None:
                await self._notice.done.wait()  # it must not end the waiting of this command
            reply = await self._send(data, blocking=patience > 0)
            while isinstance(reply, Exception) and await self._others.misplaced(reply):
                self._link.retire(reply)
                reply = await self._send(data, blocking=patience > 0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Sequence[Arg]]) -> list[Reply | RedisError]:
        """Run commands in order with one write; error replies stand in their places.

        Cancelling is as in `execute`.

        Raises:
            LinkLostError, LinkClosedError, WrongLinkError, trio.BusyResourceError: as in `execute`.
        """
        units = [tuple(command) for command in commands]
        data = b"".join([pack(unit) for unit in units])
        for unit in units:
            check_dedicated(unit)
        if not units:
            await trio.lowlevel.checkpoint()
            return []
        with self._hold(sum(blocking_time(unit) for unit in units)):
            replies = await self._link.request_unit(data, len(units))
        return replies_of(replies)

    async def _send(self, data: bytes, *, blocking: bool) -> Reply:
        if blocking:
            return await self._link.request_blocking(data, self._unblock)
        return await self._link.request(data)

    def _unblock(self, request: Blocking) -> None:
        """Ask the server, over a shared link, to end what a cancelled caller waits for."""
        shared = self._others.shared(self._link.endpoint)
        if shared is not None:
            self._notice = shared.notify(pack(("CLIENT", "UNBLOCK", self._link.client_id)))
        self._link.start_soon(_give_up, request)

    @contextmanager
    def _hold(self, patience: float) -> Generator[None, None, None]:
        if self._busy:
            raise trio.BusyResourceError(
                f"another task is using the link {self._link.name!r}: open one for each task"
            )
        self._busy = True
        self._link.patience = max(self._link.patience, patience)
        try:
            yield
            self._link.patience = 0.0  # a cancelled command may go on waiting, so not in `finally`
        finally:
            self._busy = False
