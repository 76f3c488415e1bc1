"""What a node knows of the pool: workers, their jobs and their signs of life.

Pure, and the only place where the maps' contents are turned into answers: who
is on the ring, who owns a key, who is dead. The node feeds it the replicas'
contents whenever they change; everybody else only asks. The map of jobs changes
with every job and is asked for seldom, so it is read when it is asked for.

Times are seconds of the monotonic clock, except `wall_ns`, the clock of the
Redis server, which signs of life are written with.
"""

from collections.abc import Iterable, Mapping

import attrs

from terzetto.pool._assign import (
    REMOVING,
    Owners,
    Pulse,
    buried,
    misplaced,
    ring_of,
)
from terzetto.pool._ring import Member, place


@attrs.define
class Fleet:
    """The pool as seen from one node."""

    worker_ttl: float
    _workers: dict[str, str] = attrs.field(factory=dict[str, str])
    _jobs: Mapping[str, str] = attrs.field(factory=dict[str, str])
    _owners_read: Owners = attrs.field(factory=Owners)
    _signs: Pulse = attrs.field(
        default=attrs.Factory(lambda self: Pulse(self.worker_ttl), takes_self=True)
    )
    _locks: Pulse = attrs.field(
        default=attrs.Factory(lambda self: Pulse(self.worker_ttl), takes_self=True)
    )
    _nodes: Pulse = attrs.field(
        default=attrs.Factory(lambda self: Pulse(self.worker_ttl), takes_self=True)
    )
    _ring: tuple[Member, ...] | None = None
    _ring_until: float = 0.0
    _placed: tuple[str, tuple[Member, ...], str | None] = ("", (), None)

    def observe_workers(
        self,
        *,
        workers: Mapping[str, str],
        keepalive: Mapping[str, str],
        cleanup: Mapping[str, str],
        now: float,
        wall_ns: int,
    ) -> bool:
        """Take in the three maps of workers; tell whether `workers` itself changed.

        A worker without a sign of life counts as one whose sign never changes.
        """
        changed = self._workers != workers
        self._workers = dict(workers)
        silent = dict.fromkeys(self._workers.keys() | self._owners.workers(), "")
        self._signs.observe({**silent, **keepalive}, now=now, wall_ns=wall_ns)
        self._locks.observe(cleanup, now=now, wall_ns=wall_ns)
        self._ring = None
        return changed

    def observe_jobs(self, jobs: Mapping[str, str]) -> None:
        """Take in the map of jobs; if it changes itself, this holds for what it becomes too."""
        self._jobs = jobs

    @property
    def _owners(self) -> Owners:
        self._owners_read.observe(self._jobs)
        return self._owners_read

    def observe_nodes(self, keepalive: Mapping[str, str], *, now: float, wall_ns: int) -> None:
        """Take in the nodes' signs of life."""
        self._nodes.observe(keepalive, now=now, wall_ns=wall_ns)

    def forgive(self, since: float) -> None:
        """Give everybody a whole TTL again, from `since`: we were not able to hear them."""
        for pulse in (self._signs, self._locks, self._nodes):
            pulse.forgive(since)
        self._ring = None

    def credit(self, seconds: float, now: float) -> None:
        """Leave out some seconds of everybody's silence: we were not able to hear them."""
        for pulse in (self._signs, self._locks, self._nodes):
            pulse.credit(seconds, now)
        self._ring = None

    def ring(self, now: float) -> tuple[Member, ...]:
        """Return the active workers in the ring's order."""
        if self._ring is None or now > self._ring_until:
            self._ring = ring_of(self._workers, self._signs, self._locks, now)
            waits = [
                wait
                for pulse in (self._signs, self._locks)
                if (wait := pulse.next_change(now)) is not None
            ]
            self._ring_until = now + min(waits, default=self.worker_ttl)
        return self._ring

    def place(self, key: str, now: float) -> str | None:
        """Return the active worker that `key` belongs to, if there is any."""
        ring = self.ring(now)
        known_key, known_ring, known = self._placed
        if key == known_key and ring is known_ring:
            return known  # who dispatches a job asks, and soon who starts it
        worker_id = place(key, ring)
        self._placed = key, ring, worker_id
        return worker_id

    def is_active(self, worker_id: str, now: float) -> bool:
        """Tell whether a worker is on the ring."""
        return any(member.worker_id == worker_id for member in self.ring(now))

    def is_whole(self, now: float) -> bool:
        """Tell whether every worker that is not leaving is on the ring, so that it is settled."""
        return len(self.ring(now)) == len(self.worker_ids())

    def is_live(self, worker_id: str, now: float) -> bool:
        """Tell whether a worker, leaving or not, has given a sign within the TTL."""
        return worker_id in self._workers and self._signs.is_fresh(worker_id, now)

    def holds(self, owner: str, now: float, *, requeued: bool) -> bool:
        """Tell whether an owner of a job has to be believed: it lives, and did not send it."""
        if self.is_active(owner, now):
            return True
        # One that is leaving hands its jobs over itself; peers in Go send them before
        # they strike them off their list.
        return self.is_live(owner, now) and not requeued

    def created(self, worker_id: str) -> str:
        """Return a worker's creation time as it stands in the map, or ``""``."""
        return self._workers.get(worker_id, "")

    def is_member(self, worker_id: str) -> bool:
        """Tell whether a worker is in the pool's map, active, leaving or silent."""
        return worker_id in self._workers

    def owners(self, key: str, now: float) -> list[str]:
        """Return the active workers whose lists hold `key`."""
        return [owner for owner in self._owners.of(key) if self.is_active(owner, now)]

    def keys_of(self, worker_id: str) -> frozenset[str]:
        """Return the keys that a worker owns."""
        return self._owners.keys(worker_id)

    def misplaced(self, keys: Iterable[str], worker_id: str, now: float) -> list[str]:
        """Return those of a worker's keys that belong to another."""
        return misplaced(keys, worker_id, self.ring(now))

    def dead_workers(self, now: float) -> list[str]:
        """Return the workers whose jobs may be taken over."""
        return buried(self._workers, self._owners, self._signs, self._locks, now)

    def dead_nodes(self, now: float) -> list[str]:
        """Return the nodes that have been silent for a TTL."""
        return [node for node in self._nodes.peers() if self._nodes.is_silent(node, now)]

    def live_nodes(self, now: float) -> list[str]:
        """Return the nodes that have given a sign within the TTL."""
        return [node for node in self._nodes.peers() if self._nodes.is_fresh(node, now)]

    def stale_nodes(self, now: float) -> list[str]:
        """Return the nodes that have not given a sign within the TTL, if only at first sight."""
        return [node for node in self._nodes.peers() if not self._nodes.is_fresh(node, now)]

    def node_sign(self, node_id: str) -> str:
        """Return the node's last sign of life as stored, or ``""``."""
        return self._nodes.value(node_id) or ""

    def live_workers(self, now: float) -> list[str]:
        """Return the workers in the map, leaving or not, that have given a sign within the TTL."""
        return [worker for worker in self._workers if self.is_live(worker, now)]

    def last_sign(self, worker_id: str) -> str:
        """Return the worker's last sign of life as stored, or ``""``."""
        return self._signs.value(worker_id) or ""

    def last_lock(self, worker_id: str) -> str:
        """Return the worker's clean-up lock as stored, or ``""``."""
        return self._locks.value(worker_id) or ""

    def worker_ids(self) -> list[str]:
        """Return the ids of all workers that are not leaving, oldest first."""
        return sorted(
            (worker for worker, value in self._workers.items() if value != REMOVING),
            key=lambda worker: (len(self._workers[worker]), self._workers[worker], worker),
        )
