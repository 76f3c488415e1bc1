"""Links that are lent out: for a command that blocks, or a transaction that watches.

They are opened when they are needed and kept for the next, those that were used
last. One that was not given back in order is closed, because the server may still
know of a WATCH, or owe a reply. Used by the client.
"""

from collections.abc import AsyncGenerator, Hashable
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
        self._idle: list[tuple[Hashable, Dedicated]] = []  # the one used last at the end

    @asynccontextmanager
    async def lease(self, options: Options, home: Hashable = 0) -> AsyncGenerator[Dedicated, None]:
        """Lend a link for the time of a block.

        Those of one `home` have the same `options`, and are lent again.

        Raises:
            LinkClosedError: the client's block has been left.
        """
        dedicated = self._reuse(home) or await self._open(options)
        in_order = False
        try:
            yield dedicated
            in_order = True
        finally:
            if in_order and not dedicated.holds and not dedicated.link.owing:
                self._idle.append((home, dedicated))
                if len(self._idle) > MAX_IDLE:
                    self._idle.pop(0)[1].link.close()
            else:
                dedicated.link.close()

    def _reuse(self, home: Hashable) -> Dedicated | None:
        for place in reversed(range(len(self._idle))):
            if self._idle[place][0] == home:
                return self._idle.pop(place)[1]
        return None

    async def _open(self, options: Options) -> Dedicated:
        link = Link(options, "leased")
        await self._keeper.start(link)
        return Dedicated(link, self._others)
