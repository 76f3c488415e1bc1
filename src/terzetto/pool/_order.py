"""What a worker is told to do, and how the one who told it is answered.

Pure. Orders come from a worker's stream, from the router of its node, and from
inside the worker; the outcome goes back through the order's replies, which
never wait.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from terzetto.pool._codec import (
    EVENT_ID,
    Ack,
    JobBody,
    decode_envelope,
    decode_job,
    decode_job_key,
    decode_notification,
)
from terzetto.pool._errors import MalformedBodyError, error_text
from terzetto.pool._names import NOTIFY, START, STOP
from terzetto.streaming import Event

RETRY: Final = None
"""The answer that is none: not here, or not now; ask again."""

Reply: TypeAlias = Callable[[str | None], None]
"""Takes the outcome: ``""`` for success, an error's text, or `RETRY`."""


@attrs.define(eq=False)
class Order:
    """Something that a worker is told to do with one of its jobs.

    `name` is an event's name, or one of the three below that come from inside.
    """

    name: str
    key: str
    job: JobBody | None = None
    payload: bytes = b""
    error: str = ""
    replies: list[Reply] = attrs.field(factory=list)
    is_owned: bool = False
    """Whether the worker owns the job already, which it is to start."""
    failure: BaseException | None = None
    """What the handler raised, if it has been called already."""

    def repeats(self, other: "Order") -> bool:
        """Tell whether it is the start of the same dispatch as another, which was told twice.

        One that is owned is none: the job was made its worker's for it, and nobody else starts it.
        """
        mine, its = self.job, other.job
        if mine is None or its is None or self.is_owned:
            return False
        return (mine.node_id, mine.created_ns, mine.payload) == (
            its.node_id,
            its.created_ns,
            its.payload,
        )

    def raise_failure(self) -> None:
        """Raise what the handler raised, if it has been called already."""
        if self.failure is not None:
            raise self.failure

    def reply(self, outcome: str | None) -> None:
        """Answer everybody who asked."""
        for reply in self.replies:
            reply(outcome)
        self.replies.clear()


RELEASE: Final = "release"
REASSERT: Final = "reassert"
ENDED: Final = "ended"


def read_letter(event: Event, answer: Callable[[str, Ack], None]) -> Order:
    """Return the order of an event of a worker's stream.

    Args:
        event: the event.
        answer: sends an answer to a node, by its id.

    Raises:
        MalformedBodyError: it is broken; whoever sent it, if that is known, was told so.
    """
    envelope = decode_envelope(event.payload)

    def reply(outcome: str | None) -> None:
        if outcome is not None:
            answer(envelope.sender, Ack(event.id, outcome))

    try:
        return read_order(event.name, envelope.body, reply, event_id=event.topic)
    except MalformedBodyError as error:
        reply(error_text(error))
        raise


def read_order(
    name: str, body: bytes, reply: Reply, known: JobBody | None = None, *, event_id: str = ""
) -> Order:
    """Return the order of an event's name and body, as both roads bring them.

    Args:
        name: the event's name.
        body: its body.
        reply: who is answered.
        known: the job of a start, if it has been read.
        event_id: the id of the pool's event, if whoever sent it here said so; what is
            none is left alone.

    Raises:
        MalformedBodyError: the body is broken, or the name is unknown.
    """
    if name == START:
        job = known
        if job is None:
            job = decode_job(body, event_id if EVENT_ID.fullmatch(event_id) else "")
        return Order(START, job.key, job=job, replies=[reply])
    if name == STOP:
        return Order(STOP, decode_job_key(body), replies=[reply])
    if name == NOTIFY:
        key, payload = decode_notification(body)
        return Order(NOTIFY, key, payload=payload, replies=[reply])
    raise MalformedBodyError(f"an event named {name!r} has no meaning for a worker")
