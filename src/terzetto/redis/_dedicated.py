"""A link of one's own, for what blocks or holds state on the connection.

It is a whole `Link`, with its own reconnecting, and one caller at a time. A
cancelled call leaves its place in the queue of the link, so nothing slips: the
next call waits until the server has answered the cancelled one.

Where servers share the keys out, it follows the owner of its slot: a refusal
that names or hints at another server makes the link connect anew, to whom the
client's map says, and what was refused goes there. During a move of the slot,
what has left already is asked for at its new place (ASK) over a link for that alone.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final, Protocol

import trio
from redis.exceptions import AskError, ClusterDownError, RedisError, TryAgainError

from terzetto.redis._commands import blocking_time, check_dedicated, upper_name
from terzetto.redis._errors import WrongLinkError
from terzetto.redis._link import Link
from terzetto.redis._refusals import ASKING, asking, is_ask, refusal_of
from terzetto.redis._request import Blocking, Glance, Notice, as_list, lost, replies_of
from terzetto.redis._url import Endpoint
from terzetto.redis._wire import Arg, Reply, pack

_UNBLOCK_PATIENCE: Final = 1.0  # seconds that a server may take to end a command's waiting
_HOLDS: Final = frozenset({"MULTI", "SELECT", "WATCH"})
_ENDS: Final = frozenset({"DISCARD", "EXEC", "UNWATCH"})
_UNREACHED: Final = TryAgainError("the server that a redirection named cannot be reached")


async def _give_up(request: Blocking) -> None:
    with trio.move_on_after(_UNBLOCK_PATIENCE):
        await request.settled.wait()
    request.give_up()


class _Chain:
    """Commands that are sent in one piece, and then those that a glance has follow them.

    Attributes:
        commands: those that were sent last.
        data: the same, packed.
        error: what a glance raised, or why what it returned was not sent.
    """

    def __init__(self, commands: Sequence[Sequence[Arg]], glance: Glance | None) -> None:
        self._glance = glance
        self.error: Exception | None = None
        self._take(commands)

    def _take(self, commands: Sequence[Sequence[Arg]]) -> None:
        units = [tuple(command) for command in commands]
        self.data = b"".join([pack(unit) for unit in units])
        for unit in units:
            check_dedicated(unit)
        self.commands = units

    def look(self, replies: list[Reply]) -> tuple[bytes, int] | None:
        """Return what follows, packed, and how many commands it is."""
        try:
            following = None if self._glance is None else self._glance(replies)
            if not following:
                return None
            self._check_free()
            self._take(following)
        except Exception as error:  # noqa: BLE001 - the user's; here it would end the link
            self.error = error
            return None
        return self.data, len(self.commands)

    def _check_free(self) -> None:
        """Refuse to go on where the connection may be left with something that it holds."""
        for command in self.commands:
            if (word := upper_name(command[0])) in _HOLDS:
                raise WrongLinkError(f"nothing can follow {word} by a glance: make another call")


class Others(Protocol):
    """What a dedicated link has to know of the client that it belongs to."""

    def shared(self, endpoint: Endpoint, /) -> Link | None:
        """Return the shared link to a server, if there is one."""
        ...

    async def misplaced(self, error: Exception, sender: Endpoint, /) -> bool:
        """Return True if the command was not carried out, and may be on a new connection."""
        ...

    def elsewhere(
        self, error: AskError, sender: Endpoint, /
    ) -> "AbstractAsyncContextManager[Dedicated]":
        """Open a link to the server that a redirection names."""
        ...


class Dedicated:
    """A link that serves one caller; made by `Redis.open_dedicated`.

    In a cluster it leads to the owner of the slot of its key. When that changes,
    because the slot moves or its master dies, the link connects to the new owner
    by itself: what had not run waits for that and runs there; what may have run
    raises `LinkLostError`, and the next call goes to the new owner.

    What SELECT, WATCH or MULTI have made of a connection ends with it. The next
    call then raises `LinkLostError` instead of running as if they held; the one
    after that starts afresh.
    """

    def __init__(self, link: Link, others: Others) -> None:
        self._link = link
        self._others = others
        self._notice: Notice | None = None
        self._busy = False
        self._held: set[str] = set()  # what the server keeps for the connection of `_epoch`
        self._epoch = 0

    def __repr__(self) -> str:
        return f"<Dedicated {self._link!r}>"

    @property
    def holds(self) -> bool:
        """Whether the server keeps something for the connection: a WATCH, a MULTI or a SELECT.

        :meta private:
        """
        return bool(self._held)

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
            AuthError: the server refuses the credentials now.
            WrongLinkError: no shared or dedicated link can carry this command.
            trio.BusyResourceError: another task is using this link.
        """
        data = pack(args)
        check_dedicated(args)
        patience = blocking_time(args)
        with self._hold(patience):
            if self._notice is not None:
                await self._notice.done.wait()  # it must not end the waiting of this command
            held = bool(self._held)
            reply = await self._send(data, patience)
            self._note(args, reply)
            while isinstance(reply, Exception):
                if held:  # elsewhere it would run without what this connection holds
                    await self._moves_on([reply])
                    raise reply
                if is_ask(reply):
                    async with self._others.elsewhere(reply, self._link.endpoint) as other:
                        reply = await other.execute_asked(data, patience)
                elif await self.leaves(reply):
                    reply = await self._send(data, patience)
                else:
                    raise reply
        return reply

    async def execute_many(
        self, commands: Sequence[Sequence[Arg]], *, glance: Glance | None = None
    ) -> list[Reply | RedisError]:
        """Run commands in order with one write; error replies stand in their places.

        `glance`, a plain function, is called with the list of the replies in the task that
        read them: a turn of the scheduler before this returns.
        If it returns commands, they are sent at once, in place of these, and this goes on
        waiting: they should wait on the server for no longer than these, which must not
        leave anything with the connection (SELECT, WATCH, MULTI). Where commands were
        refused and sent to another server it may be shown the refusals too, or nothing.

        Cancelling is as in `execute`. If a server refuses them because it is the wrong
        one, and none has run, all of them go to the right one; if some have run, the
        errors stand, and the next call goes there.

        Raises:
            LinkLostError, LinkClosedError, AuthError, WrongLinkError,
            trio.BusyResourceError: as in `execute`.
            InvalidPayloadError: an argument cannot be sent.
            Exception: what `glance` raised; all that was sent before has run.
        """
        sent = _Chain(commands, glance)
        if not sent.commands:
            await trio.lowlevel.checkpoint()
            return []
        look = None if glance is None else sent.look
        patience = sum(map(blocking_time, sent.commands))
        with self._hold(patience):
            while True:
                epoch, count = self._bound_to(), len(sent.commands)
                replies = replies_of(
                    await self._link.request_unit(sent.data, count, epoch=epoch, look=look)
                )
                self.note(sent.commands, replies)
                if sent.error is not None:
                    raise sent.error
                if not any(isinstance(reply, Exception) for reply in replies):
                    return replies
                # What a connection held does not go elsewhere with the unit.
                refusal = None if epoch else refusal_of(sent.commands, replies)
                if is_ask(refusal):
                    async with self._others.elsewhere(refusal, self._link.endpoint) as other:
                        replies = await other.execute_many_asked(sent.commands, patience)
                    refusal = refusal_of(sent.commands, replies)
                if not await self._moves_on(replies) or refusal is None:
                    return replies

    async def unblock(self) -> bool:
        """End the waiting of a command on this link, as if the time that it names were up.

        Any task may call it while another runs the command. Nothing happens if no
        command waits on the server. Return whether the server took the request:
        False if no shared link leads to it, or it refuses CLIENT UNBLOCK. Cancelling
        leaves it open whether the server was asked.
        """
        shared = self._others.shared(self._link.endpoint)
        if shared is None:
            await trio.lowlevel.checkpoint()
            return False
        reply = await shared.request(pack(("CLIENT", "UNBLOCK", self._link.client_id)))
        return not isinstance(reply, Exception)

    async def execute_asked(self, data: bytes, patience: float) -> Reply:
        """Run one packed command where a slot is on its way to; errors are returned.

        :meta private:
        """
        with self._hold(patience):
            if not await self._is_reached():
                return _UNREACHED
            reply = await self._link.request(ASKING)
            return reply if isinstance(reply, Exception) else await self._send(data, patience)

    async def execute_many_asked(
        self, units: Sequence[Sequence[Arg]], patience: float
    ) -> list[Reply | RedisError]:
        """Run a unit where a slot is on its way to; errors stand in their places.

        :meta private:
        """
        unit = asking(units)
        with self._hold(patience):
            if not await self._is_reached():
                return [_UNREACHED] * len(units)
            return unit.replies(replies_of(await self._link.request_unit(unit.data, unit.count)))

    async def _is_reached(self) -> bool:
        with trio.move_on_after(self._link.options.connect_timeout):
            await self._link.wait_connected()
        return self._link.status.state == "connected"

    async def _moves_on(self, replies: Sequence[Reply | RedisError]) -> bool:
        """Tell whether a reply says that another server, or a later time, is the right one."""
        for reply in replies:
            if isinstance(reply, Exception) and not is_ask(reply) and await self.leaves(reply):
                return True
        return False

    async def leaves(self, error: Exception) -> bool:
        """Tell whether a refusal says that another server, or a later time, is the right one.

        If so, the link connects anew, or the time has passed.

        :meta private:
        """
        if not await self._others.misplaced(error, self._link.endpoint):
            return False
        later = isinstance(error, (ClusterDownError, TryAgainError))
        if not (later and await self._is_at_owner()):
            self._link.retire(error)
        return True

    async def _is_at_owner(self) -> bool:
        locator = self._link.options.locator
        return locator is not None and await locator.locate() == self._link.endpoint

    async def _send(self, data: bytes, patience: float) -> Reply:
        epoch = self._bound_to()
        if patience > 0:
            return await self._link.request_blocking(data, self._unblock)
        if epoch:
            found = as_list(replies := await self._link.request_unit(data, 1, epoch=epoch))
            return replies if found is None else found[0]
        return await self._link.request(data)

    def _bound_to(self) -> int:
        """Return the connection that holds state for this caller, 0 if none does.

        Raises:
            LinkLostError: it is gone, and what it held with it; said once.
        """
        if not self._held:
            return 0
        if self._epoch != self._link.epoch:
            gone = ", ".join(sorted(self._held))
            self._held.clear()
            raise lost(f"and with it what it held: {gone}", may_have_run=False)
        return self._epoch

    def note(self, commands: Sequence[Sequence[Arg]], replies: Sequence[Reply]) -> None:
        """Note what the server keeps for the connection after `commands`, or no longer.

        :meta private:
        """
        for command, reply in zip(commands, replies, strict=True):
            self._note(command, reply)

    def _note(self, command: Sequence[Arg], reply: Reply) -> None:
        word = upper_name(command[0])
        if word in _ENDS:
            if word == "EXEC" or not isinstance(reply, Exception):
                self._held -= {"MULTI", "WATCH"}
        elif word in _HOLDS and not isinstance(reply, Exception):
            self._held.add(word)
            self._epoch = self._link.epoch

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
