"""What a node does by the clock: signs of life, and repair of what others left.

Each loop is a background task of the node. The decisions are the fleet's and
the scripts': a sweep compares what it saw with what Redis has in the same step
that acts, so it may come late, twice or together with others and does no harm.

A node that could not speak to Redis for a TTL (it was paused, or Redis was
away) may be the one that is dead to others. It buries nobody until it has given
a sign again, and then gives everybody a whole TTL. After a shorter time of
that kind the others get as much time as it missed: they may have missed it too.
If its own link was lost, so may theirs be, and theirs may be back later: whoever
reconnects waits longer after each attempt, so the TTL of the others begins only
when the longest such wait is over.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio
from redis.exceptions import ResponseError

from terzetto._shared._texts import describe_error
from terzetto.pool._codec import encode_envelope
from terzetto.pool._core import Core
from terzetto.pool._store import Alive

_BEATS: Final = 3  # signs of life in a TTL
_LATE: Final = 0.5  # of a TTL: a sign that comes later than this was held up
_LOOKS: Final = 10  # looks for the dead in a TTL; they cost nothing while all live
_BATCH: Final = 200  # jobs that one script moves, so that it never holds Redis up for long


@attrs.define(eq=False, kw_only=True)
class Upkeep:
    """The loops of one life of a node."""

    core: Core
    _last_beat: float = attrs.field(factory=trio.current_time)
    _unwritten: dict[str, frozenset[str]] = attrs.field(factory=dict[str, frozenset[str]])
    is_over: bool = False
    """Whether the node is leaving, so that nothing of it is to be made again."""
    _hurried: trio.Event = attrs.field(factory=trio.Event)
    _beats: int = 0
    _losses_met: int = 0
    """How many losses there had been when all of our workers were last known, or joined again."""
    _orphans: dict[str, float] = attrs.field(factory=dict[str, float])

    async def beat(self) -> None:
        """Give a sign of life for the node and its workers, and hear who is still known."""
        core = self.core
        if self.is_over:
            return  # or the entry would be there again after the farewell
        workers = [(worker.worker_id, worker.created) for worker in core.workers.values()]
        losses = core.losses
        alive = await core.store.alive(core.node_id, workers, home=core.home)
        self._make_up_for_silence()
        core.clock.set(alive.server_us)
        self._note_losses(alive)
        if core.is_shutting_down:
            return
        for worker_id, known in alive.workers.items():
            worker = core.workers.get(worker_id)
            if worker is None or known:
                continue
            if core.losses != self._losses_met:
                await worker.readmit()
            elif core.fleet.created(worker_id) != worker.created:
                worker.evict()
            # Else the map will tell, soon, whether somebody removed it or Redis lost it.
        self._losses_met = losses

    def _note_losses(self, alive: Alive) -> None:
        """Look whether Redis counts anew: the copies of the maps may have no sign of it."""
        core = self.core
        if alive.revision < core.workers_revision or alive.beats <= self._beats:
            core.losses += 1
        core.workers_revision, self._beats = alive.revision, alive.beats

    def _make_up_for_silence(self) -> None:
        """Give the others the time since our last beat, if we could not hear them either."""
        now, ttl = trio.current_time(), self.core.options.worker_ttl
        gap = now - self._last_beat
        redis = self.core.store.redis
        if redis.status.since > self._last_beat:
            # Waits double, and are longer than all before them only by their own first.
            self.core.fleet.forgive(now + min(redis.max_backoff, 2 * gap))
        elif gap > ttl:
            self.core.fleet.forgive(now)
        elif gap > ttl * _LATE:
            self.core.fleet.credit(gap - ttl / _BEATS, now)
        self._last_beat = now

    async def listen(self) -> None:
        """Hear that Redis answers, without a sign of life: for a node that has said farewell."""
        await self.core.store.server_us()
        self._make_up_for_silence()

    async def _restore_streams(self) -> None:
        """Make those of our streams again that are gone.

        Peers that took us for dead deleted them, or somebody did; without them we
        would hear no answer and no order ever.
        """
        core = self.core
        bodies = self._streams()
        for name in await core.store.missing_streams(list(bodies)):
            # Who has left meanwhile has deleted its own, and nobody would delete it again.
            if not self.is_over and name in self._streams():
                await core.store.open_stream(name, bodies[name])

    def _streams(self) -> dict[str, bytes]:
        """Return the streams that are ours now, with the bodies of their first events."""
        core = self.core
        streams = {core.names.node_stream(core.node_id): core.node_id.encode()}
        for worker_id in core.workers:
            body = encode_envelope(core.node_id, worker_id.encode())
            streams[core.names.worker_stream(worker_id)] = body
        return streams

    async def keep_alive(self) -> None:
        """Beat for ever, and at once when hurried."""
        # By the beat and not from beat to beat: what one takes is not to make the next late.
        due = trio.current_time()

        async def wait_and_beat() -> None:
            nonlocal due
            now = trio.current_time()
            due = max(min(due, now) + self.core.options.worker_ttl / _BEATS, now)
            with trio.move_on_at(due):
                await self._hurried.wait()
            self._hurried = trio.Event()
            await self.beat()

        await self._every(0, wait_and_beat)

    async def keep_streams(self) -> None:
        """Make our streams again that are gone, for ever."""
        await self._every(self.core.options.worker_ttl / _BEATS, self._restore_streams)

    def hurry(self) -> None:
        """Ask now who is still known: it looks as if somebody here is not."""
        self._hurried.set()

    async def look_for_dead(self) -> None:
        """Bury dead workers for ever."""
        await self._every(self.core.options.worker_ttl / _LOOKS, self._bury_dead)

    async def tidy(self) -> None:
        """Forget dead nodes, and send orphans again, for ever."""
        await self._every(self.core.options.worker_ttl / 2, self._tidy)

    async def sweep_guards(self) -> None:
        """Remove guards that have run out, for ever."""
        await self._every(self.core.options.ack_grace_period, self._sweep_guards)

    async def forget_nodes(self) -> None:
        """Forget dead nodes, for ever; all that a client-only node repairs."""
        await self._every(self.core.options.worker_ttl, self.forget_dead_nodes)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await trio.sleep(seconds)
            if self.is_over:
                return
            try:
                await work()
            except ResponseError as error:
                self.core.log.warning(
                    "Redis refused the upkeep of the pool", error=describe_error(error)
                )

    def _is_deaf(self) -> bool:
        return trio.current_time() - self._last_beat > self.core.options.worker_ttl

    async def _bury_dead(self) -> None:
        core = self.core
        if self._is_deaf():
            return
        # Silent when Redis answered us last, not now: while Redis hangs nobody is
        # heard, and what we sent meanwhile would be run before the others' signs.
        for worker_id in core.fleet.dead_workers(self._last_beat):
            if worker_id not in core.workers:
                await self._bury(worker_id)

    async def _bury(self, worker_id: str) -> None:
        core = self.core
        sign, lock = core.fleet.last_sign(worker_id), core.fleet.last_lock(worker_id)
        moved, status = 0, 2
        while status == 2:  # noqa: PLR2004 - the script's own numbers
            status, count = await core.store.bury(
                worker_id,
                sign=sign,
                lock=lock,
                node_id=core.node_id,
                created_ns=core.clock.now_ns(),
                limit=_BATCH,
            )
            moved += count
        if status == 1:
            await core.store.drop_stream(core.names.worker_stream(worker_id))
            core.report("worker_buried", worker_id=worker_id, text=str(moved))

    async def _tidy(self) -> None:
        if not self._is_deaf():
            await self.forget_dead_nodes()
            self._audit()
            await self._adopt_orphans()

    async def forget_dead_nodes(self) -> None:
        """Remove what nodes left that had been silent for a TTL at our last beat."""
        core = self.core
        for node_id in core.fleet.dead_nodes(self._last_beat):
            sign = core.fleet.node_sign(node_id)
            if node_id != core.node_id and sign:
                await core.store.forget_node(node_id, sign=sign)

    def _audit(self) -> None:
        """Write again what runs here and, for two looks, has not stood in the map of jobs."""
        core = self.core
        unwritten: dict[str, frozenset[str]] = {}
        is_whole = core.fleet.is_whole(trio.current_time())
        for worker_id, worker in core.workers.items():
            if is_whole:
                worker.rebalance()  # what a change of the fleet left behind on its way
            missing = frozenset(worker.settled()) - core.fleet.keys_of(worker_id)
            lasting = missing & self._unwritten.get(worker_id, frozenset())
            worker.reassert(lasting)
            unwritten[worker_id] = missing - lasting
        self._unwritten = unwritten

    async def _adopt_orphans(self) -> None:
        core, options = self.core, self.core.options
        if core.is_shutting_down:
            return
        found = await core.store.orphans(core.node_id, lease=options.worker_ttl, limit=1000)
        now = trio.current_time()
        self._orphans = {key: self._orphans.get(key, now) for key in found or ()}
        patience = max(2 * options.worker_ttl, options.ack_grace_period)
        for key, since in list(self._orphans.items()):
            if now - since < patience:
                continue
            del self._orphans[key]
            adopted = await core.store.adopt(
                key,
                node_id=core.node_id,
                created_ns=core.clock.now_ns(),
                guard_for=2 * options.ack_grace_period,
            )
            if adopted:
                core.report("job_recovered", key=key)

    async def _sweep_guards(self) -> None:
        await self.core.store.sweep_guards()
