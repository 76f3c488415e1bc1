"""What a map's face and its actor share: the replica, the slots, and the road to Redis.

A core lives as long as the face, over all restarts of the actor. The actor feeds it
from Redis (`_actor`); the face reads it and writes through it (`_map`). Everything
here runs in the one trio thread, and nothing but `run` waits.
"""

import time
from collections.abc import Awaitable
from typing import Any, Final, Generic, TypeVar

import attrs
import trio

from terzetto._shared._logging import Logger
from terzetto.actor import Ref
from terzetto.errors import ClosedError, InvalidOptionError
from terzetto.redis import Redis, Reply, Script, Subscription
from terzetto.rmap._keys import REVISION_FIELD, encode_text
from terzetto.rmap._replica import Change, Position, Replica, revision_of
from terzetto.rmap._slots import Slot

V = TypeVar("V")

MAX_EXPIRY: Final = 9_223_372_036
"""The longest expiry, in seconds: what the Go peers can hold too."""


@attrs.frozen(kw_only=True)
class Expiry:
    """When the server drops the map's content, as the scripts are told."""

    seconds: int = 0
    is_sliding: bool = False

    @classmethod
    def of(cls, ttl: float, *, sliding: bool) -> "Expiry":
        """Cut `ttl`, in seconds, to whole ones, but at least one; 0 is none.

        Raises:
            InvalidOptionError: it is negative, not a number, or beyond 292 years.
        """
        if not 0 <= ttl <= MAX_EXPIRY:
            raise InvalidOptionError(
                f"ttl is {ttl}: give seconds from 0 (no expiry) to {MAX_EXPIRY}"
            )
        return cls(seconds=max(1, int(ttl)) if ttl else 0, is_sliding=sliding)

    @property
    def args(self) -> tuple[int, str]:
        """ARGV[2] and ARGV[3] of every script."""
        return self.seconds, "sliding" if self.is_sliding else "absolute"


@attrs.define(kw_only=True, eq=False)
class Core(Generic[V]):
    """The state of one map in this process."""

    name: str
    redis: Redis
    content_key: str
    channel: str
    expiry: Expiry
    log: Logger
    replica: Replica[V]
    _keys: tuple[bytes, ...] = attrs.field(init=False)
    _first_args: tuple[bytes, ...] = attrs.field(init=False)
    ref: Ref[Any] | None = attrs.field(default=None, init=False)
    slots: dict[Slot[object], None] = attrs.field(factory=dict[Slot[object], None], init=False)
    snapshot_wanted: trio.Event = attrs.field(factory=trio.Event, init=False)
    is_frozen: bool = attrs.field(default=False, init=False)
    is_unanswered: bool = attrs.field(default=False, init=False)
    subscription: Subscription | None = attrs.field(default=None, init=False)
    certain_at: float = attrs.field(factory=time.time, init=False)

    def __attrs_post_init__(self) -> None:
        """Put together what every script is told first."""
        self._keys = (encode_text(self.content_key),)
        seconds, mode = self.expiry.args
        self._first_args = (encode_text(self.channel), b"%d" % seconds, mode.encode())

    # --- from the actor -----------------------------------------------------------------

    def post(self, change: Change, key: str | None) -> None:
        """Tell everybody who waits."""
        for slot in self.slots:
            slot.post(change, key)

    def note_certain(self) -> None:
        """The replica has just heard from the server: it is up to date, or needs a snapshot."""
        self.is_unanswered = False
        if self.replica.needs_snapshot:
            self.snapshot_wanted.set()
        else:
            self.certain_at = time.time()

    def thaw(self) -> None:
        """Follow the server again, after the actor was started anew."""
        self.is_frozen = False

    def freeze(self) -> None:
        """Keep the content as it is, readable, and let all who wait go."""
        if not self.is_frozen:
            self.is_frozen = True
            self.replica.release_all()
            for slot in self.slots:
                slot.end()

    # --- from the face ------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether nobody feeds the replica any more."""
        return self.is_frozen or (self.ref is not None and self.ref.is_stopped)

    @property
    def stale_since(self) -> float | None:
        """Unix time since which changes may have been missed; None while exact."""
        is_certain = not (
            self.is_closed
            or self.is_unanswered
            or self.replica.needs_snapshot
            or self.redis.state != "connected"
            or self.subscription is None
            or not self.subscription.is_subscribed
        )
        return None if is_certain else self.certain_at

    def check_open(self) -> None:
        """Refuse what a frozen map cannot do.

        Raises:
            ClosedError: the map was left.
        """
        if self.is_closed:
            raise ClosedError(
                f"the map {self.name!r} was left: join it again to go on "
                "(what was read stays readable, and reset and destroy still work)"
            )

    def run(self, script: Script, *args: bytes | int) -> Awaitable[Reply]:
        """Run a script on the map; only what this returns waits for Redis."""
        return self.redis.run_script(script, keys=self._keys, args=(*self._first_args, *args))

    async def wait_for_commit(self, revision: int, sent_at: Position) -> None:
        """Wait until the replica holds the commit `revision`, or a later state.

        Raises:
            ClosedError: the map was left meanwhile.
        """
        reached = trio.Event()
        is_here = self.replica.wait_for_revision(revision, sent_at, reached.set)
        await self._wait(reached, is_here=is_here)

    async def sync(self) -> None:
        """Wait until the replica holds all that was committed before this call.

        Raises:
            ClosedError: the map was left meanwhile.
        """
        sent_at = self.replica.position
        revision = await self.read_revision()
        reached = trio.Event()
        is_here = self.replica.wait_for_state(revision, sent_at, reached.set)
        await self._wait(reached, is_here=is_here)

    async def _wait(self, reached: trio.Event, *, is_here: bool) -> None:
        if is_here or self.is_closed:
            await trio.lowlevel.checkpoint()
        else:
            if self.replica.needs_snapshot:
                self.snapshot_wanted.set()
            await reached.wait()
        self.check_open()

    async def read_revision(self) -> int:
        """Return the server's revision of the map."""
        stored: bytes | None = await self.redis.execute("HGET", self.content_key, REVISION_FIELD)
        return revision_of({REVISION_FIELD: stored} if stored else {})
