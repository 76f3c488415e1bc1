"""The watch over a connection: it gives up a server that says nothing.

A closed socket is seen by who reads it; a server that hangs, or a network that
swallows packets, is not. The watch only compares a counter now and then, so it
costs the link's hot path nothing. Run by `Link` beside reader and writer.
"""

from collections.abc import Awaitable
from typing import Final, NoReturn, Protocol

import trio

from terzetto.redis._url import Options
from terzetto.redis._wire import Reply, pack

_PING: Final = pack(("PING",))
_LOOKS = 4  # how often to look within the shortest time that matters


class Watched(Protocol):
    """What the watch has to know of a link."""

    options: Options
    patience: float
    """Seconds that a command under way may make the server wait, beside `server_timeout`."""
    reads: int
    """How often the server has said something."""

    @property
    def owing(self) -> bool:
        """Whether the server owes a reply."""
        ...

    def request(self, data: bytes, /) -> Awaitable[Reply]:
        """Send a packed command."""
        ...

    def drop(self, error: Exception, /) -> None:
        """Give the connection up."""
        ...


@trio.lowlevel.enable_ki_protection
async def watch(link: Watched) -> NoReturn:
    """Drop the connection when the server owes a reply for too long; try one that is idle."""
    options = link.options
    interval = min(options.server_timeout, options.health_check_interval) / _LOOKS
    heard, since, owing = link.reads, trio.current_time(), False
    while True:
        await trio.sleep(interval)
        if link.reads != heard or owing != link.owing:
            heard, since, owing = link.reads, trio.current_time(), link.owing
        silence = trio.current_time() - since
        if owing and silence >= options.server_timeout + link.patience:
            link.drop(_silent(silence))
        elif not owing and silence >= options.health_check_interval:
            with trio.move_on_after(options.server_timeout) as scope:
                await link.request(_PING)
            if scope.cancelled_caught:
                link.drop(_silent(options.server_timeout))


def _silent(seconds: float) -> TimeoutError:
    return TimeoutError(f"the server has said nothing for {seconds:.1f} s")
