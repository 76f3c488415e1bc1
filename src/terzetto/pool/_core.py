"""What the parts of one life of a node share: options, clock, outbox, fleet.

The parts (router, workers, upkeep, dispatches) know this object and not each
other. All of it lives in one trio run, so its methods that do not await are
atomic.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._logging import Logger
from terzetto._shared._texts import describe_error
from terzetto.pool._checks import check_bool, check_count, check_seconds
from terzetto.pool._claims import Claims, Keeper
from terzetto.pool._codec import Ack, JobBody, encode_ack, encode_envelope
from terzetto.pool._errors import error_text
from terzetto.pool._fleet import Fleet
from terzetto.pool._homes import Home, Homes
from terzetto.pool._keys import add_if_exists
from terzetto.pool._names import ACK, Names
from terzetto.pool._observe import Kind, Watchers
from terzetto.pool._order import Order
from terzetto.pool._store import Store
from terzetto.redis import Arg


def _positive(_: object, attribute: "attrs.Attribute[float]", value: float) -> None:
    check_seconds(attribute.name, value)


@attrs.frozen(kw_only=True)
class Options:
    """The options of a node; times in seconds. All nodes of a pool need the same TTLs."""

    worker_ttl: float = attrs.field(default=30.0, validator=_positive)
    worker_shutdown_ttl: float = attrs.field(default=120.0, validator=_positive)
    ack_grace_period: float = attrs.field(default=20.0, validator=_positive)
    job_sink_block_duration: float = attrs.field(default=5.0, validator=_positive)
    max_queued_jobs: int = 1000
    client_only: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        check_count("max_queued_jobs", self.max_queued_jobs)
        check_bool("client_only", self.client_only)


@attrs.define
class ServerClock:
    """The clock of the Redis server, carried on by our own monotonic clock."""

    _offset_us: float = 0.0

    def set(self, server_us: int) -> None:
        """Take in what the server's clock has just said."""
        self._offset_us = server_us - trio.current_time() * 1e6

    def now_ns(self) -> int:
        """Return the server's time in Unix nanoseconds."""
        return round(trio.current_time() * 1e6 + self._offset_us) * 1000

    def ms_at(self, at: float) -> float:
        """Return what the server's time was, in Unix milliseconds, when ours was `at`."""
        return (at * 1e6 + self._offset_us) / 1000


@attrs.define(eq=False)
class Outbox:
    """Answers, whose givers wait for no reply of Redis.

    An answer goes at once, from the task that gives it. One that could not be sent, or was
    not heard of, is sent by `run` until it is: it may come twice, which harms nobody.
    """

    store: Store
    log: Logger
    _commands: list[Sequence[Arg]] = attrs.field(factory=list[Sequence[Arg]])
    _unheard: int = 0
    """How many answers are on their way."""
    _is_sending: bool = False
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _idle: trio.Event = attrs.field(factory=trio.Event)

    def answer(self, stream: str, name: str, body: bytes) -> None:
        """Add an event to a node's stream, if that is there."""
        command = add_if_exists(stream, name, body)
        if self.store.redis.post(*command, on_reply=partial(self._hear, command)):
            self._unheard += 1
        else:
            self._repeat(command)

    def _hear(self, command: Sequence[Arg], reply: object) -> None:
        self._unheard -= 1
        if isinstance(reply, Exception):
            self._repeat(command)
        self._rest()

    def _repeat(self, command: Sequence[Arg]) -> None:
        self._commands.append(command)
        self._wake.set()

    def _rest(self) -> None:
        if not (self._commands or self._unheard or self._is_sending):
            self._idle.set()
            self._idle = trio.Event()

    async def run(self) -> None:
        """Send what has to be sent again, for ever; cancelling it loses what is not yet sent."""
        while True:
            if not self._commands:
                await self._wake.wait()
            self._wake = trio.Event()
            batch, self._commands = self._commands[:500], self._commands[500:]
            self._is_sending = True
            try:
                await self.store.execute_many(batch)
            except RedisError as error:
                # A refused answer is an answer lost: the event comes round again.
                self.log.warning("an answer was refused by Redis", error=describe_error(error))
            finally:
                self._is_sending = False
            self._rest()

    async def flush(self) -> None:
        """Wait until every answer has been sent."""
        if self._commands or self._unheard or self._is_sending:
            await self._idle.wait()


class LocalWorker(Keeper, Protocol):
    """What a node knows of a worker of its own; `created` is what stands in the pool's map."""

    @property
    def is_leaving(self) -> bool:
        """Whether it takes no more orders, now or ever."""
        ...

    def offer(self, order: Order) -> None:
        """Give an order over the short road; its replies tell what came of it."""
        ...

    def keep_place(self, job: JobBody) -> bool:
        """Keep the place of a job that is being dispatched; False if that cannot be now."""
        ...

    def running(self) -> list[str]:
        """Return the keys of the jobs that run or start here."""
        ...

    def settled(self) -> list[str]:
        """Return the keys of the jobs that run here and nothing is being done with."""
        ...

    def rebalance(self) -> None:
        """Let those jobs go that belong elsewhere now."""
        ...

    def evict(self) -> None:
        """Stop at once: the worker is no longer in the pool."""
        ...

    async def readmit(self) -> None:
        """Join again with all jobs: Redis has lost the pool."""
        ...

    def reassert(self, keys: Iterable[str]) -> None:
        """Write again that these jobs are owned here."""
        ...

    async def stop_all(self) -> None:
        """Stop every job for good."""
        ...


@attrs.define(eq=False, kw_only=True)
class Core:
    """One life of a node, as its parts see it."""

    node_id: str
    names: Names
    options: Options
    store: Store
    log: Logger
    watchers: Watchers
    fleet: Fleet
    outbox: Outbox
    claims: Claims
    homes: Homes
    clock: ServerClock = attrs.field(factory=ServerClock)
    workers: dict[str, LocalWorker] = attrs.field(factory=dict[str, LocalWorker])
    is_shutting_down: bool = False
    workers_revision: int = 0
    """The highest revision of the map of workers that was seen; Redis never lowers it
    but by losing the map."""
    losses: int = 0
    """How often it was seen that Redis had lost a map of workers or nodes."""

    _changed: trio.Event = attrs.field(factory=trio.Event)

    @property
    def home(self) -> str:
        """Where nodes of ours tell this one of its workers' jobs, as it is written down."""
        router = self.claims.router
        return "" if router is None else str(Home(self.node_id, router.consumer))

    def report(
        self,
        kind: Kind,
        *,
        key: str = "",
        worker_id: str = "",
        text: str = "",
        error: BaseException | None = None,
    ) -> None:
        """Tell the watchers and the log what happened; the log gets the error's traceback."""
        self.watchers.report(kind, key, worker_id, text)
        shown: dict[str, object] = {}
        if key:
            shown["key"] = key
        if worker_id:
            shown["worker_id"] = worker_id
        if text:
            shown["text"] = text
        if error is not None:
            shown["exc_info"] = error
        if kind in {"dead_letter", "worker_evicted", "job_restarted", "job_crashed"}:
            self.log.warning(kind, **shown)
        else:
            self.log.debug(kind, **shown)

    def report_crash(self, worker_id: str, kind: Kind, key: str, crash: BaseException) -> None:
        """Tell of what a job's handler raised."""
        self.report(kind, key=key, worker_id=worker_id, text=error_text(crash), error=crash)

    def warn(self, what: str, key: str, error: Exception) -> None:
        """Log an error about a job, with its traceback."""
        self.log.warning(what, key=key, error=describe_error(error), exc_info=error)

    def fleet_changed(self) -> None:
        """Wake those who wait for a change of the fleet."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_fleet_changed(self) -> None:
        """Wait for the next change of the fleet."""
        await self._changed.wait()

    def answer(self, worker_id: str, sender: str, ack: Ack) -> None:
        """Send a worker's answer to the node that routed the event to it."""
        body = encode_envelope(worker_id, encode_ack(ack))
        self.outbox.answer(self.names.node_stream(sender), ACK, body)
