"""Nodes and workers as their users hold them: faces that survive restarts.

Made by `open_node` and `child`. What a user awaits here runs in the user's own
task; the node's actor (`_actor.py`) is behind it.
"""

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import cast

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._functions import is_async
from terzetto.actor import Child, open_child
from terzetto.errors import ClosedError, InvalidOptionError, TerzettoError
from terzetto.pool._asking import ENDING, FULL, RUNNING
from terzetto.pool._assign import parse_time
from terzetto.pool._checks import check_count, check_handler
from terzetto.pool._codec import JobBody, encode_job_key, encode_notification
from terzetto.pool._errors import (
    DispatchUnknownError,
    JobExistsError,
    JobStartError,
    PoolFullError,
    PoolShutdownError,
    UnknownLetterError,
)
from terzetto.pool._job import Handler, created_at
from terzetto.pool._letter import DeadLetter, decode_letter
from terzetto.pool._names import NOTIFY, STOP, check_key, check_payload, check_schedule
from terzetto.pool._observe import Kind, Watch
from terzetto.pool._runner import JobPolicy
from terzetto.pool._schedule import Plan, Schedule, ScheduleActor, ScheduleState
from terzetto.pool._seat import Seat, WorkerSeat
from terzetto.pool._ticker import Ticker, Ticks
from terzetto.pool._ticks import Cadence, cadence_of, full_name
from terzetto.redis import LinkLostError


@attrs.frozen
class Worker:
    """A worker of a node; made by `Node.add_worker`."""

    _node: Seat
    _seat: WorkerSeat

    def __repr__(self) -> str:
        return f"<Worker {self.id} of {self._node.names.pool!r}, {len(self.jobs)} jobs>"

    @property
    def id(self) -> str:
        """Its id in the pool; it changes when the worker had to join anew."""
        return "" if self._seat.life is None else self._seat.life.worker_id

    @property
    def created_at(self) -> datetime | None:
        """When it joined the pool under this id, by Redis' clock; its place on the ring."""
        life = self._seat.life
        return None if life is None else created_at(parse_time(life.created) or 0)

    @property
    def jobs(self) -> list[str]:
        """The keys of the jobs that it runs or starts."""
        return [] if self._seat.life is None else self._seat.life.running()

    @property
    def is_closed(self) -> bool:
        """Whether it has left the pool for good."""
        return self._seat.is_closed

    async def close(self) -> None:
        """Leave the pool; the jobs go to the workers that remain.

        Cancelling this stops the waiting, not the closing.
        """
        if self._seat in self._node.workers:
            self._node.workers.remove(self._seat)
        if self._seat.ref is not None:
            await self._seat.ref.close()


class Node:
    """A member of a pool; made by `open_node`.

    Every method may be called from any task of the same `trio.run`. Methods
    that send something wait while the node restarts or Redis is away, so give
    them a deadline if they should not; they raise `ClosedError` once the node
    is closed.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<Node {self.id} of {self.pool!r} {state}, {len(self.workers)} workers>"

    @property
    def id(self) -> str:
        """Its id in the pool."""
        return self._seat.id

    @property
    def pool(self) -> str:
        """The pool's name."""
        return self._seat.names.pool

    @property
    def is_closed(self) -> bool:
        """Whether it has left the pool for good."""
        return self._seat.is_closed

    @property
    def is_shut_down(self) -> bool:
        """Whether it has heard that the whole pool is being, or was, shut down."""
        return self._seat.is_shut_down

    @property
    def workers(self) -> list[Worker]:
        """The workers of this node that were not closed, oldest first."""
        return [Worker(self._seat, seat) for seat in self._seat.workers]

    async def add_worker(
        self, handler: Handler, *, grace: float = 5.0, max_restarts: int = 3, backoff: float = 0.1
    ) -> Worker:
        """Start a worker; returns once jobs may come to it.

        Args:
            handler: an object with ``start(job)``, ``stop(key)`` and optionally
                ``notify(key, payload)``, or one async function
                ``f(job, *, task_status)``.
            grace: seconds that a job has to end once it is stopped.
            max_restarts: how often a function that crashed after it had started
                is run again; then the job is given up.
            backoff: seconds before the first restart, doubled for each further one.

        Raises:
            InvalidOptionError: an option is out of its range, the handler is
                none or not async, or the node is client-only.
            PoolShutdownError: the pool is being shut down.
            ClosedError: the node is closed.

        When cancelled, the worker is closed again.
        """
        if self._seat.options.client_only:
            raise InvalidOptionError("a client-only node has no workers: open one that is not")
        check_handler(handler)
        policy = JobPolicy(grace=grace, max_restarts=max_restarts, backoff=backoff)
        seat = WorkerSeat(handler, policy)
        life = await self._seat.wait_up()
        await life.add_worker(seat)
        self._seat.workers.append(seat)
        return Worker(self._seat, seat)

    async def dispatch(self, key: str, payload: bytes = b"") -> None:
        """Have a job run by the worker that its key belongs to; returns once it has started.

        Args:
            key: what the job is called; at most one job of a key is in the pool.
            payload: what the handler is given.

        Raises:
            JobStartError: the handler refused or failed to start it.
            JobExistsError: a job of that key runs, or is being started.
            PoolFullError: `max_queued_jobs` are waiting; nothing was sent.
            PoolShutdownError: the pool is being shut down.
            DispatchUnknownError: nobody answered within 2 x `ack_grace_period`,
                or before the node was closed.
            InvalidNameError: the key is empty, has a ``=``, or is not UTF-8.
            InvalidPayloadError: the payload is longer than a value of Redis can be.
            ClosedError: the node is closed.
            redis.exceptions.RedisError: Redis refused it, as when its memory is full.

        When cancelled, the job may have been accepted, and may yet start.
        """
        check_key(key)
        check_payload(payload)
        life = await self._seat.wait_up()
        claims, token = life.core.claims, self._seat.new_token()
        job = JobBody(key, self.id, payload, life.core.clock.now_ns())
        waiting = self._seat.returns.open()
        try:
            life.dispatch(job, token, waiting)
            await waiting.event.wait()
        finally:
            self._seat.returns.close(waiting)
            if not waiting.refusal:
                claims.release(key, token)
                if waiting.is_late or not waiting.event.is_set():
                    claims.hurry()  # nothing else holds the key: it is to be free
        if waiting.refusal:
            raise self._refusal(waiting.refusal, key)
        if waiting.failure is not None:
            raise waiting.failure
        if waiting.error or waiting.is_late:
            await claims.flush()  # likewise
        if waiting.is_cut or waiting.is_late:
            within = f"within {self._seat.patience} s"
            when = "before its node was closed" if waiting.is_cut else within
            raise DispatchUnknownError(
                f"nobody said {when} whether job {key!r} has started: dispatching it again is safe"
            )
        if waiting.error:
            raise JobStartError.from_wire(waiting.error)

    async def dispatch_many(
        self, jobs: Mapping[str, bytes] | Iterable[tuple[str, bytes]], *, at_a_time: int = 100
    ) -> dict[str, TerzettoError | RedisError | None]:
        """Dispatch many jobs at the same time; returns once each has started or failed.

        Args:
            jobs: keys and payloads, as a mapping or in pairs.
            at_a_time: how many are under way at most.

        Returns:
            For each key what `dispatch` raised, or None.

        Raises:
            InvalidNameError, InvalidPayloadError, InvalidOptionError, ClosedError: nothing
                was sent.

        When cancelled, some may have been accepted, and may yet start.
        """
        check_count("at_a_time", at_a_time, least=1)
        pairs = cast("Mapping[str, bytes]", jobs).items() if isinstance(jobs, Mapping) else jobs
        wanted = [(check_key(key), check_payload(payload)) for key, payload in pairs]
        limit = trio.CapacityLimiter(at_a_time)
        outcomes: dict[str, TerzettoError | RedisError | None] = {}

        async def one(key: str, payload: bytes) -> None:
            async with limit:
                try:
                    await self.dispatch(key, payload)
                except (TerzettoError, RedisError) as error:
                    outcomes.setdefault(key, error)
                else:
                    outcomes[key] = None

        await self._seat.wait_up()
        async with trio.open_nursery() as nursery:
            for key, payload in wanted:
                nursery.start_soon(one, key, payload)
        return {key: outcomes[key] for key, _ in wanted}

    async def stop_job(self, key: str) -> None:
        """Ask whoever runs the job to stop it; returns once that was sent.

        A key that nobody runs is no error.

        Raises:
            InvalidNameError: the key cannot be one.
            ClosedError: the node is closed.

        When cancelled, it may have been sent.
        """
        check_key(key)
        life = await self._seat.wait_up()
        while True:
            with suppress(LinkLostError):  # stopping twice is stopping
                await life.core.store.send(STOP, encode_job_key(key))
                return

    async def notify(self, key: str, payload: bytes) -> None:
        """Send a notification to a job; returns once that was sent.

        A key that nobody runs is no error: the notification is dropped.

        Raises:
            LinkLostError: the reply was lost; `may_have_run` says whether the
                job may get the notification all the same.
            InvalidNameError: the key cannot be one.
            InvalidPayloadError: the payload is longer than a value of Redis can be.
            ClosedError: the node is closed.

        When cancelled, it may have been sent.
        """
        check_key(key)
        check_payload(payload)
        life = await self._seat.wait_up()
        await life.core.store.send(NOTIFY, encode_notification(key, payload))

    async def job_keys(self) -> list[str]:
        """Return the keys of all jobs that run in the pool, sorted."""
        life = await self._seat.wait_up()
        return await life.core.store.job_keys()

    async def job_payload(self, key: str) -> bytes | None:
        """Return a job's payload; None if there is no such job in the pool.

        Raises:
            InvalidNameError: the key cannot be one.
            ClosedError: the node is closed.
        """
        check_key(key)
        life = await self._seat.wait_up()
        return await life.core.store.payload(key)

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the jobs of the pool that were given up, sorted by key."""
        life = await self._seat.wait_up()
        letters = await life.core.store.letters()
        return [decode_letter(key, letters[key]) for key in sorted(letters)]

    async def retry_dead_letter(self, key: str) -> None:
        """Dispatch a job again that was given up; the letter goes once it has started.

        Raises what `dispatch` raises, and:
            UnknownLetterError: there is no letter of that key.

        When cancelled, the job may yet start, and the letter may stay.
        """
        life = await self._seat.wait_up()
        letter = (await life.core.store.letters()).get(key)
        if letter is None:
            raise UnknownLetterError(f"pool {self.pool!r} has no dead letter of job {key!r}")
        await self.dispatch(key, decode_letter(key, letter).payload)
        await life.core.store.discard(key, letter)

    async def discard_dead_letter(self, key: str) -> bool:
        """Forget a job that was given up; False if there is no letter of that key.

        When cancelled, it may be forgotten.
        """
        life = await self._seat.wait_up()
        return await life.core.store.discard(key)

    @asynccontextmanager
    async def open_ticker(
        self, name: str, when: float | str, *, zone: tzinfo = UTC
    ) -> AsyncGenerator[Ticker]:
        """Take part in a ticker of the pool for the time of a block.

        All who open a ticker of that name share its ticks: each goes to one of
        them. Those of Go do too, if `when` is an interval. Leaving the block
        closes it here; `Ticker.stop` ends it for all.

        Args:
            name: what the ticker is called in the pool.
            when: seconds between two ticks, or a cron spec such as
                ``"30 6 * * MON-FRI"`` or ``"@daily"``. All need the same: who opens
                the ticker with another one sets it anew, for all.
            zone: the zone of the cron spec, if that names none (``"TZ=Europe/Paris
                30 6 * * *"``).

        Raises:
            InvalidNameError, InvalidOptionError: the name or time cannot be
                (`InvalidCronError`: the spec cannot be read), or the node is client-only.
            ClosedError: the node is closed.
        """
        yield await self._new_ticker(name, self._check_ticker(name, when, zone))

    def open_schedule(
        self, name: str, when: float | str, plan: Plan, *, zone: tzinfo = UTC
    ) -> AbstractAsyncContextManager[Schedule]:
        """Have a plan decide what runs, now and again and again, for the time of a block.

        Every node that opens the schedule calls the plan once at the beginning;
        after that one of them does for each tick. A plan that raises, or returns
        what is no `JobPlan`, is logged and called again, later each time, until it
        gives a plan or the next tick is due. A job that does not start is logged
        and tried again at the next tick. Leaving the block ends it here; its jobs
        go on.

        Args:
            name: what the schedule is called in the pool; it names a map of the pool.
            when: seconds between two calls, or a cron spec, as for `open_ticker`.
            plan: an async function that returns a `JobPlan`.
            zone: the zone of the cron spec, if that names none.

        Raises:
            InvalidNameError: the name is one of the pool's own, or cannot be one.
            InvalidOptionError: the time cannot be (`InvalidCronError`: the spec cannot
                be read), the plan is no async function, or the node is client-only.
            ScheduleStoppedError: the first call of the plan ends the schedule.
            ClosedError: the node is closed.
        """
        cadence = self._check_ticker(name, when, zone)
        if self.is_closed:
            raise ClosedError(f"the node of pool {self.pool!r} is closed: open another")
        map_name = check_schedule(self.pool, name)
        if not is_async(plan):
            raise InvalidOptionError(f"{plan!r:.200} is no plan: give an async function")
        state = ScheduleState()
        return open_child(
            Child(
                partial(
                    ScheduleActor,
                    node=self,
                    log=self._seat.log,
                    name=name,
                    redis=self._seat.redis,
                    map_name=map_name,
                    plan=plan,
                    cadence=cadence,
                    open_ticker=partial(self._new_ticker, name, cadence),
                    read_epoch=self._read_epoch,
                    state=state,
                ),
                name=f"schedule {name}".replace("/", "|"),
                face=lambda _: Schedule(name, state),
            )
        )

    async def _read_epoch(self) -> str:
        life = await self._seat.wait_up()
        return await life.core.store.epoch()

    async def _new_ticker(self, name: str, cadence: Cadence) -> Ticker:
        ticks = Ticks(self._seat, full_name(self.pool, name), cadence)
        await ticks.begin()
        return Ticker(name, ticks)

    def _check_ticker(self, name: str, when: float | str, zone: tzinfo) -> Cadence:
        if self._seat.options.client_only:
            raise InvalidOptionError("a client-only node has no tickers: open one that is not")
        full_name(self.pool, name)
        return cadence_of(when, zone)

    @property
    def pool_workers(self) -> list[str]:
        """The ids of all workers in the pool as this node knows it, oldest first.

        Client-only nodes know it too. Empty while the node restarts, and once it is closed.
        """
        return [] if self._seat.life is None else self._seat.life.core.fleet.worker_ids()

    @property
    def counts(self) -> dict[Kind, int]:
        """How often each kind of `NodeEvent` has happened in this node since it was opened."""
        return dict(self._seat.watchers.counts)

    @contextmanager
    def watch(self, *, buffer_size: int = 1000) -> Generator[Watch]:
        """Hear what happens in this node, from now on, for the time of a block."""
        with self._seat.watchers.watch(buffer_size) as watch:
            yield watch

    async def close(self) -> None:
        """Leave the pool; this node's jobs go to the nodes that remain, payloads and all.

        Closing twice, or while a shutdown goes on, is no error. Cancelling
        stops the waiting, not the closing.
        """
        if self._seat.ref is not None:
            await self._seat.ref.close()

    async def shutdown(self) -> None:
        """Stop every job in the whole pool and close all nodes; returns once this one is closed.

        Client-only nodes close too, but those of Go do not. Nothing is sent
        again, and nothing is left of the pool in Redis when all nodes could be
        waited for; the map ``sink:events:keepalive``, which all pools of a
        database share, goes with the last of them. Asking twice, from any node, is no error.
        Cancelling stops the waiting, not the shutdown, and if this process dies half-way,
        another node finishes it, or else the next one that joins.

        Raises:
            InvalidOptionError: a client-only node may not ask for it.
        """
        if self._seat.options.client_only:
            raise InvalidOptionError("a client-only node cannot shut the pool down: ask another")
        if self._seat.ref is None or self.is_closed:
            await trio.lowlevel.checkpoint()
            return
        life = await self._seat.wait_up()
        await life.core.store.ask_shutdown(self.id)
        await self._seat.ref.wait_stopped()

    def _refusal(self, why: str, key: str) -> TerzettoError:
        if why == FULL:
            return PoolFullError(
                f"pool {self.pool!r} has {self._seat.options.max_queued_jobs} events waiting: "
                "add workers, or dispatch again later"
            )
        if why == ENDING:
            return PoolShutdownError(f"pool {self.pool!r} is being shut down: it takes no job")
        state = "running" if why == RUNNING else "being started"
        return JobExistsError(f"job {key!r} is {state}: stop it first, or leave it be")
