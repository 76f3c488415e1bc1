"""A blocking read that others can end.

A loop that waits on the server in XREAD or XREADGROUP has to look around when
a stream is added or removed, and before it closes. Cancelling the read would
not do for a sink: the server might deliver to a reader who is no longer there.
So the wait is ended on the server, by CLIENT UNBLOCK over a shared link, and
the read returns as if its time were up, with all that was delivered to it.

Called by the loops of readers and sinks; one of these for each dedicated link.
"""

from collections.abc import Sequence
from typing import Final

import trio
from redis.exceptions import RedisError

from terzetto.redis import Arg, Dedicated, Glance, Reply

_BETWEEN_NUDGES: Final = 0.02  # seconds: the read may not have reached the server yet
_PATIENCE: Final = 1.0  # seconds until a read that does not end is cancelled


class Poll:
    """The reads of one loop over its dedicated link."""

    def __init__(self, link: Dedicated) -> None:
        self._link = link
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    async def read(
        self,
        commands: Sequence[Sequence[Arg]],
        glance: Glance | None = None,
    ) -> list[Reply | RedisError] | None:
        """Run commands, the last of which blocks; None if the read had to be cancelled.

        `glance` is as in `Dedicated.execute_many`.

        Raises:
            LinkLostError, LinkClosedError: as the link does.
        """
        with trio.CancelScope() as scope:
            self._scope, self._ended = scope, trio.Event()
            try:
                return await self._link.execute_many(commands, glance=glance)
            finally:
                self._scope = None
                self._ended.set()
        return None

    async def interrupt(self) -> None:
        """End the read that is under way, if there is one; return when it has ended.

        Takes a second at most: a read that the server does not end by then, as
        when there is no server, is cancelled.
        """
        scope, ended = self._scope, self._ended
        if scope is None:
            return
        with trio.move_on_after(_PATIENCE):
            while not ended.is_set():
                if not await self._link.unblock():
                    break  # no link, or no permission for it: the server will not help
                with trio.move_on_after(_BETWEEN_NUDGES):
                    await ended.wait()
        if not ended.is_set():
            scope.cancel()
            await ended.wait()
