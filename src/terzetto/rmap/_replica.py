"""The pure heart of a map: the local copy, and what each message and snapshot does to it.

Theory of operation
-------------------

The server numbers the commits of a map 1, 2, 3, … and publishes each on the map's
channel, in that order. A replica takes a *snapshot* (the whole hash, with its
revision S), then applies the messages above S one by one. It stays exact as long
as it knows of a message that went missing and of a count that began again (the
hash expired, was flushed, or a failover lost it): a new *epoch*. The signs are

- the subscription was interrupted (`gap`);
- a message skips a revision above the replica's own: something was lost;
- a message is not above the last one on the same subscription: a new epoch;
- the first message on a subscription is revision 1 although the replica is already
  at 1 or above: a new epoch (messages at or below S are otherwise expected there,
  for they were published before the snapshot was read);
- the server's revision, read now and then, is below ours (a new epoch) or stays
  above it (messages were lost without a sign).

Each makes `needs_snapshot` true, and no message is applied until there is one. The
owner then calls `begin_snapshot`, reads the hash, and hands it to `apply_snapshot`;
one snapshot is under way at a time. Messages that arrive meanwhile are held and
applied on top by the same rules, which may ask for a further snapshot; it covers all
messages that came before it was begun. Nothing else changes `values`: between two
calls it is what the server had at `revision`.

Waiters (`wait_for_revision`) are released when the revision is reached in the epoch
of their commit, or by a snapshot that was begun after their commit: it holds the
commit, or what came after. So they neither hang nor return early.

A snapshot that comes by the connection of the messages, in their order, is better:
what was held is in it, and a message that is not its successor is a sign at once. So a
message from before a flush cannot be taken for one of the new epoch. On a cluster, and
when that connection hangs, the snapshot comes by another road, and the rules above hold.

Invariants: `values` is one dict for the replica's life; within an epoch `revision`
never falls; `on_change` runs after the state has changed, once a message and once
a snapshot. No trio and no Redis here. Fed by `_actor`, read by `_core` and `_typed`.
"""

import heapq
import itertools
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Generic, TypeVar

import attrs

from terzetto._shared._encoding import decode_text
from terzetto.errors import InvalidPayloadError
from terzetto.rmap._keys import KIND_FIELD, REVISION_FIELD
from terzetto.rmap._message import Message, Op, decode_message, decode_revision

V = TypeVar("V")


class Change(IntEnum):
    """What happened to a map; merged notifications keep the greatest."""

    SET = 1
    """Values were set."""
    DELETE = 2
    """Keys were deleted, and values may have been set."""
    RESET = 3
    """The map was reset, destroyed or lost by the server; anything may have changed."""


_CHANGES = {
    b"set": Change.SET,
    b"del": Change.DELETE,
    b"reset": Change.RESET,
    b"destroy": Change.RESET,
}
_SET, _SET_CHANGE = Op.SET, Change.SET  # looked up once: messages are many
_BOOKKEEPING = frozenset({REVISION_FIELD, KIND_FIELD})
_BEYOND_ALL = 2**64  # one more than a revision can be

MAX_HELD = 100_000
"""Messages kept while a snapshot is under way; past that a second snapshot replaces them."""


@attrs.frozen(order=True)
class _Waiter:
    revision: int
    number: int  # keeps the order of equal revisions, so that the rest is never compared
    epoch: int = attrs.field(order=False)
    snapshots_begun: int = attrs.field(order=False)
    release: Callable[[], None] = attrs.field(order=False)


@attrs.frozen(kw_only=True)
class Position:
    """Where a replica stood when a command was sent: the server was at or past it."""

    epoch: int
    revision: int


@attrs.define(kw_only=True, eq=False)
class Replica(Generic[V]):
    """A copy of one map that follows the server; see the module's theory of operation.

    Attributes:
        decode: makes a value of the stored bytes; raises `InvalidPayloadError`.
        on_change: told what changed, and which key (None: any).
        on_malformed: told of bytes on the channel that are no message.
        values: the keys and values that can be read.
        undecodable: the stored bytes of the keys that `decode` refused.
    """

    decode: Callable[[bytes], V]
    on_change: Callable[[Change, str | None], None]
    on_malformed: Callable[[bytes, InvalidPayloadError], None]
    values: dict[str, V] = attrs.field(factory=dict[str, V], init=False)
    undecodable: dict[str, bytes] = attrs.field(factory=dict[str, bytes], init=False)
    revision: int = attrs.field(default=0, init=False)
    epoch: int = attrs.field(default=0, init=False)
    needs_snapshot: bool = attrs.field(default=True, init=False)
    snapshots_begun: int = attrs.field(default=0, init=False)
    snapshots_applied: int = attrs.field(default=0, init=False)
    _last_seen: int | None = attrs.field(default=None, init=False)
    _epoch_ended: bool = attrs.field(default=False, init=False)
    _held: list[Message] = attrs.field(factory=list[Message], init=False)
    _held_dropped: bool = attrs.field(default=False, init=False)
    _under_way: bool = attrs.field(default=False, init=False)
    _waiters: list[_Waiter] = attrs.field(factory=list[_Waiter], init=False)
    _numbers: "itertools.count[int]" = attrs.field(factory=itertools.count, init=False)

    @property
    def position(self) -> Position:
        """Where the replica stands now; take it before a command is sent."""
        return Position(epoch=self.epoch, revision=self.revision)

    # --- what arrives -------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take one message from the channel, in the order of the channel."""
        try:
            message = decode_message(data)
        except InvalidPayloadError as error:
            self.on_malformed(data, error)
            return
        if message.key in _BOOKKEEPING:
            return
        if self._under_way:
            self._hold(message)
        elif self.needs_snapshot:
            self._last_seen = message.revision
        else:
            key = decode_text(message.key)
            change = self._apply(message, key)
            if change is not None:
                if self._waiters:
                    self._release_reached()
                self.on_change(change, key or None)

    def gap(self) -> None:
        """Messages may have been lost: a snapshot that was begun before this is void."""
        self._held.clear()
        self._under_way = False
        self._last_seen = None
        self.needs_snapshot = True

    def check_revision(self, revision: int, sent_at: Position) -> bool:
        """Compare with a revision that the server reported to a request sent at `sent_at`.

        Returns whether the replica is at or past `revision`. A revision below the
        replica's own means a new epoch, and a snapshot is needed.
        """
        if sent_at.epoch == self.epoch and revision < sent_at.revision:
            self.end_epoch()
        return self.revision >= revision

    def check_state(self, revision: int) -> None:
        """Compare with the server's revision at this place among the messages."""
        if self.needs_snapshot:
            return
        if revision < self.revision:
            self.end_epoch()
        elif revision > self.revision:
            self.request_snapshot()

    def end_epoch(self) -> None:
        """The server counts anew, or may: take a snapshot."""
        self._epoch_ended = True
        self.needs_snapshot = True

    def request_snapshot(self) -> None:
        """Take a snapshot, for messages were lost without a sign."""
        self.needs_snapshot = True

    # --- snapshots ----------------------------------------------------------------------

    def begin_snapshot(self) -> int:
        """Return the number of a snapshot that is about to be read from the server.

        It takes the place of one that is under way.
        """
        self._drop_held()
        self._under_way = True
        self.snapshots_begun += 1
        return self.snapshots_begun

    def apply_snapshot(
        self, number: int, fields: Mapping[bytes, bytes], *, in_order: bool = False
    ) -> None:
        """Replace the content by the hash's `fields`, then apply what was held meanwhile.

        One that came `in_order` with the messages, by their own connection, holds all
        that was held, and every later message is a later change.

        Subscribers hear of it once, but for the first snapshot of all. A snapshot
        from before a gap is dropped; `needs_snapshot` stays true then, as it does when
        the held messages show that a further one is needed.
        """
        if not self._under_way or number != self.snapshots_begun:
            return
        first = self.snapshots_applied == 0
        if in_order:
            self._held.clear()
            self._held_dropped = False
        old_revision, old_keys = self.revision, self.values.keys() | self.undecodable.keys()
        self._take(fields)
        new_epoch = self._epoch_ended or self.revision < old_revision
        if new_epoch:
            self.epoch += 1
        self._epoch_ended = False
        self.needs_snapshot = False
        self.snapshots_applied += 1
        change = _change_of_snapshot(
            fields,
            risen=self.revision > old_revision,
            new_epoch=new_epoch,
            deleted=any(k not in self.values and k not in self.undecodable for k in old_keys),
        )
        change = max(change, self._apply_held())
        if in_order:
            self._last_seen = self.revision
        self._release_after_snapshot(number)
        if not first:
            self.on_change(change, None)

    def _take(self, fields: Mapping[bytes, bytes]) -> None:
        values: dict[str, V] = {}
        undecodable: dict[str, bytes] = {}
        decode = self.decode
        for stored_key, value in fields.items():
            key = stored_key.decode("utf-8", "surrogateescape")  # decode_text, without the call
            try:
                values[key] = decode(value)
            except InvalidPayloadError:
                undecodable[key] = value
        for field in (REVISION_FIELD, KIND_FIELD):
            values.pop(decode_text(field), None)
            undecodable.pop(decode_text(field), None)
        # Only now, so that a codec with a bug leaves the copy as it was.
        self.values.clear()
        self.values.update(values)
        self.undecodable.clear()
        self.undecodable.update(undecodable)
        self.revision = revision_of(fields)

    # --- messages -----------------------------------------------------------------------

    def _hold(self, message: Message) -> None:
        if len(self._held) >= MAX_HELD:
            self._drop_held()
            self._held_dropped = True
        self._held.append(message)

    def _drop_held(self) -> None:
        if self._held:
            self._last_seen = self._held[-1].revision
            self._held.clear()
        self._held_dropped = False

    def _apply_held(self) -> Change:
        strongest = Change.SET
        self._under_way = False
        if self._held_dropped:
            self.needs_snapshot = True
        for message in self._held:
            if self.needs_snapshot:
                break
            change = self._apply(message, decode_text(message.key))
            strongest = max(strongest, change or Change.SET)
        self._drop_held()
        return strongest

    def _apply(self, message: Message, key: str) -> Change | None:
        """Apply a message about `key` if its turn has come; None if it changed nothing."""
        revision, last_seen = message.revision, self._last_seen
        self._last_seen = revision
        if revision <= last_seen if last_seen is not None else revision <= 1 <= self.revision:
            self.end_epoch()
            return None
        if revision <= self.revision:
            return None
        if revision > self.revision + 1:
            self.request_snapshot()
            return None
        if message.op is _SET:
            change = _SET_CHANGE
            self._set(key, message.value)
        elif message.op is Op.DELETE:
            change = Change.DELETE
            self.values.pop(key, None)
            self.undecodable.pop(key, None)
        else:
            change = Change.RESET
            self.values.clear()
            self.undecodable.clear()
        self.revision = revision
        return change

    def _set(self, key: str, stored: bytes) -> None:
        try:
            value = self.decode(stored)
        except InvalidPayloadError:
            self.values.pop(key, None)
            self.undecodable[key] = stored
        else:
            if self.undecodable:
                self.undecodable.pop(key, None)
            self.values[key] = value

    # --- waiters ------------------------------------------------------------------------

    def wait_for_revision(
        self, revision: int, sent_at: Position, release: Callable[[], None]
    ) -> bool:
        """Return whether the commit `revision`, of a command sent at `sent_at`, is here.

        If not, `release` is called once when it is, or when a later state is.
        """
        if sent_at.epoch != self.epoch:
            self._release_by_snapshot(release)  # the commit may be of either epoch
            return False
        if revision <= sent_at.revision:
            self.end_epoch()  # the server had counted on from there
            self._release_by_snapshot(release)
            return False
        return self._is_here(revision, release)

    def wait_for_state(self, revision: int, sent_at: Position, release: Callable[[], None]) -> bool:
        """Return whether the state `revision`, read by a command sent at `sent_at`, is here.

        As `wait_for_revision`, but nothing was committed: the server may stand still.
        """
        if revision < sent_at.revision or sent_at.epoch != self.epoch:
            return self.wait_for_revision(revision, sent_at, release)
        if revision <= self.revision and self.needs_snapshot:
            self._release_by_snapshot(release)  # it may be a revision of a new epoch
            return False
        return self._is_here(revision, release)

    def _is_here(self, revision: int, release: Callable[[], None]) -> bool:
        if revision > self.revision:
            self._add_waiter(revision, release)
            return False
        return True

    def _release_by_snapshot(self, release: Callable[[], None]) -> None:
        self.request_snapshot()
        self._add_waiter(_BEYOND_ALL, release)

    def _add_waiter(self, revision: int, release: Callable[[], None]) -> None:
        waiter = _Waiter(revision, next(self._numbers), self.epoch, self.snapshots_begun, release)
        heapq.heappush(self._waiters, waiter)

    def release_all(self) -> None:
        """Let all waiters go, because the replica will follow no more."""
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            waiter.release()

    def _release_reached(self) -> None:
        while self._waiters and self._waiters[0].revision <= self.revision:
            heapq.heappop(self._waiters).release()

    def _release_after_snapshot(self, number: int) -> None:
        waiting: list[_Waiter] = []
        for waiter in self._waiters:
            reached = waiter.epoch == self.epoch and waiter.revision <= self.revision
            if reached or waiter.snapshots_begun < number:
                waiter.release()
            else:
                waiting.append(waiter)
                if waiter.epoch != self.epoch or waiter.revision == _BEYOND_ALL:
                    self.request_snapshot()  # begun after their commits, it releases them
        heapq.heapify(waiting)
        self._waiters = waiting


def revision_of(fields: Mapping[bytes, bytes]) -> int:
    """Return the revision that a hash's fields hold; 0 if it is missing or unreadable."""
    try:
        return decode_revision(fields.get(REVISION_FIELD, b""))
    except InvalidPayloadError:
        return 0


def _change_of_snapshot(
    fields: Mapping[bytes, bytes], *, risen: bool, new_epoch: bool, deleted: bool
) -> Change:
    """Return the strongest change that a snapshot stands for."""
    if new_epoch:
        return Change.RESET
    kind = fields.get(KIND_FIELD, b"") if risen else b""
    return max(_CHANGES.get(kind, Change.SET), Change.DELETE if deleted else Change.SET)
