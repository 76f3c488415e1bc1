"""A lock that many processes share, with a fencing token.

Theory of operation
-------------------
The lock is a hash with an owner and an expiry. While the block is open a
background task renews it, three times within its life. One that fails, because
Redis refuses it or the connection is lost, is tried again soon. If a renewal finds
another owner, or none succeeds before the life is over by our own clock, the
block is cancelled: somebody else may hold the lock now.

No lock that expires keeps a paused process from acting late. So each holder
has a token, greater than all before it: whatever the lock protects compares
it with the greatest it has seen, and refuses a lower one. A token is the
server's time in microseconds, or one more than the last one if that is greater;
so tokens grow on where a fail-over has lost the last one.

A lost connection does no harm: taking, renewing and giving back are done for
one owner and may be repeated. Opened by `Redis.open_lock`.
"""

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._names import check_name
from terzetto.errors import InvalidNameError, InvalidOptionError, TerzettoError
from terzetto.redis._errors import LinkLostError
from terzetto.redis._script import Script

if TYPE_CHECKING:
    from terzetto.redis._client import Redis

RunForBlock = Callable[[Callable[[], Awaitable[None]]], AbstractAsyncContextManager[None]]

_ACQUIRE: Final = Script.load("terzetto.redis", "lua/lock_acquire.lua")
_RENEW: Final = Script.load("terzetto.redis", "lua/lock_renew.lua")
_RELEASE: Final = Script.load("terzetto.redis", "lua/lock_release.lua")

_RENEWALS: Final = 3  # in the life of a lock
_RETRIES: Final = 30  # in the same time, of one that failed
_RELEASE_GRACE: Final = 2.0  # seconds to give a lock back, also when cancelled
_LONGEST_LIFE: Final = 10**9  # seconds; Redis counts milliseconds, and not without end


class LockLostError(TerzettoError):
    """The lock was lost while the block was running: somebody else may hold it now.

    Its cause is the last refusal of a renewal, if that is why.
    """


@attrs.frozen(kw_only=True)
class Lock:
    """A lock that is held.

    Attributes:
        name: its name.
        token: greater than the token of every earlier holder of this name; also after a
            fail-over that lost it, as long as the servers' clocks differ by less than that took.
        owner: who holds it: a random text of this holder's own.
    """

    name: str
    token: int
    owner: str


@attrs.define(kw_only=True)
class _Holder:
    redis: "Redis"
    name: str
    ttl: float
    owner: str = attrs.field(factory=lambda: secrets.token_hex(16))
    error: RedisError | None = None  # of the last renewal

    @property
    def key(self) -> str:
        return f"terzetto:lock:{{{self.name}}}"

    @property
    def fence(self) -> str:
        return f"terzetto:lock:{{{self.name}}}:fence"

    @property
    def channel(self) -> str:
        return f"terzetto:lock:{self.name}:released"

    @property
    def ttl_ms(self) -> int:
        return max(1, round(self.ttl * 1000))

    async def acquire(self) -> tuple[int, float]:
        """Wait for the lock; return the token, and until when the lock surely lives."""
        token, until = await self._try()
        if token:
            return token, until
        async with self.redis.subscribe(self.channel, buffer_size=1) as released:
            while True:
                token, until = await self._try()
                if token:
                    return token, until
                with trio.CancelScope(deadline=until):
                    await anext(released)

    async def _try(self) -> tuple[int, float]:
        """Return the token, or 0, and until when the lock lives."""
        while True:
            asked = trio.current_time()
            try:
                done, value = await self.redis.run_script(
                    _ACQUIRE, keys=[self.key, self.fence], args=[self.owner, self.ttl_ms]
                )
            except LinkLostError:
                continue  # ask again: if it has run, the lock is ours
            if done:
                return value, asked + self.ttl
            return 0, trio.current_time() + max(value, 1) / 1000

    async def renew(self, until: float, scope: trio.CancelScope) -> None:
        """Renew until cancelled; cancel `scope` when the lock is lost."""
        pause = self.ttl / _RENEWALS
        while (left := until - trio.current_time()) > 0:
            await trio.sleep(min(left, pause))
            asked = trio.current_time()
            with trio.CancelScope(deadline=until):
                try:
                    if not await self.redis.run_script(
                        _RENEW, keys=[self.key], args=[self.owner, self.ttl_ms]
                    ):
                        break
                    until, pause = asked + self.ttl, self.ttl / _RENEWALS
                    self.error = None
                except RedisError as error:
                    self.error, pause = error, self.ttl / _RETRIES
        scope.cancel()

    async def release(self) -> None:
        """Give the lock back, as far as that is possible; else it expires."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _RELEASE_GRACE):
            while True:
                try:
                    await self.redis.run_script(
                        _RELEASE, keys=[self.key], args=[self.owner, self.channel]
                    )
                except LinkLostError:
                    continue
                except RedisError:
                    return  # it expires by itself
                return


@asynccontextmanager
async def open_lock(
    redis: "Redis", run_for_block: RunForBlock, name: str, ttl: float
) -> AsyncGenerator[Lock, None]:
    """Hold a lock for the time of a block; see `Redis.open_lock`."""
    check_name("lock", name)
    if name.startswith("}"):  # its keys would have no slot in common
        raise InvalidNameError(f"{name!r} cannot name a lock: let it not start with a brace")
    if not 0 < ttl <= _LONGEST_LIFE:
        raise InvalidOptionError(
            f"ttl is {ttl}: it has to be seconds, greater than 0 and at most {_LONGEST_LIFE}"
        )
    holder = _Holder(redis=redis, name=name, ttl=ttl)
    try:
        token, until = await holder.acquire()
        with trio.CancelScope() as scope:
            async with run_for_block(partial(holder.renew, until, scope)):
                yield Lock(name=name, token=token, owner=holder.owner)
        if scope.cancelled_caught:
            raise LockLostError(
                f"the lock {name!r} was lost while the block was running: its work may overlap"
                " with that of the next holder; compare fencing tokens where that matters"
            ) from holder.error
    finally:
        await holder.release()
