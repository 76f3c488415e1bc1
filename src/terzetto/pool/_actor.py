"""The actor of a node: one life of it, from joining the pool to leaving it.

Theory of operation. A life has children (the maps, the sink, the reader of its
own stream, a supervisor of its workers) and background tasks (router, answers,
upkeep, feeding the fleet from the maps). It opens in this order, and closes in
the reverse one: the workers go first, hand their jobs over while the router
still runs, then the sink hands back what was not answered, then the node's
entry and stream go. A crash of any part is a crash of the life: it closes in
the same way, and the next life joins anew, with the same id and new workers.

Shutdown is asked for by an entry in a map, and followed by every node: it stops
its jobs for good, closes its workers, and ends by itself. The node that asked
waits until no worker is left in the pool, shortly for the other nodes too
(clients in Go do not follow), and removes what remains. The others leave the
map of nodes and stay to see that; should the one that asked be gone before it,
they do so in its place. So does the last that leaves, whatever ended it.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._pause import Pause
from terzetto.actor import Actor, ActorStoppedError, Child, Context, Stop, Supervisor, Tree
from terzetto.errors import ClosedError
from terzetto.pool._claims import Bid, Claims
from terzetto.pool._codec import JobBody, decode_ack, decode_told, encode_job
from terzetto.pool._core import Core, Outbox
from terzetto.pool._dispatch import Waiting
from terzetto.pool._errors import MalformedBodyError, PoolShutdownError
from terzetto.pool._fleet import Fleet
from terzetto.pool._homes import Homes
from terzetto.pool._insist import insist
from terzetto.pool._names import ACK, RETURN, SINK, TOLD
from terzetto.pool._router import Router
from terzetto.pool._seat import Seat, WorkerSeat
from terzetto.pool._store import Store
from terzetto.pool._upkeep import Upkeep
from terzetto.pool._worker import WorkerActor
from terzetto.rmap import Change, Map
from terzetto.rmap import child as map_child
from terzetto.streaming import NEWEST, OLDEST, Event, Reader, Stream

_SETTLE: Final = 0.05  # seconds that a change of the fleet rests before jobs move
_LEAVING: Final = 3.0  # seconds that the other nodes have to go, once they have no workers
_LAST_WORDS: Final = 2.0  # seconds for what is still to be sent at the end, answers and a farewell
_SINK_GRACE: Final = 2.0  # seconds of grace for the sink, whose handlers are never waited for


@attrs.define(eq=False)
class NodeActor(Actor):
    """One life of a node; `seat` is what outlives it."""

    seat: Seat
    core: Core = attrs.field(init=False)
    _ctx: Context["NodeActor"] = attrs.field(init=False)
    _workers: Supervisor | None = None
    _router: Router | None = None
    _upkeep: Upkeep | None = None
    _maps: dict[str, Map] = attrs.field(factory=dict[str, Map])
    _rebalance: trio.Event = attrs.field(factory=trio.Event)
    _sinks: Supervisor | None = None
    _finishes_shutdown: bool = False
    _closing: bool = False

    # The actor's hooks --------------------------------------------------------------

    async def started(self, ctx: Context["NodeActor"]) -> None:
        """Join the pool."""
        try:
            await self._join_pool(ctx)
        except BaseException:
            # Nobody calls `stopping` for what has not started: what was written goes here.
            self.seat.end_life(final=False)
            if self._upkeep is not None:
                self._upkeep.is_over = True
            deadline = trio.current_time() + _LAST_WORDS
            with trio.CancelScope(shield=True, deadline=deadline), contextlib.suppress(RedisError):
                names, store = self.seat.names, Store(self.seat.redis, self.seat.names)
                await store.forget_node(self.seat.id)
                await store.drop_stream(names.node_stream(self.seat.id))
            raise

    async def _join_pool(self, ctx: Context["NodeActor"]) -> None:
        self._ctx = ctx
        seat = self.seat
        ctx.start_soon(seat.returns.expire)  # those of the last life too, however long this takes
        store = Store(seat.redis, seat.names)
        fleet = Fleet(seat.options.worker_ttl)
        homes = Homes(store=store, log=seat.log, fleet=fleet, node_id=seat.id)
        self.core = core = Core(
            node_id=seat.id,
            names=seat.names,
            options=seat.options,
            store=store,
            log=seat.log,
            watchers=seat.watchers,
            fleet=fleet,
            outbox=Outbox(store, seat.log),
            claims=Claims(
                store=store,
                log=seat.log,
                returns=seat.returns,
                guard_for=seat.patience,
                limit=seat.options.max_queued_jobs,
                homes=homes,
            ),
            homes=homes,
        )
        await store.load()
        core.clock.set(await store.server_us())
        names = core.names
        for name in (names.shutdown, names.node_keepalive):
            await self._join(name)
        await self._refuse_while_shutting_down()
        await self._open_stream(store)
        upkeep = self._upkeep = Upkeep(core=core)
        await upkeep.beat()
        self._follow(names.node_keepalive, self._observe_nodes)
        self._follow(names.shutdown, core.fleet_changed)
        if core.options.client_only:
            await self._open_workers()
        else:
            await self._open_routing()
        reader = await ctx.spawn(
            Stream(names.node_stream(seat.id), seat.redis).reader_child(
                start=OLDEST, block=core.options.job_sink_block_duration
            )
        )
        ctx.start_soon(self._hear, reader)
        ctx.start_soon(core.outbox.run)
        ctx.start_soon(core.claims.run)
        ctx.start_soon(core.claims.tidy)
        ctx.start_soon(core.homes.run)
        ctx.start_soon(upkeep.keep_alive)
        ctx.start_soon(upkeep.keep_streams)
        ctx.start_soon(self._follow_shutdown)
        if core.options.client_only:
            ctx.start_soon(upkeep.forget_nodes)
        else:
            ctx.start_soon(upkeep.look_for_dead)
            ctx.start_soon(upkeep.tidy)
            ctx.start_soon(upkeep.sweep_guards)
            self._workers = await ctx.spawn(Tree(name="workers", dynamic=True))
        seat.begin_life(self)
        for worker in seat.workers:
            await self.add_worker(worker)
        core.report("node_joined")

    async def stopping(self, reason: Stop) -> None:
        """Leave the pool; the workers and the sink have left already."""
        self._closing = True
        if self._upkeep is not None:
            self._upkeep.is_over = True
        core = self.core
        self.seat.end_life(final=reason in {Stop.NORMAL, Stop.CLOSED, Stop.SHUTDOWN})
        with trio.move_on_after(_LAST_WORDS):
            await core.outbox.flush()
            await core.claims.flush()
        with trio.move_on_after(_LAST_WORDS):  # peers forget it after a TTL
            await core.store.forget_node(core.node_id)
        if self._finishes_shutdown or self._is_last_at_shutdown():
            if self._upkeep is not None:
                await self._upkeep.forget_dead_nodes()
            await core.store.wipe(core.node_id)
        core.report("node_left")

    def _is_last_at_shutdown(self) -> bool:
        core = self.core
        others = {*core.fleet.live_nodes(trio.current_time())} - {core.node_id}
        return core.is_shutting_down and not others

    @property
    def tickers(self) -> Map:
        """The map of tickers."""
        return self._maps[self.core.names.tickers]

    # For the face -------------------------------------------------------------------

    def dispatch(self, job: JobBody, token: str, waiting: Waiting) -> None:
        """Ask for a job's key, and have the job started; `waiting` hears what came of it."""
        router, core, now = self._router, self.core, trio.current_time()
        keeper = None if router is None else router.worker_for(job, now)
        remote = core.homes.worker_for(job.key, now) if keeper is None else None
        core.claims.put(Bid(job, encode_job(job), token, waiting, keeper, remote))
        if keeper is not None:
            keeper.make_ready(job.key)

    async def add_worker(self, worker: WorkerSeat) -> None:
        """Start a worker; returns once it is in the pool."""
        if self._workers is None:
            raise ClosedError("the node is closing: it takes no new worker")
        ref = await self._workers.spawn(
            Child(
                partial(
                    WorkerActor,
                    core=self.core,
                    handler=worker.handler,
                    policy=worker.policy,
                    adopt=worker.begin_life,
                ),
                grace=self.core.options.worker_shutdown_ttl,
            )
        )
        worker.ref = ref
        self._ctx.start_soon(self._mind, worker)

    async def _mind(self, worker: WorkerSeat) -> None:
        """Bring a worker back that was found to be no longer in the pool."""
        await worker.wait_life_over()
        if not worker.was_evicted:
            return
        pause = Pause()
        while worker in self.seat.workers and not self._closing:
            try:
                with contextlib.suppress(ActorStoppedError, PoolShutdownError, ClosedError):
                    await self.add_worker(worker)
            except RedisError as error:
                self.core.warn("Redis refused a worker that comes back", "", error)
                await trio.sleep(pause.failed())
            else:
                return

    # Opening ------------------------------------------------------------------------

    async def _open_stream(self, store: Store) -> None:
        """Bring the node's stream into being.

        It is the first that is written. A later life, whose users are there, waits until Redis
        takes it: to fail again and again would close the node for good.
        """
        seat = self.seat
        write = partial(store.open_stream, seat.names.node_stream(seat.id), seat.id.encode())
        await (insist(write) if seat.has_lived else write())

    async def _refuse_while_shutting_down(self) -> None:
        """Refuse to join a pool that is being shut down; finish a shutdown that was abandoned."""
        core = self.core
        asker = self._maps[core.names.shutdown].get("shutdown")
        if asker is None:
            return
        self._observe_nodes()
        if asker in core.fleet.live_nodes(trio.current_time()):
            raise PoolShutdownError(
                f"pool {core.names.pool!r} is being shut down by node {asker}: "
                "open the node again once that is done"
            )
        for node_id in core.fleet.stale_nodes(trio.current_time()):
            await core.store.forget_node(node_id, sign=core.fleet.node_sign(node_id))
        await core.store.wipe("")
        await self._maps[core.names.shutdown].wait_for(lambda content: not content)

    async def _open_routing(self) -> None:
        core, ctx, redis = self.core, self._ctx, self.seat.redis
        names, options = core.names, core.options
        for name in (names.jobs, names.tickers):
            await self._join(name)
        core.fleet.observe_jobs(self._maps[names.jobs])
        await self._open_workers()
        self._sinks = await ctx.spawn(Tree(name="sinks", dynamic=True))
        sink = await self._sinks.spawn(
            Stream(names.stream, redis, max_len=0, logger=core.log).sink_child(
                SINK,
                start=NEWEST,
                block=options.job_sink_block_duration,
                ack_grace_period=options.ack_grace_period,
                max_deliveries=None,
                close_grace=_SINK_GRACE,
            )
        )
        self._router = Router(core=core, source=sink, returned=self.seat.returns.returned)
        core.claims.router = self._router
        ctx.start_soon(self._router.run)
        ctx.start_soon(self._router.retry)
        ctx.start_soon(self._router.keep)
        ctx.start_soon(self._rebalance_when_changed)

    async def _open_workers(self) -> None:
        """Follow the maps that say who is on the ring."""
        names = self.core.names
        maps = (names.workers, names.worker_keepalive, names.cleanup)
        for name in maps:
            await self._join(name)
        for name in maps:
            self._follow(name, self._observe_workers)

    async def _join(self, name: str) -> None:
        """Join a map; who is dead is decided by maps, so they look often for what they missed."""
        seat = self.seat
        poll = max(1.0, seat.options.worker_ttl / 2)
        spec = map_child(name, seat.redis, poll_interval=poll, logger=seat.log)
        self._maps[name] = await self._ctx.spawn(spec)

    # Background tasks ---------------------------------------------------------------

    def _follow(self, name: str, observe: Callable[[], None]) -> None:
        """Observe a map now and after every change of it."""

        async def follow() -> None:
            async with self._maps[name].subscribe() as changes:
                observe()
                async for change in changes:
                    if change is Change.RESET:
                        self.core.losses += 1  # before anybody hears of who is gone
                    observe()

        observe()
        self._ctx.start_soon(follow, name=f"follow {name}")

    def _observe_nodes(self) -> None:
        core = self.core
        core.fleet.observe_nodes(
            self._maps[core.names.node_keepalive],
            now=trio.current_time(),
            wall_ns=core.clock.now_ns(),
        )
        core.fleet_changed()

    def _observe_workers(self) -> None:
        core, maps = self.core, self._maps
        now = trio.current_time()
        core.workers_revision = max(core.workers_revision, maps[core.names.workers].revision)
        before = core.fleet.ring(now)
        here = {worker for worker in core.workers if core.fleet.is_member(worker)}
        changed = core.fleet.observe_workers(
            workers=maps[core.names.workers],
            keepalive=maps[core.names.worker_keepalive],
            cleanup=maps[core.names.cleanup],
            now=now,
            wall_ns=core.clock.now_ns(),
        )
        after = core.fleet.ring(now)
        if self._upkeep is not None and not all(map(core.fleet.is_member, here)):
            self._upkeep.hurry()
        if changed or after != before:
            core.fleet_changed()
            core.homes.look()
            if self._router is not None:
                self._router.fleet_changed()
        # The silence of a worker moves nothing; its removal does, and so does its return.
        if changed or set(after) - set(before):
            self._rebalance.set()

    async def _rebalance_when_changed(self) -> None:
        while True:
            await self._rebalance.wait()
            await trio.sleep(_SETTLE)
            self._rebalance = trio.Event()
            if not self.core.is_shutting_down:
                for worker in list(self.core.workers.values()):
                    worker.rebalance()

    async def _hear(self, reader: Reader) -> None:
        """Take the answers of workers and the returns of dispatches."""
        with contextlib.suppress(ClosedError):
            await reader.deliver(self._take)

    def _take(self, event: Event) -> None:
        """Take an event in; called in the task that read it."""
        try:
            self._understand(event)
        except MalformedBodyError as error:
            self.core.report("dead_letter", text=f"{event.name} {event.id}: {error}")

    def _understand(self, event: Event) -> None:
        if event.name == RETURN:
            ack = decode_ack(event.payload)
            self.seat.returns.returned(ack.event_id, ack.error)
        elif event.name == ACK and self._router is not None:
            self._router.hear(event)
        elif event.name == TOLD and self._router is not None:
            self._router.adopt(decode_told(event.payload))

    # Shutdown -----------------------------------------------------------------------

    async def _follow_shutdown(self) -> None:
        core = self.core
        shutdown = self._maps[core.names.shutdown]
        try:
            asker = await shutdown.wait_for(lambda content: content.get("shutdown", ""))
        except ClosedError:
            return
        core.is_shutting_down = True
        self.seat.is_shut_down = True
        core.fleet_changed()
        async with trio.open_nursery() as nursery:
            for worker in list(core.workers.values()):
                nursery.start_soon(worker.stop_all)
        if self._workers is not None:
            await self._workers.close()
        if asker == core.node_id or await self._outlives(asker):
            await self._wait_pool_empty()
            self._finishes_shutdown = True
        self._ctx.stop()

    async def _outlives(self, asker: str) -> bool:
        """Leave, and wait until the pool is gone; True if the node that asked is gone before it.

        Client-only nodes do not wait: they could not tell whether workers are left.
        """
        core, upkeep = self.core, self._upkeep
        if self._sinks is None or upkeep is None:
            return False
        upkeep.is_over = True
        await self._sinks.close()
        await core.store.forget_node(core.node_id)  # for this the one that asked waits
        while True:
            await upkeep.listen()
            if not self._maps[core.names.shutdown]:
                return False
            if asker not in core.fleet.live_nodes(trio.current_time()):
                return True
            with trio.move_on_after(core.options.worker_ttl / 4):
                await core.wait_fleet_changed()

    async def _wait_pool_empty(self) -> None:
        """Wait until no other worker is left, then shortly for the nodes, all within bounds."""
        options = self.core.options
        with trio.move_on_after(options.worker_shutdown_ttl):
            await self._wait_fleet(lambda now: not self.core.fleet.live_workers(now))
        # A client in Go stays as long as it likes; then the maps are emptied by messages.
        with trio.move_on_after(min(options.worker_ttl, _LEAVING)):
            await self._wait_fleet(
                lambda now: self.core.fleet.live_nodes(now) in ([], [self.core.node_id])
            )

    async def _wait_fleet(self, is_so: Callable[[float], bool]) -> None:
        while not is_so(trio.current_time()):
            # Silence makes no change that would wake us.
            with trio.move_on_after(self.core.options.worker_ttl / 4):
                await self.core.wait_fleet_changed()
