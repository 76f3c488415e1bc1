"""The mailbox: a bounded queue of messages with one receiver and any number of senders.

It is not a trio memory channel because three promises need its inside: an ask
that is cancelled gives its place back at once, a close hands back exactly what
was accepted, and a restart keeps what waits. Actors that want a channel get one
(`Actor.run`), fed from here.

Invariants: `senders` is empty unless the queue is full; a sender that waits has
not been accepted; after `close` nothing is accepted. All methods that change
state run without a schedule point. Called by refs (in the sender's task) and by
the cell (in the actor's).
"""

from collections import OrderedDict, deque
from typing import Any

import attrs
import trio
from outcome import Error

from terzetto.actor._errors import ActorStoppedError
from terzetto.actor._message import Message


@attrs.define(eq=False)
class Mailbox:
    """The queue of one actor; it outlives restarts."""

    owner: str
    """The path of the actor, for errors."""

    capacity: int
    queue: deque[Message] = attrs.field(factory=deque[Message])
    closed_because: str | None = None
    has_senders: bool = False
    """Whether senders wait for room."""

    _senders: OrderedDict[Message, trio.lowlevel.Task | None] | None = None
    _receiver: trio.lowlevel.Task | None = None
    _offered: tuple[Message, trio.CancelScope] | None = None  # what waits in an inbox's channel

    def stopped_error(self) -> ActorStoppedError:
        """Return the error for a send that comes too late."""
        return ActorStoppedError(
            f"{self.owner!r} takes no messages: it {self.closed_because}; "
            "look it up again if its supervisor has started another"
        )

    @trio.lowlevel.enable_ki_protection
    def offer(self, message: Message) -> bool:
        """Accept `message` if there is room.

        Raises:
            ActorStoppedError: the mailbox is closed.
        """
        if self.closed_because is not None:
            raise self.stopped_error()
        if len(self.queue) >= self.capacity:
            return False
        self.queue.append(message)
        receiver = self._receiver
        if receiver is not None:
            self._receiver = None
            trio.lowlevel.reschedule(receiver)
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
            self.withdraw(message)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    @trio.lowlevel.enable_ki_protection
    def withdraw(self, message: Message) -> None:
        """Take out a message that has not begun; it may be gone already."""
        if self._senders and message in self._senders:
            del self._senders[message]
            self.has_senders = bool(self._senders)
            return
        try:
            self.queue.remove(message)
        except ValueError:
            return  # it has begun
        if self._offered is not None and self._offered[0] is message:
            self._offered[1].cancel()
        self.admit()

    @trio.lowlevel.enable_ki_protection
    def take(self) -> Message:
        """Take the first message; there must be one."""
        message = self.queue.popleft()
        self.admit()
        return message

    def admit(self) -> None:
        """Let senders that wait into the room that there is."""
        senders = self._senders
        while senders and len(self.queue) < self.capacity:
            message, task = senders.popitem(last=False)
            self.queue.append(message)
            if task is not None:
                trio.lowlevel.reschedule(task)
        self.has_senders = bool(senders)

    async def offer_to(self, channel: "trio.MemorySendChannel[Message]") -> Message | None:
        """Pass the first message on once `channel` takes it; there must be one.

        Returns None if `wake` was called or the message was withdrawn first.

        Raises:
            trio.BrokenResourceError: nobody receives any more; the message stays.
        """
        message = self.queue[0]
        with trio.CancelScope() as scope:
            self._offered = (message, scope)
            try:
                await channel.send(message)
            finally:
                self._offered = None
            if self.queue and self.queue[0] is message:
                self.take()
            return message
        return None

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> None:
        """Sleep until a message comes or `wake` is called."""
        self._receiver = trio.lowlevel.current_task()

        def abort(_: Any) -> trio.lowlevel.Abort:  # noqa: ANN401 - trio's RaiseCancelT, not used
            self._receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    @trio.lowlevel.enable_ki_protection
    def wake(self) -> None:
        """End the receiver's `wait` or `offer_to`, if it is in one."""
        if self._offered is not None:
            self._offered[1].cancel()
        receiver = self._receiver
        if receiver is not None:
            self._receiver = None
            trio.lowlevel.reschedule(receiver)

    @trio.lowlevel.enable_ki_protection
    def close(self, because: str) -> None:
        """Accept nothing more; senders that wait for room get `ActorStoppedError`."""
        if self.closed_because is not None:
            return
        self.closed_because = because
        senders, self._senders = self._senders, None
        self.has_senders = False
        for message, task in (senders or {}).items():
            if task is not None:
                trio.lowlevel.reschedule(task, Error(self.stopped_error()))
            else:
                message.refuse(self.stopped_error())

    def drain(self) -> list[Message]:
        """Take out everything that was accepted."""
        messages = list(self.queue)
        self.queue.clear()
        return messages
