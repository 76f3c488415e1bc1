"""Links that are lent out: for a command that blocks, or a transaction that watches.

They are opened when they are needed and kept for the next, a few of them. One
that was not given back in order is closed, because the server may still know
of a WATCH, or owe a reply. Used by the client.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from terzetto.redis._actors import Keeper
from terzetto.redis._dedicated import Dedicated, Others
from terzetto.redis._link import Link
from terzetto.redis._url import Options

MAX_IDLE: Final = 8
"""How many links are kept while nobody needs them."""


class Leases:
    """The links that a client lends to its calls."""

    def __init__(self, keeper: Keeper, others: Others) -> None:
        self._keeper = keeper
        self._others = others
        self._idle: list[tuple[int, Dedicated]] = []

    @asynccontextmanager
    async def lease(self, options: Options, slot: int = 0) -> AsyncGenerator[Dedicated, None]:
        """Lend a link for the time of a block.

        Those of one `slot` have the same `options`, and are lent again.

        Raises:
            LinkClosedError: the client's block has been left.
        """
        dedicated = self._reuse(slot) or await self._open(options)
        in_order = False
        try:
            yield dedicated
            in_order = True
        finally:
            if in_order and len(self._idle) < MAX_IDLE and not dedicated.link.owing:
                self._idle.append((slot, dedicated))
            else:
                dedicated.link.close()

    def _reuse(self, slot: int) -> Dedicated | None:
        for place, (home, dedicated) in enumerate(self._idle):
            if home == slot:
                del self._idle[place]
                return dedicated
        return None

    async def _open(self, options: Options) -> Dedicated:
        link = Link(options, "leased")
        await self._keeper.start(link)
        return Dedicated(link, self._others)
