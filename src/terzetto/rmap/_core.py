"""What a map's face and its actor share: the replica, the slots, and the road to Redis.

A core lives as long as the face, over all restarts of the actor. The actor feeds it
from Redis (`_actor`); the face reads it and writes through it (`_map`). Everything
here runs in the one trio thread, and nothing but `run` waits.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar, cast

import attrs
import trio

from terzetto._shared._logging import Logger
from terzetto.actor import Ref
from terzetto.errors import ClosedError, InvalidOptionError
from terzetto.redis import Redis, Reply, Script, Subscription
from terzetto.rmap._keys import REVISION_FIELD, encode_text
from terzetto.rmap._replica import Change, PendingSet, Replica, revision_of
from terzetto.rmap._slots import Slot

V = TypeVar("V")

PATIENCE: Final = 1.0
"""Seconds to wait for an answer by the messages' connection, and for messages under way."""

MAX_EXPIRY: Final = 9_223_372_036
"""The longest expiry, in seconds: what the Go peers can hold too."""


def check_number(name: str, value: object) -> None:
    """Refuse what is no number of seconds.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class Expiry:
    """When the server drops the map's content, as the scripts are told."""

    seconds: int = 0
    is_sliding: bool = False

    @classmethod
    def of(cls, ttl: float, *, sliding: bool) -> "Expiry":
        """Cut `ttl`, in seconds, to whole ones, but at least one; 0 is none.

        Raises:
            InvalidOptionError: it is negative, NaN, or beyond 292 years, or there is
                nothing that could slide.
            TypeError: it is no number.
        """
        check_number("ttl", ttl)
        if sliding and not ttl:
            raise InvalidOptionError("sliding=True without ttl: give the seconds to slide by")
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
    """The state of one map in this process.

    Attributes:
        is_unanswered: a question by the messages' connection is overdue, or the map
            cannot be read: whether the copy is exact is open.
        deaf_until: the question whose answer ends a time in which what that connection
            brings is not listened to; None while it is.
    """

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
    deaf_until: object | None = attrs.field(default=None, init=False)
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
        """The server has just shown that the replica is exact, or needs a snapshot."""
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

    async def wait_for_set(self, pending: PendingSet, revision: int) -> None:
        """Wait until the replica holds the set that became commit `revision`, or a later state.

        Raises:
            ClosedError: the map was left meanwhile.
        """
        reached = trio.Event()
        is_here = self.replica.wait_for_set(pending, revision, reached.set)
        await self._wait(reached, is_here=is_here)

    async def sync(self) -> None:
        """Wait until the replica holds all that was committed before this call.

        It asks by the connection of the messages, for what they are is known only in
        their order. Where that does not answer, the map is read again.

        Raises:
            ClosedError: the map was left meanwhile.
            redis.exceptions.ResponseError: the server does not let the map be read.
        """
        here, answered, settled = trio.Event(), trio.Event(), trio.Event()

        def take(reply: Reply) -> None:
            if isinstance(reply, list):
                answered.set()
                if self.deaf_until is None and self.take_revision(cast("Reply", reply)):
                    here.set()
                else:
                    self.replica.wait_for_snapshot(here.set)
            settled.set()

        if self.ask_revision(take):
            with trio.move_on_after(PATIENCE):
                await settled.wait()
            if not settled.is_set():
                self.is_unanswered = True
        if not answered.is_set():
            await self.read_revision()  # what the server has against it is raised
            self.replica.wait_for_snapshot(here.set)
        await self._wait(here, is_here=here.is_set())

    def ask_revision(self, take: Callable[[Reply], None]) -> bool:
        """Ask for the revision by the messages' connection, unless it is known not to answer.

        Returns whether there may be an answer; `take` gets it, in its place among them.
        """
        return (
            self.subscription is not None
            and not self.is_unanswered
            and self.subscription.ask("HMGET", self.content_key, REVISION_FIELD, on_reply=take)
        )

    def take_revision(self, reply: Reply) -> bool:
        """Use the answer to `ask_revision`; return whether the replica is as the server was."""
        (stored,) = cast("list[bytes | None]", reply)
        is_exact = self.replica.check_state(revision_of({REVISION_FIELD: stored} if stored else {}))
        self.note_certain()
        return is_exact

    async def _wait(self, reached: trio.Event, *, is_here: bool) -> None:
        if is_here or self.is_closed:
            await trio.lowlevel.checkpoint()
        else:
            if self.replica.needs_snapshot:
                self.snapshot_wanted.set()
            await reached.wait()
        self.check_open()

    async def read_revision(self) -> int:
        """Return the server's revision of the map, read by the client's own link."""
        stored: bytes | None = await self.redis.execute_at_master(
            "HGET", self.content_key, REVISION_FIELD
        )
        return revision_of({REVISION_FIELD: stored} if stored else {})
