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

A snapshot that comes by the connection of the messages, in their order, is better:
what was held is in it, and a message that is not its successor is a sign at once. So a
message from before a flush cannot be taken for one of the new epoch. On a cluster, and
when that connection hangs, the snapshot comes by another road, and the rules above hold.

Who waits for a set of its own (`wait_for_set`) knows its revision N from the reply, which
comes by another connection than the messages: before them, after them, and perhaps from
another epoch. So N alone proves nothing. The wait is over

- when the message N has been applied and carries the key and the value that were set; if
  it carries something else, an epoch has ended, and a snapshot settles it;
- by a snapshot in order that is at N or above, if that message came before it;
- by a snapshot by the client's own link that is at N or above, if the reply came before
  it: both come by one connection, so the set was made before the snapshot was read;
- by any snapshot that was begun after the reply: it holds the set, or what came after. So
  it is also if the subscription was interrupted between the set and its reply.

An old message with the very same revision, key and value would end the wait too; then
the copy shows what was set all the same. Who waits for the state of the server (`sync`)
asks for the revision in its place among the messages (`check_state`), or waits for a
snapshot that is begun after that. So no wait hangs, and none is over early.

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
    """What happened to a map; merged notifications keep the greatest.

    Of several changes whose messages were lost, as in an outage, the server knows the last
    only: that one is told, DELETE at least if a key is gone, RESET if the map was lost. So a
    reset that was followed by a set there shows as the set, or as a DELETE.
    """

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


@attrs.frozen(kw_only=True)
class Position:
    """Where a replica stood when a command was sent: the server was at or past it."""

    epoch: int
    revision: int


@attrs.frozen(eq=False)
class PendingSet:
    """A set that somebody waits for; `heard` are the revisions of messages that look like it."""

    key: bytes
    value: bytes
    sent_at: Position
    gaps: int  # as many as there were when it was sent
    heard: list[int] = attrs.field(factory=list[int], init=False)


@attrs.frozen(order=True)
class _Waiter:
    revision: int
    number: int  # keeps the order of equal revisions, so that the rest is never compared
    epoch: int = attrs.field(order=False)
    snapshots_begun: int = attrs.field(order=False)
    release: Callable[[], None] = attrs.field(order=False)
    pending: PendingSet | None = attrs.field(order=False)


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
    _gaps: int = attrs.field(default=0, init=False)
    _snapshot_revision: int = attrs.field(default=0, init=False)
    _pending: dict[bytes, list[PendingSet]] = attrs.field(
        factory=dict[bytes, list[PendingSet]], init=False
    )
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
            self._note(message)
            self._hold(message)
        elif self.needs_snapshot:
            self._note(message)
            self._last_seen = message.revision
        else:
            key = decode_text(message.key)
            change = self._apply(message, key)
            if change is not None:
                if self._pending:
                    self._note(message)
                if self._waiters:
                    self._release_reached()
                self.on_change(change, key or None)

    def gap(self) -> None:
        """Messages may have been lost: a snapshot that was begun before this is void."""
        self._gaps += 1
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

    def check_state(self, revision: int) -> bool:
        """Compare with the server's revision at this place among the messages.

        Returns whether the replica is as the server was here; if not, a snapshot is needed.
        """
        if self.needs_snapshot or self._under_way:
            self.request_snapshot()  # what is under way may have been read before
        elif revision < self.revision:
            self.end_epoch()
        elif revision > self.revision:
            self.request_snapshot()
        return not self.needs_snapshot

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
        else:
            self._forget_heard()
        old_revision, old_keys = self.revision, self.values.keys() | self.undecodable.keys()
        self._take(fields)
        self._snapshot_revision = self.revision
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
        self._release_after_snapshot(number, in_order=in_order)
        change = max(change, self._apply_held())
        if in_order:
            self._last_seen = self.revision
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
            if change is not None:
                self._note(message)
                self._release_reached()
                strongest = max(strongest, change)
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

    def expect_set(self, key: bytes, value: bytes) -> PendingSet:
        """Look out for the message of a set that is about to be sent, until `forget_set`."""
        pending = PendingSet(key, value, self.position, self._gaps)
        self._pending.setdefault(key, []).append(pending)
        return pending

    def forget_set(self, pending: PendingSet) -> None:
        """Look out for it no more."""
        expected = self._pending[pending.key]
        expected.remove(pending)
        if not expected:
            del self._pending[pending.key]

    def _note(self, message: Message) -> None:
        for pending in self._pending.get(message.key, ()):
            if message.op is _SET and pending.value == message.value:
                pending.heard.append(message.revision)

    def _forget_heard(self) -> None:
        for expected in self._pending.values():
            for pending in expected:
                pending.heard.clear()

    def wait_for_set(self, pending: PendingSet, revision: int, release: Callable[[], None]) -> bool:
        """Return whether the set that was expected, and became commit `revision`, is here.

        If not, `release` is called once when it is, or when a later state is. It stays
        expected until then.
        """
        sent_at = pending.sent_at
        if sent_at.epoch == self.epoch and pending.gaps == self._gaps:
            was_heard = revision in pending.heard
            is_settled = not (self.needs_snapshot or self._under_way)
            if was_heard and is_settled and revision <= self.revision:
                return True
            if revision > max(self.revision, sent_at.revision):
                if not (was_heard and is_settled):
                    self._add_waiter(revision, release, pending)
                    return False
                # A snapshot that came after the message is below it: the server lost it.
            elif not was_heard and (
                revision <= sent_at.revision or revision > self._snapshot_revision
            ):
                # The server had counted on from there, or another message had this revision.
                self.end_epoch()
        self.wait_for_snapshot(release)
        return False

    def wait_for_state(self, revision: int, sent_at: Position, release: Callable[[], None]) -> None:
        """Call `release` when the state `revision` is here that a command sent at `sent_at` read.

        It is told by the revision alone: good enough for who only wants to know whether
        messages still come.
        """
        if sent_at.epoch == self.epoch and revision > self.revision:
            self._add_waiter(revision, release)
        else:
            self.wait_for_snapshot(release)

    def wait_for_snapshot(self, release: Callable[[], None]) -> None:
        """Call `release` when a snapshot has been applied that is begun after this."""
        self.request_snapshot()
        self._add_waiter(_BEYOND_ALL, release)

    def _add_waiter(
        self, revision: int, release: Callable[[], None], pending: PendingSet | None = None
    ) -> None:
        waiter = _Waiter(
            revision, next(self._numbers), self.epoch, self.snapshots_begun, release, pending
        )
        heapq.heappush(self._waiters, waiter)

    def release_all(self) -> None:
        """Let all waiters go, because the replica will follow no more."""
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            waiter.release()

    def _release_reached(self) -> None:
        while self._waiters and self._waiters[0].revision <= self.revision:
            waiter = heapq.heappop(self._waiters)
            if waiter.pending is None or waiter.revision in waiter.pending.heard:
                waiter.release()
            else:
                self.end_epoch()  # somebody else's commit had this revision
                self.wait_for_snapshot(waiter.release)

    def _release_after_snapshot(self, number: int, *, in_order: bool) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            pending = waiter.pending
            was_heard = pending is not None and waiter.revision in pending.heard
            is_reached = waiter.revision <= self.revision
            is_of_now = waiter.epoch == self.epoch and waiter.revision != _BEYOND_ALL
            if waiter.snapshots_begun < number or (
                is_of_now and is_reached and (was_heard or not in_order or pending is None)
            ):
                waiter.release()
            elif is_of_now and not is_reached and not (was_heard and in_order):
                heapq.heappush(self._waiters, waiter)
            else:  # the commit may be of another epoch, or lost: what is begun now settles it
                self.wait_for_snapshot(waiter.release)


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
