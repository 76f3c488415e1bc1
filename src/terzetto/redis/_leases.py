"""Links that are lent out: for a command that blocks, or a transaction that watches.

They are opened when they are needed and kept for the next, a few of them. One
that was not given back in order is closed, because the server may still know
of a WATCH, or owe a reply. Used by the client.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from terzetto.redis._actors import Keeper
from terzetto.redis._dedicated import Dedicated
from terzetto.redis._link import Link
from terzetto.redis._url import Options

MAX_IDLE: Final = 8
"""How many links are kept while nobody needs them."""


class Leases:
    """The links that a client lends to its calls."""

    def __init__(self, options: Options, shared: Link, keeper: Keeper) -> None:
        self._options = options
        self._shared = shared
        self._keeper = keeper
        self._idle: list[Dedicated] = []

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Dedicated, None]:
        """Lend a link for the time of a block.

        Raises:
            LinkClosedError: the client's block has been left.
        """
        dedicated = self._idle.pop() if self._idle else await self._open()
        in_order = False
        try:
            yield dedicated
            in_order = True
        finally:
            if in_order and len(self._idle) < MAX_IDLE and not dedicated.link.owing:
                self._idle.append(dedicated)
            else:
                dedicated.link.close()

    async def _open(self) -> Dedicated:
        link = Link(self._options, "leased")
        try:
            await self._keeper.start(link)
        except BaseException:
            link.close()
            raise
        return Dedicated(link, self._shared)
