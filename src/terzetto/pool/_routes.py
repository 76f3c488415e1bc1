"""Where an event of the pool's stream goes, and what became of it.

Pure: decisions and bookkeeping only; the node carries them out.

Theory of operation. An event stays pending in the sink's group until somebody
answered for it, so nothing that is forgotten here is lost: after the grace
period the group hands it to some node again. Between its arrival and its end an
event is, here, in one of these states:

    arrived --deliver--> with a worker --answered--> done (acked, removed)
    arrived --hold-----> held --time or a change of the fleet--> arrived
    with a worker --worker gone, or it asks to retry--> arrived or held
    any --too old, nobody to tell--> done

An event that comes again while it is with a worker of this node is the group's
redelivery of a slow start: it is left alone. With a worker elsewhere it is sent
again, for the first message may have been trimmed from its stream; workers of
ours start a job once, however often they are told.

Answers may overtake the reply to the command that sent the event, so an answer
that nothing matches is kept for a while.
"""

from collections import OrderedDict
from enum import Enum, auto
from typing import Final

import attrs

from terzetto.pool._codec import JobBody, decode_job, decode_job_key, decode_notification
from terzetto.pool._errors import MalformedBodyError
from terzetto.pool._fleet import Fleet
from terzetto.pool._names import NOTIFY, START, STOP

TOO_OLD: Final = 120.0
"""Seconds after which an event is given up, on the wire for all peers."""

_EARLY_ANSWERS: Final = 4096
_FIRST_RETRY: Final = 0.02
_LAST_RETRY: Final = 1.0


@attrs.define  # not frozen: one is made for every dispatch
class PoolEvent:
    """An event of the pool's stream, as far as a router has to read it."""

    event_id: str
    name: str
    key: str
    body: bytes
    job: JobBody | None = None

    @property
    def sent_ms(self) -> int:
        """When it was sent, by the server's clock."""
        return int(self.event_id.partition("-")[0])


def read_event(event_id: str, name: str, body: bytes) -> PoolEvent:
    """Read an event's body.

    Raises:
        MalformedBodyError: the body is broken, or the event's name is unknown.
    """
    if name == START:
        job = decode_job(body, event_id)
        return PoolEvent(event_id, name, job.key, body, job)
    if name == STOP:
        return PoolEvent(event_id, name, decode_job_key(body), body)
    if name == NOTIFY:
        key, _ = decode_notification(body)
        return PoolEvent(event_id, name, key, body)
    raise MalformedBodyError(f"an event named {name!r} has no meaning on a pool's stream")


@attrs.frozen
class Deliver:
    """Give the event to this worker."""

    worker_id: str


class Verdict(Enum):
    """What else may be decided about an event."""

    HOLD = auto()  # nobody can take it now; try again
    ASK_PAYLOAD = auto()  # nobody owns the key: hold it if there is a payload, else drop it
    DROP = auto()  # too old: acknowledge it unrouted


def decide(
    event: PoolEvent,
    fleet: Fleet,
    *,
    now: float,
    server_ms: float,
    start: "Route | None" = None,
) -> Deliver | Verdict:
    """Decide where an event goes.

    Args:
        event: the event.
        fleet: the pool as it is known.
        start: a start of the same key that is on its way through this node; what
            comes after it follows it.
        now: the monotonic time in seconds.
        server_ms: the server's clock in Unix milliseconds.
    """
    if server_ms - event.sent_ms > TOO_OLD * 1000:
        return Verdict.DROP
    owners = fleet.owners(event.key, now)
    if event.job is None:
        if start is not None:
            return Verdict.HOLD if start.worker_id is None else Deliver(start.worker_id)
        if not owners:
            return Verdict.ASK_PAYLOAD
        return Deliver(owners[0]) if len(owners) == 1 else Verdict.HOLD
    # A start whose key has an owner was delivered before, and that worker answers
    # for it. Not so one that was sent again: its owner has just let it go.
    if len(owners) == 1 and not event.job.requeued:
        return Deliver(owners[0])
    worker_id = fleet.place(event.key, now)
    return Verdict.HOLD if worker_id is None else Deliver(worker_id)


@attrs.define
class Route:
    """An event on its way."""

    event: PoolEvent
    worker_id: str | None = None
    worker_event_id: str | None = None
    local: bool = False
    tries: int = 0
    due: float = 0.0
    expires: float = 0.0
    is_held: bool = False
    """Whether it waits for another try. One that is with nobody and not held is
    being decided about, or sent, right now."""


@attrs.define
class Routes:
    """All events that this node has taken from the group and not yet ended."""

    _routes: dict[str, Route] = attrs.field(factory=dict[str, Route])
    _starts: dict[str, str] = attrs.field(factory=dict[str, str])
    _sent: dict[tuple[str, str], str] = attrs.field(factory=dict[tuple[str, str], str])
    _early: OrderedDict[tuple[str, str], str] = attrs.field(
        factory=OrderedDict[tuple[str, str], str]
    )

    def __len__(self) -> int:
        return len(self._routes)

    def arrive(self, event: PoolEvent, now: float) -> bool:
        """Take in an event; False if it is with a worker of this node already."""
        known = self._routes.get(event.event_id)
        if known is not None:
            if known.local:
                return False
            self._unsend(known)
        self._routes[event.event_id] = Route(event, expires=now + TOO_OLD)
        if event.job is not None:
            self._starts[event.key] = event.event_id
        return True

    def start_of(self, event: PoolEvent) -> Route | None:
        """Return the start of the event's key that is on its way, if it is another event."""
        start = self._starts.get(event.key)
        return None if start is None or start == event.event_id else self._routes.get(start)

    def get(self, event_id: str) -> Route | None:
        """Return an event that is on its way."""
        return self._routes.get(event_id)

    def deliver_here(self, event_id: str, worker_id: str) -> None:
        """Note that an event went to a worker of this node."""
        route = self._routes[event_id]
        route.is_held = False
        route.worker_id, route.worker_event_id, route.local = worker_id, None, True

    def deliver_there(self, event_id: str, worker_id: str, worker_event_id: str) -> str | None:
        """Note that an event went over a worker's stream.

        Returns:
            The answer, if it is here already: its error, ``""`` for success.
        """
        route = self._routes.get(event_id)
        if route is None:
            return None
        route.is_held = False
        route.worker_id, route.worker_event_id, route.local = worker_id, worker_event_id, False
        early = self._early.pop((worker_id, worker_event_id), None)
        if early is None:
            self._sent[worker_id, worker_event_id] = event_id
        return early

    def hold(self, event_id: str, now: float) -> None:
        """Note that nobody could take an event; it is due again after a back-off."""
        route = self._routes.get(event_id)
        if route is None:
            return
        self._unsend(route)
        route.is_held = True
        route.worker_id, route.worker_event_id, route.local = None, None, False
        route.due = now + min(_FIRST_RETRY * 2 ** min(route.tries, 10), _LAST_RETRY)
        route.tries += 1

    @property
    def has_held(self) -> bool:
        """Whether anything waits for another try."""
        return any(route.is_held for route in self._routes.values())

    def kept_here(self) -> list[PoolEvent]:
        """Return the events that are with a worker of this node, or held."""
        return [route.event for route in self._routes.values() if route.is_held or route.local]

    def lose(self, event_id: str) -> None:
        """Note that another node has an event now; a worker of ours may still answer for it."""
        route = self._routes.get(event_id)
        if route is not None and route.is_held:
            self.end(event_id)

    def answered(self, worker_id: str, worker_event_id: str, error: str) -> str | None:
        """Match an answer from a worker's stream with the event it is about.

        Returns:
            The event's id, or None if nothing matches (yet).
        """
        event_id = self._sent.get((worker_id, worker_event_id))
        if event_id is None:
            self._early[worker_id, worker_event_id] = error
            while len(self._early) > _EARLY_ANSWERS:
                self._early.popitem(last=False)
        return event_id

    def end(self, event_id: str) -> Route | None:
        """Forget an event that has come to its end."""
        route = self._routes.pop(event_id, None)
        if route is not None:
            self._unsend(route)
            if self._starts.get(route.event.key) == event_id:
                del self._starts[route.event.key]
        return route

    def due(self, now: float) -> list[PoolEvent]:
        """Take the held events whose next try has come; forgets what expired."""
        for event_id in [key for key, route in self._routes.items() if route.expires < now]:
            self.end(event_id)
        due = [route for route in self._routes.values() if route.is_held and route.due <= now]
        for route in due:
            route.is_held = False
        return [route.event for route in due]

    def next_due(self) -> float | None:
        """Return when the next held event is due, or None."""
        return min((r.due for r in self._routes.values() if r.is_held), default=None)

    def hurry(self, now: float) -> None:
        """Make every held event due: the fleet has changed."""
        for route in self._routes.values():
            if route.is_held:
                route.due = now

    def strand(self, fleet: Fleet, now: float) -> None:
        """Hold what is with workers that are no longer in the pool, due at once."""
        for route in list(self._routes.values()):
            worker_id = route.worker_id
            if worker_id is not None and not route.local and not fleet.is_member(worker_id):
                self.hold(route.event.event_id, now)
                route.due = now

    def _unsend(self, route: Route) -> None:
        if route.worker_id is not None and route.worker_event_id is not None:
            self._sent.pop((route.worker_id, route.worker_event_id), None)
