"""What the parts of one life of a server share: options, slots, running attempts, bells.

The parts (fetcher, crew, upkeep, …) know this object and not each other. All of
it lives in one trio run, so its methods that do not await are atomic.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

import attrs
import trio
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    checkpoint,
    current_task,
    reschedule,
    wait_task_rescheduled,
)

from terzetto._shared._logging import Logger
from terzetto.tasks._attempt import Attempt
from terzetto.tasks._broker import Broker
from terzetto.tasks._broker_values import Lease
from terzetto.tasks._held import AHEAD, Held
from terzetto.tasks._message import ServerInfo, WorkerInfo
from terzetto.tasks._options import ServerOptions
from terzetto.tasks._queues import QueueOrder
from terzetto.tasks._router import Handle

Status = Literal["new", "active", "stopped", "closed"]

_UNWRITTEN: Final = 64  # outcomes that may wait to be written, beside one for each slot


@attrs.frozen(kw_only=True)
class Identity:
    """Who a server is, for other processes."""

    host: str
    pid: int
    server_id: str


@attrs.define(kw_only=True)
class Counts:
    """What a server has done since it was opened."""

    succeeded: int = 0
    retried: int = 0
    archived: int = 0
    handed_back: int = 0
    postponed: int = 0
    lost: int = 0
    recovered: int = 0


class Bell:
    """Wakes one task that waits; a ring that nobody waits for is kept."""

    def __init__(self) -> None:
        self._is_rung = False
        self._sleeper: Task | None = None

    def ring(self) -> None:
        """Wake whoever waits, or the next who does."""
        sleeper = self._sleeper
        if sleeper is None:
            self._is_rung = True
        else:
            self._sleeper = None
            reschedule(sleeper)

    async def wait(self, seconds: float = math.inf) -> None:
        """Wait for a ring, at most so long."""
        if self._is_rung:
            await checkpoint()
        elif seconds == math.inf:
            await self._sleep()
        else:
            with trio.move_on_after(seconds):
                await self._sleep()
        self._is_rung = False  # rings until the sleeper was awake are one

    async def _sleep(self) -> None:
        self._sleeper = current_task()
        await wait_task_rescheduled(self._leave)

    def _leave(self, _: RaiseCancelT) -> Abort:
        self._sleeper = None
        return Abort.SUCCEEDED


class Crew(Protocol):
    """What the others need of who runs tasks."""

    def begin(self, leases: Sequence[Lease]) -> None:
        """Start an attempt with each, in their order."""
        ...

    def cancel(self, lease: Lease, *, drop: bool) -> None:
        """End a task that was not begun as one that was cancelled; `drop`: for good."""
        ...


@attrs.define(eq=False, kw_only=True)
class Core:
    """One life of a server, as its parts see it."""

    broker: Broker
    options: ServerOptions
    identity: Identity
    log: Logger
    find: Callable[[str], Handle]
    counts: Counts
    started_at: float
    order: QueueOrder = attrs.field(init=False)
    chance: random.Random = attrs.field(factory=random.Random)
    crew: Crew | None = None
    status: Status = "active"
    running: dict[str, Attempt] = attrs.field(factory=dict[str, Attempt])
    """All attempts whose outcome is not written yet, by the token of their lease."""
    busy: int = 0
    """Slots that are taken: functions that run, or are about to."""
    held: Held = attrs.field(init=False)
    """What was taken before there was a slot for it."""
    work: Bell = attrs.field(factory=Bell)
    """Rung when there may be something to fetch, or room for it."""
    due: Bell = attrs.field(factory=Bell)
    """Rung when a task has become due earlier than the forwarder looks again."""
    forward_at: float = math.inf
    """When the forwarder looks again, in Unix seconds; infinite while it is looking."""
    changed: Bell = attrs.field(factory=Bell)
    """Rung when the server's status has changed."""
    listens: trio.Event = attrs.field(factory=trio.Event)
    """Set when it hears whom to cancel, or knows that it can't."""
    _waits_for_room_since: float | None = None
    """Since when the fetcher does, on trio's clock."""
    _quiet: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        """Make the order in which queues are asked."""
        options = self.options
        self.order = QueueOrder(options.queues, options.strict)
        # What is held would be ahead of what comes into a queue of a higher priority.
        self.held = Held(0 if options.strict and len(options.queues) > 1 else AHEAD)

    @property
    def is_fetching(self) -> bool:
        """Whether it takes tasks."""
        return self.status == "active"

    def set_status(self, status: Status) -> None:
        """Change the status; it only goes on, from active to stopped to closed."""
        if self.status not in (status, "closed"):
            self.status = status
            self.work.ring()
            self.changed.ring()

    # Slots --------------------------------------------------------------------------

    def room(self) -> int:
        """Return how many tasks may be taken now."""
        concurrency = self.options.concurrency
        unwritten = 2 * concurrency + _UNWRITTEN - len(self.running)
        return min(concurrency - self.busy, unwritten)

    async def wait_room(self, seconds: float) -> None:
        """Wait until a slot is free, or the status changes, at most so long."""
        self._waits_for_room_since = trio.current_time()
        try:
            await self.work.wait(seconds)
        finally:
            self._waits_for_room_since = None

    def began(self, attempt: Attempt) -> None:
        """Take note of an attempt; it has a slot."""
        self.running[attempt.lease.token] = attempt

    def function_ended(self) -> None:
        """Give a slot back."""
        self.busy -= 1
        if (since := self._waits_for_room_since) is not None:
            self._waits_for_room_since = None
            now = trio.current_time()
            self.held.slot_freed(now, waited=now - since)
            self.work.ring()

    def take_held(self) -> Lease | None:
        """Give a slot that is free to a task that is held, if there is one."""
        is_for_it = self.is_fetching and self.crew is not None  # else it goes back
        lease = self.held.take(trio.current_time()) if is_for_it else None
        if lease is not None:
            self.busy += 1
        return lease

    def settled(self, attempt: Attempt) -> None:
        """Forget an attempt whose outcome is written, or not to be."""
        self.running.pop(attempt.lease.token, None)
        if self._waits_for_room_since is not None:
            self.work.ring()
        if not self.running:
            self._quiet.set()

    async def wait_quiet(self) -> None:
        """Wait until nothing runs and every outcome is written."""
        while self.running or self.busy:
            self._quiet = trio.Event()
            await self._quiet.wait()

    # For others ---------------------------------------------------------------------

    def server_info(self) -> ServerInfo:
        """Return what the server says of itself."""
        return ServerInfo(
            host=self.identity.host,
            pid=self.identity.pid,
            server_id=self.identity.server_id,
            concurrency=self.options.concurrency,
            queues=self.options.queues,
            strict_priority=self.options.strict,
            status=self.status,
            started_at=self.started_at,
            active_workers=self.busy,
        )

    def workers(self) -> list[WorkerInfo]:
        """Return what the server is running."""
        return [
            WorkerInfo(
                host=self.identity.host,
                pid=self.identity.pid,
                server_id=self.identity.server_id,
                task_id=attempt.lease.message.id,
                task_type=attempt.lease.message.type,
                payload=attempt.lease.message.payload,
                queue=attempt.lease.queue,
                started_at=attempt.started_at,
                deadline=attempt.deadline_at,
            )
            for attempt in self.running.values()
            if attempt.is_running
        ]
