"""Tickers: intervals and cron specs that a whole pool shares, each tick for one receiver.

Theory of operation. The state is one entry in the map of tickers, which every
node has a copy of; there is no task. Whoever waits for a tick sleeps until the
entry is due or changes, then claims the tick in one script: moves the entry on
if it is still the one that was seen. The one who succeeds has the tick, the
others go on with what they find. Only those who wait claim, so a tick is not
lost because somebody was busy: it stays due until a receiver of the pool is
ready. A claim has a name of its own, so one whose reply was lost, or whose
waiter was cancelled, is asked for again and not lost.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import attrs
import trio
from redis.exceptions import ResponseError
from ulid import ULID

from terzetto.errors import ClosedError
from terzetto.pool._insist import insist
from terzetto.pool._ticks import Cadence, Entry, moment_of, read_entry
from terzetto.redis import LinkLostError

if TYPE_CHECKING:
    from terzetto.pool._actor import NodeActor
    from terzetto.pool._seat import Seat

_PAUSE = 1.0  # seconds before Redis is asked again after it refused


@attrs.frozen
class _Claim:
    seen: str
    following: str
    token: str


@attrs.define(eq=False, repr=False)
class Ticks:
    """The ticks that this node receives; one task waits for them."""

    _seat: "Seat"
    _full: str
    _cadence: Cadence
    _claim: _Claim | None = None
    _revision: int = 0
    _is_stopped: bool = False

    @property
    def is_stopped(self) -> bool:
        """Whether the ticker was stopped for the whole pool."""
        return self._is_stopped

    async def next(self) -> datetime | None:
        """Wait for the next tick; None once the ticker is stopped or the node closed."""
        while not self._is_stopped:
            try:
                life = await self._seat.wait_up()
            except ClosedError:
                break
            tick = await self._wait_tick(life)
            if tick is not None:
                return moment_of(tick.due_ns)
        return None

    async def stop(self) -> None:
        """Stop the ticker everywhere."""
        life = await self._seat.wait_up()
        await _repeat(life.tickers.delete, self._full)
        self._is_stopped = True

    async def begin(self) -> None:
        """Take over the entry that is there, or set one, if it was set otherwise."""
        life = await self._seat.wait_up()
        value = life.tickers.get(self._full)
        entry = None if value is None else read_entry(value)
        if entry is None or not self._cadence.has(entry):
            await _repeat(self._set_anew, life)
        else:
            await life.core.store.mark_ticker(self._full)
        self._revision = life.tickers.revision

    async def _wait_tick(self, life: "NodeActor") -> Entry | None:
        """Return the tick that was claimed; None if the life or the ticker ended."""
        tickers = life.tickers
        async with tickers.watch(self._full) as values:
            if self._claim is not None:
                tick, _ = await self._ask(life, self._claim)
                if tick is not None:
                    return tick
            value = await anext(values, None)
            while value is not None or await self._was_lost(life):
                self._revision = tickers.revision
                entry = None if value is None else read_entry(value)
                if value is None or entry is None:
                    await insist(self._set_anew, life)
                    value = tickers.get(self._full)
                    continue
                wait = (entry.due_ns - life.core.clock.now_ns()) / 1e9
                if wait <= 0:
                    following = entry.following(life.core.clock.now_ns())
                    self._claim = _Claim(value, following.encode(), str(ULID()))
                    tick, current = await self._ask(life, self._claim)
                    if tick is not None:
                        return tick
                    value = current  # the copy will follow
                    continue
                with trio.move_on_after(wait):
                    value = await anext(values, None)
        if not tickers.is_closed:
            self._is_stopped = True
        return None

    async def _ask(self, life: "NodeActor", claim: _Claim) -> tuple[Entry | None, str | None]:
        """Ask for a claimed tick until it is known whose it is: the tick, or the entry now."""
        while True:
            try:
                current = await life.core.store.tick(
                    self._full, claim.seen, claim.following, claim.token
                )
            except ResponseError:
                await trio.sleep(_PAUSE)
                continue
            self._claim = None
            if isinstance(current, str):
                return None, current
            return (read_entry(claim.seen) if current else None), None

    async def _was_lost(self, life: "NodeActor") -> bool:
        """Tell whether the entry is gone because Redis lost it, not because of a stop.

        Redis is asked, for the copy may not have heard of it yet, and others may have
        written since.
        """
        if life.tickers.is_closed or life.core.is_shutting_down:
            return False
        return await insist(life.core.store.has_lost_ticker, self._full, self._revision)

    async def _set_anew(self, life: "NodeActor") -> None:
        await life.core.store.mark_ticker(self._full)
        entry = self._cadence.first(life.core.clock.now_ns()).encode()
        await life.tickers.set_and_wait(self._full, entry)


@attrs.frozen(eq=False, repr=False)
class Ticker:
    """The ticks of the pool that this node receives; made by `Node.open_ticker`.

    Iterate it, in one task: each tick is the time at which it was due. Ticks do
    not queue; those that nobody was ready for are one when somebody is.

    Attributes:
        name: what it is called in the pool.
    """

    name: str
    _ticks: Ticks

    def __repr__(self) -> str:
        return f"<Ticker {self.name!r}{' stopped' if self.is_stopped else ''}>"

    @property
    def is_stopped(self) -> bool:
        """Whether the ticker was stopped for the whole pool."""
        return self._ticks.is_stopped

    def __aiter__(self) -> "Ticker":
        return self

    async def __anext__(self) -> datetime:
        """Wait for the next tick that is this node's; a cancelled wait loses none.

        The iteration ends when the ticker is stopped, or the node is closed.
        """
        tick = await self._ticks.next()
        if tick is None:
            raise StopAsyncIteration
        return tick

    async def stop(self) -> None:
        """Stop the ticker everywhere.

        Cancelling leaves it open whether it was stopped; it can be done again.

        Raises:
            ClosedError: the node is closed.
        """
        await self._ticks.stop()


async def _repeat(write: Callable[..., Awaitable[object]], *args: object) -> None:
    """Write to the map until it is known to have happened; doing it twice does no harm."""
    while True:
        with suppress(LinkLostError):
            await write(*args)
            return
