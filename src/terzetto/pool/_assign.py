"""Who is alive, who is on the ring, who owns a key, and what must move.

Pure. The pool's maps say when each worker last gave a sign of life, by its own
clock; comparing that with ours would let skewed clocks bury the living and keep
the dead. So a `Pulse` watches when a value *changes* and measures from there on
the monotonic clock of this process. What it has not yet seen change is judged
at first sight by the time it holds, which may only keep work away from it: it
is held for dead only after a whole TTL of silence while we were watching.

Theory of operation of `Pulse`, for each id:

    unseen --observe--> fresh or stale (by the value's own time)
    fresh  --TTL without a change--> silent
    stale  --TTL without a change--> silent
    any    --value changes--> fresh
    any    --forgive (we were deaf ourselves)--> timer starts again, now or later
    any    --credit (we were deaf for a while)--> timer runs on that much later

`fresh` may be routed to; only `silent` may be buried.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import attrs

from terzetto.pool._ring import Member, place

REMOVING = "-"
"""The value in `workers` of a worker that is leaving."""


def parse_time(value: str | None) -> int | None:
    """Return a decimal time of the wire, or None if it is not one."""
    if value is None or not value.isascii() or not value.isdigit():
        return None
    return int(value)


@attrs.define
class _Sign:
    value: str
    changed_at: float
    stale: bool


@attrs.define
class Pulse:
    """Signs of life of peers, timed by our own monotonic clock (seconds)."""

    ttl: float
    _signs: dict[str, _Sign] = attrs.field(factory=dict[str, _Sign])

    def observe(self, values: Mapping[str, str], *, now: float, wall_ns: int) -> None:
        """Take in the whole keep-alive map as it stands.

        Args:
            values: id to the text of its last sign.
            now: the monotonic time.
            wall_ns: the time by the clock that the signs are written with,
                for those seen for the first time.
        """
        for gone in self._signs.keys() - values.keys():
            del self._signs[gone]
        for peer, value in values.items():
            sign = self._signs.get(peer)
            if sign is None:
                written = parse_time(value)
                stale = written is None or wall_ns - written > self.ttl * 1e9
                self._signs[peer] = _Sign(value, now, stale)
            elif sign.value != value:
                # Who was forgiven beyond now keeps that: this may be an old sign, heard late.
                sign.value, sign.stale = value, False
                sign.changed_at = max(sign.changed_at, now)

    def forgive(self, since: float) -> None:
        """Start every timer again at `since`, now or later: we could not have heard anybody."""
        for sign in self._signs.values():
            sign.changed_at = max(sign.changed_at, since)

    def credit(self, seconds: float, now: float) -> None:
        """Leave out `seconds` of everybody's silence: we were not listening."""
        for sign in self._signs.values():
            sign.changed_at = max(sign.changed_at, min(now, sign.changed_at + seconds))

    def is_fresh(self, peer: str, now: float) -> bool:
        """Tell whether `peer` has given a sign within the TTL."""
        sign = self._signs.get(peer)
        return sign is not None and not sign.stale and now - sign.changed_at <= self.ttl

    def is_silent(self, peer: str, now: float) -> bool:
        """Tell whether `peer` has been silent for a TTL while we were listening."""
        sign = self._signs.get(peer)
        return sign is not None and now - sign.changed_at > self.ttl

    def value(self, peer: str) -> str | None:
        """Return the sign that was last seen of `peer`, for a compare-and-set."""
        sign = self._signs.get(peer)
        return None if sign is None else sign.value

    def peers(self) -> list[str]:
        """Return the ids of all that have an entry."""
        return sorted(self._signs)

    def next_change(self, now: float) -> float | None:
        """Return in how many seconds the next sign runs out, or None."""
        waits = [
            wait for sign in self._signs.values() if (wait := sign.changed_at + self.ttl - now) >= 0
        ]
        return min(waits, default=None)


def ring_of(
    workers: Mapping[str, str],
    signs: Pulse,
    locks: Pulse,
    now: float,
) -> tuple[Member, ...]:
    """Return the active workers in the order of the ring.

    Args:
        workers: worker id to creation ns, or `REMOVING`.
        signs: the workers' keep-alives.
        locks: the clean-up locks; a young one takes a worker off the ring.
        now: the monotonic time.
    """
    return tuple(
        sorted(
            Member(created, worker_id)
            for worker_id, value in workers.items()
            if (created := parse_time(value)) is not None
            and signs.is_fresh(worker_id, now)
            and not locks.is_fresh(worker_id, now)
        )
    )


def read_list(stored: str) -> list[str]:
    """Return the items of a stored list as scripts and Go read them.

    What is not a JSON array of strings is text with commas.
    """
    items = _read_array(stored)
    return [part for part in stored.split(",") if part] if items is None else items


def _read_array(stored: str) -> list[str] | None:
    """Return the items of a JSON array of strings; None if it is none."""
    try:
        items = cast("object", json.loads(stored))
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list):
        return None
    texts = [item for item in cast("list[object]", items) if isinstance(item, str)]
    return texts if len(texts) == len(cast("list[object]", items)) else None


@attrs.define
class _Keys:
    """The list of one worker, as it was read."""

    stored: str = ""
    keys: set[str] = attrs.field(factory=set[str])
    is_array: bool = False

    def added(self, stored: str) -> list[str] | None:
        """Return the keys that a list has more than this one; None if it differs otherwise.

        Most changes are starts, and a worker may have thousands of jobs.
        """
        end = len(self.stored) - 1
        is_list = self.is_array and self.keys and self.stored.endswith("]")
        if not (is_list and stored.startswith(",", end) and stored.startswith(self.stored[:end])):
            return None
        return _read_array(f"[{stored[end + 1 :]}")


@attrs.define
class Owners:
    """Which workers' lists hold a key, kept from the map of jobs.

    Lists are read again only when their text changed.
    """

    _lists: dict[str, _Keys] = attrs.field(factory=dict[str, _Keys])
    _owners: dict[str, set[str]] = attrs.field(factory=dict[str, set[str]])

    def observe(self, jobs: Mapping[str, str]) -> None:
        """Take in the whole map of jobs as it stands."""
        for gone in self._lists.keys() - jobs.keys():
            self._drop(gone, self._lists.pop(gone).keys)
        for worker_id, stored in jobs.items():
            known = self._lists.setdefault(worker_id, _Keys())
            if known.stored is stored or known.stored == stored:
                continue
            added = known.added(stored)
            if added is None:
                items = _read_array(stored)
                known.is_array = items is not None
                added = read_list(stored) if items is None else items
                self._drop(worker_id, known.keys.difference(added))
            known.stored = stored
            for key in added:
                known.keys.add(key)
                self._owners.setdefault(key, set()).add(worker_id)

    def _drop(self, worker_id: str, keys: Iterable[str]) -> None:
        for key in list(keys):
            owners = self._owners[key]
            owners.discard(worker_id)
            if not owners:
                del self._owners[key]
            if worker_id in self._lists:
                self._lists[worker_id].keys.discard(key)

    def of(self, key: str) -> frozenset[str]:
        """Return the ids of the workers whose lists hold `key`."""
        return frozenset(self._owners.get(key, ()))

    def keys(self, worker_id: str) -> frozenset[str]:
        """Return the keys in a worker's list."""
        known = self._lists.get(worker_id)
        return frozenset(() if known is None else known.keys)

    def workers(self) -> frozenset[str]:
        """Return the ids of the workers that have a list."""
        return frozenset(self._lists)


def misplaced(keys: Iterable[str], worker_id: str, ring: Sequence[Member]) -> list[str]:
    """Return those of a worker's keys that belong to another.

    None do while the worker itself is not on the ring, or alone on it: then
    nobody better is known.
    """
    if not any(member.worker_id == worker_id for member in ring):
        return []
    return [key for key in keys if place(key, ring) != worker_id]


def buried(
    workers: Mapping[str, str],
    owners: Owners,
    signs: Pulse,
    locks: Pulse,
    now: float,
) -> list[str]:
    """Return the ids of the workers that are dead and whose jobs may be taken."""
    return sorted(
        worker_id
        for worker_id in workers.keys() | owners.workers()
        if signs.is_silent(worker_id, now) and not locks.is_fresh(worker_id, now)
    )
