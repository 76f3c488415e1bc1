"""A worker: it takes events for its jobs and has its runner carry them out.

Theory of operation. Events come over two roads, the worker's stream and, from
the router of its own node, a call; both end in `_accept`, which puts them
into the lane of their key. A lane is a task that handles the events of one key,
one after the other, and ends when there are none; so keys are independent, and
a slow start holds up nobody but those who speak of the same job. A start that
is told again while it waits in the lane shares the first one's outcome.

A job is, here, absent, starting, running or on its way out:

    absent --start: owner and payload in one script--> starting --handler--> running
    absent --dispatch by its node: place kept, owned by the claim--> starting --> running
    starting --handler raises: owner (and payload) gone--> absent, error answered
    running --stop: handler, then owner and payload gone--> absent
    running --ends by itself: owner and payload gone--> absent
    running --release: handler, then owner gone and the job sent again--> absent

What the handler has done is followed by its script, never the other way round
when a job goes, so that nobody else starts it while it still runs here.

A worker that finds that it is no longer in the pool (it was paused for longer
than its TTL, or Redis lost the entry) stops its jobs without touching Redis,
for they are elsewhere by then, and joins again under a new id.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

import attrs
import trio
from redis.exceptions import RedisError, ResponseError
from ulid import ULID

from terzetto._shared._encoding import encode_text
from terzetto.actor import Actor, Context, Stop
from terzetto.errors import ClosedError, InvalidNameError
from terzetto.pool._codec import (
    JobBody,
    encode_envelope,
    encode_job,
)
from terzetto.pool._core import Core
from terzetto.pool._errors import (
    JobRetryError,
    MalformedBodyError,
    PoolShutdownError,
    error_text,
)
from terzetto.pool._job import Handler
from terzetto.pool._lane import Lanes
from terzetto.pool._ledger import OVER, Ledger
from terzetto.pool._letter import encode_letter
from terzetto.pool._names import INIT, START, STOP, check_key
from terzetto.pool._order import ENDED, REASSERT, RELEASE, RETRY, Order, read_letter
from terzetto.pool._runner import JobPolicy, Runner, runner_for
from terzetto.streaming import OLDEST, Event, Stream

_PARTING: Final = 3.0  # seconds for what a worker tells Redis when it leaves


@attrs.define(eq=False, kw_only=True)
class WorkerActor(Actor):
    """One life of a worker."""

    core: Core
    handler: Handler
    policy: JobPolicy
    adopt: Callable[["WorkerActor"], None]
    worker_id: str = attrs.field(factory=lambda: str(ULID()))
    created: str = ""
    _ctx: Context["WorkerActor"] = attrs.field(init=False)
    _ledger: Ledger = attrs.field(init=False)
    _runner: Runner = attrs.field(init=False)
    _jobs: dict[str, JobBody] = attrs.field(factory=dict[str, JobBody])
    _starting: set[str] = attrs.field(factory=set[str])
    _lanes: Lanes = attrs.field(init=False)
    _leaving: bool = False
    is_evicted: bool = False  # found to be no longer in the pool
    _drained: trio.Event | None = None  # of a shutdown: set once all jobs have ended

    # The actor's hooks --------------------------------------------------------------

    async def started(self, ctx: Context["WorkerActor"]) -> None:
        """Bring the stream into being, join the pool, begin to read."""
        try:
            await self._join(ctx)
        except BaseException:
            # Nobody calls `stopping` for what has not started: what was written goes here.
            self.core.workers.pop(self.worker_id, None)
            deadline = trio.current_time() + _PARTING
            with trio.CancelScope(shield=True, deadline=deadline), suppress(RedisError):
                await self._withdraw()
            raise

    async def _join(self, ctx: Context["WorkerActor"]) -> None:
        self._ctx = ctx
        self._lanes = Lanes(ctx.start_soon, self._carry_out, self._start_now)
        core = self.core
        self._runner = runner_for(
            self.handler,
            policy=self.policy,
            spawn=ctx.start_soon,
            restarting=partial(core.report_crash, self.worker_id, "job_restarted"),
            ended=self._job_ended,
        )
        created = await self._enlist()
        if created is None:
            raise PoolShutdownError(
                f"pool {core.names.pool!r} is being shut down: it takes no new worker"
            )
        self.created = created
        self._ledger = Ledger(core.store, self.worker_id, created)
        ctx.start_soon(self._ledger.run)
        reader = await ctx.spawn(
            Stream(core.names.worker_stream(self.worker_id), core.store.redis).reader_child(
                start=OLDEST, block=core.options.worker_ttl / 2
            )
        )
        core.workers[self.worker_id] = self
        self.adopt(self)

        async def read() -> None:
            with suppress(ClosedError):
                await reader.deliver(self._take)

        ctx.start_soon(read)
        core.report("worker_joined", worker_id=self.worker_id)
        while not core.fleet.is_member(self.worker_id) and not core.is_shutting_down:
            await core.wait_fleet_changed()

    async def _enlist(self) -> str | None:
        """Enter the pool, with a stream before that, so that nothing routed here is swallowed."""
        core = self.core
        body = encode_envelope(core.node_id, encode_text(self.worker_id))
        await core.store.open_stream(core.names.worker_stream(self.worker_id), body)
        return await core.store.enlist(self.worker_id, core.home)

    async def stopping(self, reason: Stop) -> None:  # noqa: ARG002 - all reasons are alike
        """Hand every job over to the rest of the pool, then leave it."""
        self._leaving = True
        core = self.core
        is_heard = bool(self._jobs)  # their hand-over waits for Redis until the grace is over
        patience = min(self.policy.grace, _PARTING) if self._jobs else _PARTING
        try:
            if not self.is_evicted:
                # The jobs end even when Redis is away; peers then find them orphaned.
                with trio.move_on_after(patience):
                    await core.store.retire(self.worker_id, self.created)
                    is_heard = True
        except RedisError as error:
            core.warn("Redis refused to let a worker leave", "", error)
        finally:
            # From here on nothing speaks for it: what Redis still has of it is buried by peers.
            core.workers.pop(self.worker_id, None)
        if self._drained is not None:
            await self._drained.wait()
        await self._each_job(self._hand_over if self._drained is None else self._stop_for_good)
        # Nothing is left here that Redis has to be waited for: peers tidy up after a TTL.
        with trio.move_on_after(_PARTING if is_heard else 0):
            try:
                await self._withdraw()
            except RedisError as error:
                core.warn("Redis refused to forget a worker", "", error)
        core.report("worker_left", worker_id=self.worker_id)

    async def _withdraw(self) -> None:
        """Take the worker's entries back, if it owns no job any more, and its stream."""
        if not self.is_evicted:
            await self.core.store.discharge(self.worker_id, self._jobs)
        await self.core.store.drop_stream(self.core.names.worker_stream(self.worker_id))

    # For the node -------------------------------------------------------------------

    def offer(self, order: Order) -> None:
        """Take an order over the short road; one that cannot be taken now is answered so.

        It goes straight into its lane: by way of the mailbox every dispatch would
        wait for one more turn of the scheduler, and nothing would be gained.
        """
        self._accept(order)

    def keep_place(self, job: JobBody) -> bool:
        """Keep the place of a job that is being dispatched; False if that cannot be now."""
        if self.is_leaving or job.key in self._jobs:
            return False
        return self._lanes.reserve(job.key)

    def make_ready(self, key: str) -> None:
        """Get ready for a job whose place is kept, if it will need a task."""
        if self._runner.brief_start is None:
            self._lanes.make_ready(key)

    def keeps_place(self, key: str) -> bool:
        """Tell whether the place of a job is still kept."""
        return self._lanes.is_reserved(key)

    def give_place_up(self, key: str) -> None:
        """Let other orders for a key go on: the job does not come."""
        self._lanes.give_up(key)

    def fill_place(self, order: Order) -> None:
        """Give the start of the job that a place was kept for; if it is no more, try again."""
        if not self._lanes.is_reserved(order.key):
            order.reply(RETRY)
        elif self.is_leaving:
            self._lanes.broken_off.append(order)  # it is given up with those that run
        else:
            self._lanes.fill(order)

    def running(self) -> list[str]:
        """Return the keys of the jobs that run or start here."""
        return list(self._jobs)

    def settled(self) -> list[str]:
        """Return the keys of the jobs that run here and nothing is being done with."""
        return [key for key in self._jobs if key not in self._lanes]

    def rebalance(self) -> None:
        """Let those jobs go that belong elsewhere now."""
        now = trio.current_time()
        for key in self.core.fleet.misplaced(self._jobs, self.worker_id, now):
            if not self._lanes.awaits(RELEASE, key):
                self._accept(Order(RELEASE, key))

    @property
    def is_leaving(self) -> bool:
        """Whether it takes no more orders, now or ever."""
        return self._leaving or self._drained is not None

    def evict(self) -> None:
        """Stop at once: this worker is no longer in the pool, and its jobs are elsewhere."""
        if self._leaving:
            self.is_evicted = True
            return
        self.is_evicted = self._leaving = True
        self.core.report("worker_evicted", worker_id=self.worker_id)
        self._ctx.start_soon(self._fence)

    async def _fence(self) -> None:
        """End all jobs, and then the worker; its closing waits for Redis before it gets to them."""
        async with trio.open_nursery() as nursery:
            for key in self.settled():
                nursery.start_soon(self._hand_over, key)
            await self._lanes.end()
        await self._each_job(self._hand_over)
        self._ctx.stop()

    async def readmit(self) -> None:
        """Join again with all jobs: Redis has lost the pool, and nobody else has them."""
        if not self.is_leaving and (created := await self._enlist()) is not None:
            self.created = self._ledger.created = created
            self.reassert(self.settled())

    def reassert(self, keys: Iterable[str]) -> None:
        """Write again that these jobs are owned here; those that others own end here."""
        for key in keys:
            self._accept(Order(REASSERT, key))

    async def stop_all(self) -> None:
        """Stop every job as if each had been asked to stop; they do not run elsewhere."""
        self._drained = trio.Event()
        try:
            await self._each_job(self._stop_for_good)
        finally:
            self._drained.set()

    # Orders -------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        """Take an event of the worker's stream."""
        if event.name == INIT:
            return
        try:
            order = read_letter(event, partial(self.core.answer, self.worker_id))
        except MalformedBodyError as error:
            self.core.report("dead_letter", worker_id=self.worker_id, text=str(error))
        else:
            self._accept(order)

    def _accept(self, order: Order) -> None:
        if self.is_leaving:
            order.reply(RETRY)
            return
        self._lanes.accept(order)

    async def _carry_out(self, order: Order) -> None:
        try:
            if order.name == START and order.job is not None:
                order.reply(await self._start(order.job, order))
            elif order.name == RELEASE:
                await self._release(order.key)
            elif order.name == REASSERT:
                await self._reassert(order.key)
            elif order.name == ENDED:
                await self._end(order.key, order.error)
            elif order.key not in self._jobs:
                order.reply(RETRY)
            elif order.name == STOP:
                order.reply(await self._stop(order.key))
            else:
                order.reply(await self._notify(order.key, order.payload))
        except ResponseError as error:
            # Redis refused a write (out of memory, read only): the event comes again.
            self.core.warn("Redis refused a change of a job", order.key, error)
            order.reply(RETRY)

    def _start_now(self, order: Order) -> bool:
        job, start = order.job, self._runner.brief_start
        if job is None or not order.is_owned or start is None or job.key in self._jobs:
            return False
        self._jobs[job.key] = job
        try:
            start(job)
        except BaseException as error:  # noqa: BLE001 - it is raised where starts are, in the lane
            order.failure = error
            del self._jobs[job.key]
            return False
        order.reply("")  # somebody waits for this, and for nothing else here
        self._has_started(job)
        return True

    async def _start(self, job: JobBody, order: Order) -> str | None:
        if job.key in self._jobs:
            # Told again. Whoever sent it may have buried this worker, which has not heard
            # of that yet: to say that the job runs would lose it.
            return "" if await self._own(self._jobs[job.key]) == 1 else RETRY
        try:
            if not order.is_owned:  # or its dispatch has looked
                check_key(job.key)
        except InvalidNameError as error:
            return error_text(error)
        # From here on the key may be ours in Redis, whatever we hear of it.
        self._jobs[job.key] = job
        self._starting.add(job.key)
        owned = 1 if order.is_owned else await self._own(job, sent_again=job.requeued)
        if owned != 1:
            self._starting.discard(job.key)
            self._jobs.pop(job.key, None)
            return "" if owned == OVER else RETRY
        try:
            order.raise_failure()
            await self._runner.start(job)
        except Exception as error:  # noqa: BLE001 - user code; its error is the answer
            if isinstance(error, JobRetryError):
                await self._give_up(job)
                return RETRY
            text = error_text(error)
            await self._give_up(job, text)
            self.core.report_crash(self.worker_id, "job_failed", job.key, error)
            return text
        self._starting.discard(job.key)
        if job.requeued:
            await self._ledger.fine(job.key)
        self._has_started(job)
        return ""

    def _has_started(self, job: JobBody) -> None:
        """Tell of it; let it go if its place changed meanwhile: no further change will tell."""
        key = job.key
        self.core.report("job_started", key=key, worker_id=self.worker_id)
        fleet, now = self.core.fleet, trio.current_time()
        if fleet.place(key, now) == self.worker_id:
            return
        if fleet.is_whole(now) and fleet.misplaced([key], self.worker_id, now):
            self._accept(Order(RELEASE, key))

    async def _own(self, job: JobBody, *, sent_again: bool = False) -> int:
        """Become the owner of a job: 1 if so, 0 or `OVER` if not."""
        dead_owner = ""
        while True:
            owner = await self._ledger.own(
                job.key, job.payload, dead_owner=dead_owner, sent_again=sent_again
            )
            if isinstance(owner, int):
                return owner
            now = trio.current_time()
            if owner == dead_owner or self.core.fleet.holds(owner, now, requeued=job.requeued):
                return 0
            dead_owner = owner

    async def _give_up(self, job: JobBody, failure: str = "") -> None:
        """Undo the ownership of a job that did not start; one that was accepted stays that."""
        if await self._ledger.give_up(job, failure, rest=self.core.options.worker_ttl):
            self.core.report("dead_letter", key=job.key, worker_id=self.worker_id, text=failure)
        self._starting.discard(job.key)
        self._jobs.pop(job.key, None)

    async def _stop(self, key: str) -> str:
        try:
            await self._runner.stop(key)
        except Exception as error:  # noqa: BLE001 - user code; its error is the answer
            return error_text(error)
        await self._stopped(key)
        return ""

    async def _stopped(self, key: str) -> None:
        job = None if key in self._starting else self._jobs.get(key)
        await self._ledger.end(key, "" if job is None else job.event_id)
        self._jobs.pop(key, None)
        self.core.report("job_stopped", key=key, worker_id=self.worker_id)

    async def _end(self, key: str, crash: str) -> None:
        """Note that a job has ended by itself: well, or by a crash that is the last."""
        if (job := self._jobs.get(key)) is None:
            await trio.lowlevel.checkpoint()
            return
        if crash:
            await self._ledger.bury(key, encode_letter(job, crash), job.event_id)
            self.core.report("dead_letter", key=key, worker_id=self.worker_id, text=crash)
        else:
            await self._ledger.end(key, job.event_id)
            self.core.report("job_ended", key=key, worker_id=self.worker_id)
        self._jobs.pop(key, None)

    async def _notify(self, key: str, payload: bytes) -> str:
        try:
            await self._runner.notify(key, payload)
        except Exception as error:  # noqa: BLE001 - user code; its error is the answer
            return error_text(error)
        return ""

    def _job_ended(self, key: str, crash: BaseException | None) -> None:
        if crash is not None:
            self.core.report_crash(self.worker_id, "job_crashed", key, crash)
        if not self._leaving:
            self._accept(Order(ENDED, key, error="" if crash is None else error_text(crash)))

    # Letting go ---------------------------------------------------------------------

    async def _release(self, key: str) -> None:
        now = trio.current_time()
        if key in self._jobs and self.core.fleet.misplaced([key], self.worker_id, now):
            await self._hand_over(key)

    async def _hand_over(self, key: str) -> None:
        """Stop a job here and send it to the pool again; it stays if it will not stop."""
        if not await self._end_run(key, "a job would not stop to be moved") and not self._leaving:
            return
        job = self._jobs.get(key)
        if job is None or self.is_evicted:
            self._jobs.pop(key, None)
            return
        if key in self._starting:
            # Nobody was answered: the event is still pending, and starts it elsewhere.
            await self._give_up(job)
            return
        body = encode_job(attrs.evolve(job, requeued=True))
        moved = await self._ledger.requeue(key, body, job.event_id)
        self._jobs.pop(key, None)  # it may have ended while Redis was asked
        if moved:
            self.core.report("job_moved", key=key, worker_id=self.worker_id)

    async def _reassert(self, key: str) -> None:
        job = self._jobs.get(key)
        if job is None or await self._own(job) == 1:
            return
        self.core.report("job_fenced", key=key, worker_id=self.worker_id)
        await self._end_run(key, "a job that runs elsewhere would not stop")
        self._jobs.pop(key, None)

    async def _stop_for_good(self, key: str) -> None:
        await self._end_run(key, "a job would not stop at the shutdown")
        await self._stopped(key)

    async def _end_run(self, key: str, complaint: str) -> bool:
        """Stop what runs; False, and a word in the log, if it would not stop."""
        try:
            await self._runner.stop(key)
        except Exception as error:  # noqa: BLE001 - user code; its error is logged
            self.core.warn(complaint, key, error)
            return False
        return True

    async def _each_job(self, end: Callable[[str], Awaitable[None]]) -> None:
        """End all lanes, and then all jobs at the same time, each as `end` does."""
        await self._lanes.end()

        async def one(end: Callable[[str], Awaitable[object]], key: str) -> None:
            try:
                await end(key)
            except ResponseError as error:
                # It stays in the list, and peers see to it once we are gone.
                self.core.warn("Redis refused a change of a job", key, error)

        async with trio.open_nursery() as nursery:
            for key in list(self._jobs):
                nursery.start_soon(one, end, key)
            for key in () if self.is_evicted else self._lanes.abandoned:
                # It may be ours by now. It has not begun, and its event comes again.
                nursery.start_soon(one, self._ledger.end, key)
        self._lanes.abandoned.clear()
        for order in self._lanes.broken_off:
            order.reply(RETRY)
        self._lanes.broken_off.clear()
