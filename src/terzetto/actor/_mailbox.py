"""The mailbox: a bounded queue of messages with one receiver and any number of senders.

It is not a trio memory channel because three promises need its inside: an ask
that is cancelled gives its place back at once, a close hands back exactly what
was accepted, and a restart keeps what waits. Actors that want a channel get one
(`Actor.run`), fed from here.

Invariants: `senders` is empty unless the queue is full; a sender that waits has
not been accepted; after `close` nothing is accepted until `reopen`. All methods that change
state run without a schedule point. Called by refs (in the sender's task) and by
the cell (in the actor's).
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
import trio
from outcome import Error

from terzetto.actor._errors import ActorStoppedError
from terzetto.actor._message import Handler, Message
from terzetto.actor._question import Question

Item: TypeAlias = tuple[Handler, tuple[Any, ...], dict[str, Any], float, Question | None]
"""What is called with what, when it was sent, and who asked: a message as it waits.

A plain tuple, because making a `Message` of everything that is told would cost
a tenth of its price.
"""


def as_message(item: Item) -> Message:
    """Return the message that waits as `item`."""
    method, args, kwargs, sent_at, question = item
    return Message(method, args, kwargs, sent_at) if question is None else question


def as_item(message: Message) -> Item:
    """Return `message` as it waits."""
    question = message if isinstance(message, Question) else None
    return (message.method, message.args, message.kwargs, message.sent_at, question)


@attrs.define(eq=False)
class Mailbox:
    """The queue of one actor; it outlives restarts."""

    owner: str
    """The path of the actor, for errors."""

    capacity: int
    now: Callable[[], float]
    """Tells the time, on trio's clock."""

    queue: deque[Item] = attrs.field(factory=deque[Item])
    closed_because: str | None = None
    has_senders: bool = False
    """Whether senders wait for room."""

    receiver: trio.lowlevel.Task | None = None
    """The task that sleeps in `wait`: the queue is empty then."""

    _room: int = attrs.field(init=False)  # the capacity, or nothing once it is closed
    _senders: OrderedDict[Message, trio.lowlevel.Task | None] | None = None
    _offered: tuple[Message, trio.CancelScope] | None = None  # what waits in an inbox's channel
    # When the receiver was woken by a message; None from when it runs. What is sent
    # between bears this time: they are at most a turn apart, and a clock costs more
    # than the place in the queue.
    _woken_at: float | None = None

    def __attrs_post_init__(self) -> None:
        """Be open."""
        self._room = self.capacity

    def stopped_error(self) -> ActorStoppedError:
        """Return the error for a send that comes too late."""
        return ActorStoppedError(
            f"{self.owner!r} takes no messages: it {self.closed_because}; "
            "look it up again if its supervisor has started another"
        )

    @trio.lowlevel.enable_ki_protection
    def put(
        self,
        handler: Handler,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        question: Question | None = None,
    ) -> bool:
        """Accept a message if there is room.

        Raises:
            ActorStoppedError: the mailbox is closed.
        """
        queue = self.queue
        if len(queue) >= self._room:
            if self.closed_because is not None:
                raise self.stopped_error()
            return False
        receiver = self.receiver
        if receiver is not None:
            # First of all: it raises if this is another thread, and nothing has changed then.
            trio.lowlevel.reschedule(receiver)
            self.receiver = None
            self._woken_at = self.now()
        queue.append((handler, args, kwargs, self._woken_at or self.now(), question))
        return True

    def queue_sender(self, message: Message, task: trio.lowlevel.Task | None) -> None:
        """Let `message` wait for room; `task` is woken once it is in, an asker stays asleep."""
        if self._senders is None:
            self._senders = OrderedDict()
        self._senders[message] = task
        self.has_senders = True

    @trio.lowlevel.enable_ki_protection
    async def wait_for_room(self, message: Message) -> None:
        """Sleep until `message` has been accepted.

        Cancelling takes the message back: it was not sent.

        Raises:
            ActorStoppedError: the mailbox was closed first.
        """
        self.queue_sender(message, trio.lowlevel.current_task())

        def abort(_: Any) -> trio.lowlevel.Abort:  # noqa: ANN401 - trio's RaiseCancelT, not used
            self._forget_sender(message)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _forget_sender(self, message: Message) -> bool:
        if self._senders is None or message not in self._senders:
            return False
        del self._senders[message]
        self.has_senders = bool(self._senders)
        return True

    @trio.lowlevel.enable_ki_protection
    def withdraw(self, question: Question) -> None:
        """Take out a question that has not begun; it may be gone already."""
        if self._forget_sender(question):
            return
        for place, item in enumerate(self.queue):
            if item[-1] is question:
                del self.queue[place]
                if self._offered is not None and self._offered[0] is question:
                    self._offered[1].cancel()
                self.admit()
                return

    def oldest(self) -> float | None:
        """Return when the first message was sent; None if there is none."""
        return self.queue[0][3] if self.queue else None

    def admit(self) -> None:
        """Let senders that wait into the room that there is."""
        senders = self._senders
        while senders and len(self.queue) < self.capacity:
            message, task = senders.popitem(last=False)
            self.queue.append(as_item(message))
            if task is not None:
                trio.lowlevel.reschedule(task)
        self.has_senders = bool(senders)

    async def offer_to(self, channel: "trio.MemorySendChannel[Message]") -> Message | None:
        """Pass the first message on once `channel` takes it; there must be one.

        Returns None if `wake` was called or the message was withdrawn first.

        Raises:
            trio.BrokenResourceError: nobody receives any more; the message stays.
        """
        item = self.queue[0]
        message = as_message(item)
        with trio.CancelScope() as scope:
            self._offered = (message, scope)
            try:
                await channel.send(message)
            finally:
                self._offered = None
            if self.queue and self.queue[0] is item:
                self._take_first()
            return message
        return None

    @trio.lowlevel.enable_ki_protection
    def _take_first(self) -> None:
        self.queue.popleft()
        self.admit()

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> None:
        """Sleep until a message comes or `wake` is called."""
        self.receiver = trio.lowlevel.current_task()

        def abort(_: Any) -> trio.lowlevel.Abort:  # noqa: ANN401 - trio's RaiseCancelT, not used
            self.receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._woken_at = None

    @trio.lowlevel.enable_ki_protection
    def wake(self) -> None:
        """End the receiver's `wait` or `offer_to`, if it is in one."""
        if self._offered is not None:
            self._offered[1].cancel()
        receiver = self.receiver
        if receiver is not None:
            self.receiver = None
            trio.lowlevel.reschedule(receiver)

    @trio.lowlevel.enable_ki_protection
    def close(self, because: str) -> None:
        """Accept nothing more; senders that wait for room get `ActorStoppedError`."""
        if self.closed_because is not None:
            return
        self.closed_because = because
        self._room = 0
        senders, self._senders = self._senders, None
        self.has_senders = False
        for message, task in (senders or {}).items():
            if task is not None:
                trio.lowlevel.reschedule(task, Error(self.stopped_error()))
            else:
                message.refuse(self.stopped_error())

    def reopen(self) -> None:
        """Accept messages again: a life that had closed it is followed by another."""
        self.closed_because = None
        self._room = self.capacity

    def drain(self) -> list[Message]:
        """Take out everything that was accepted."""
        messages = [as_message(item) for item in self.queue]
        self.queue.clear()
        return messages
