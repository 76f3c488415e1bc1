"""The actor of a map: it follows the channel, takes snapshots, and polls the revision.

Theory of operation
-------------------

Two background tasks feed the replica, which decides all (`_replica`):

- *follow* holds the subscription and has each message and each gap handed to the replica
  at once, in the link's task that read the bytes: neither the actor's mailbox nor a turn
  of the scheduler lies between. That is an exception to the design, for speed: a change
  shows, and whoever waits for it is woken, in the turn in which it was read. What is done
  there never waits; an error of a codec ends the delivery, and crashes the actor;
- *keep exact* takes a snapshot whenever the replica needs one, and else asks for the
  server's revision every `poll_interval` seconds, for the changes that no message tells
  of: a hash that expired, a flush, messages lost without a sign.

The order at the start matters: subscribe, wait for the server's word, and only then
read the hash, so that every change is in the hash or in a message, or in both.

Both ask by the connection that the messages come by, so that the answer has its place
among them (`_replica` says why). While that connection is another node's than the map's,
on a cluster, the answer is an error, and they ask by the client's own link. If it does
not answer they do so too; then what it brings is not listened to until it has answered,
for it may be of any age, and the copy counts as stale.

An outage is waited out. An error reply of the server (the key holds no hash, no
permission) fails the join; later it is logged, the copy counts as stale, and the next
poll tries again. Without the permission to subscribe the polls alone go on, and each
tries to subscribe anew.

The copy is known to be exact when an applied message has shown it, or an answer: never
by an error, nor by a message while an answer is overdue, for that may be of any age.

The core survives restarts; stopping for good freezes it. A life that crashes cannot know
whether it is the last, so the ref tells (`_join`).

Spawned by `join` and `child`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, cast

import attrs
import trio
from redis.exceptions import RedisError

from terzetto.actor import Actor, Context, Stop
from terzetto.redis import Gap, LinkClosedError, Message, Reply, Subscription
from terzetto.rmap._core import PATIENCE, Core
from terzetto.rmap._keys import REVISION_FIELD

SNAPSHOT_PATIENCE: Final = 5.0  # seconds for a snapshot by the connection of the messages
PAUSE: Final = 0.05  # seconds between two snapshots, when the first was not enough


@attrs.define
class MapActor(Actor):
    """Keeps one core exact."""

    core: Core[Any]
    poll_interval: float
    _asked: "_Question | None" = attrs.field(default=None, init=False)

    async def started(self, ctx: "Context[MapActor]") -> None:
        """Subscribe, then read the map for the first time, or again after a crash."""
        await ctx.start(self._follow)
        await self._take_snapshot()
        while self.core.replica.needs_snapshot:  # the subscription was cut meanwhile
            await trio.sleep(PAUSE)
            await self._take_snapshot()
        ctx.start_soon(self._keep_exact)
        self.core.thaw()

    async def stopping(self, reason: Stop) -> None:
        """Freeze the core if this is the end, and else mark it stale."""
        if reason in {Stop.NORMAL, Stop.CLOSED, Stop.SHUTDOWN}:
            self.core.freeze()
        else:
            self.core.replica.gap()

    async def _follow(self, task_status: trio.TaskStatus[None]) -> None:
        core = self.core
        has_started = False
        while True:
            try:
                async with core.redis.subscribe(core.channel) as subscription:
                    self._begin_anew(subscription)
                    if not has_started:
                        has_started = True
                        task_status.started()
                    await subscription.deliver(self._take)
            except LinkClosedError:
                raise
            except RedisError as error:
                if not has_started:
                    raise
                self._begin_anew(None)
                core.log.warning("the map's messages are refused", error=str(error))
                await trio.sleep(self.poll_interval)

    def _begin_anew(self, subscription: Subscription | None) -> None:
        core = self.core
        core.subscription = subscription
        core.deaf_until = None
        core.replica.gap()
        core.snapshot_wanted.set()

    def _take(self, item: Message | Gap) -> None:
        core, replica = self.core, self.core.replica
        if type(item) is Message:
            if core.deaf_until is not None:
                return
            revision = replica.revision
            replica.receive(item.data)
            if not replica.needs_snapshot:
                # Not while an answer is overdue: it has its place behind this message.
                if replica.revision != revision and not core.is_unanswered:
                    core.note_certain()
                return
        else:
            core.deaf_until = None
            replica.gap()
            if self._asked is not None:
                self._asked.settled.set()  # the answer may have been lost too
        core.snapshot_wanted.set()

    def _take_answer(self, question: "_Question", reply: Reply) -> None:
        """Use what was asked by the connection of the messages, in its place among them."""
        core, replica = self.core, self.core.replica
        if question is core.deaf_until:
            core.deaf_until = None
            replica.gap()
        if core.deaf_until is not None:
            pass  # it is as old as the messages here
        elif isinstance(reply, dict):
            fields = cast("Mapping[bytes, bytes]", reply)
            replica.apply_snapshot(question.number, fields, in_order=True)
            question.is_answered = True
            core.note_certain()
        elif isinstance(reply, list):
            core.take_revision(cast("Reply", reply))
            question.is_answered = True
        question.settled.set()

    async def _ask(self, question: "_Question", *command: str | bytes) -> bool:
        """Ask by the connection of the messages; return whether it was answered in time."""
        subscription = self.core.subscription
        if subscription is None or not subscription.ask(
            *command, on_reply=partial(self._take_answer, question)
        ):
            question.settled.set()  # there will be no answer
            return False
        self._asked = question
        patience = SNAPSHOT_PATIENCE if question.number else PATIENCE
        if question.number and self.core.is_unanswered:
            patience = 0.0  # it is known to hang
        with trio.move_on_after(patience):
            await question.settled.wait()
        self._asked = None
        if self._hangs(question):
            self.core.is_unanswered = True
        return question.is_answered

    def _note_certain(self, question: "_Question") -> None:
        """The copy is exact; whether it stays so is open if the messages' connection hangs."""
        self.core.note_certain()
        self.core.is_unanswered = self._hangs(question)

    async def _keep_exact(self) -> None:
        core = self.core
        while True:
            core.snapshot_wanted = trio.Event()
            try:
                if core.replica.needs_snapshot:
                    await self._take_snapshot()
                    await trio.sleep(PAUSE)
                    continue
                with trio.move_on_after(self.poll_interval) as pause:
                    await core.snapshot_wanted.wait()
                if pause.cancelled_caught:
                    await self._poll()
            except LinkClosedError:
                raise
            except RedisError as error:
                core.is_unanswered = True
                core.log.warning("the map cannot be read", error=str(error))
                await trio.sleep(self.poll_interval)

    async def _take_snapshot(self) -> None:
        core, replica = self.core, self.core.replica
        epoch = replica.epoch
        question = _Question(replica.begin_snapshot())
        if not await self._ask(question, "HGETALL", core.content_key):
            if self._hangs(question):
                core.deaf_until = question
            number = replica.begin_snapshot()
            reply: object = await core.redis.execute_at_master("HGETALL", core.content_key)
            epoch = replica.epoch
            replica.apply_snapshot(number, cast("Mapping[bytes, bytes]", reply))
        self._note_certain(question)
        if replica.epoch != epoch and core.expiry.seconds:
            core.log.info("the map expired, or the server lost it", revision=replica.revision)
        elif replica.epoch != epoch:
            core.log.warning("the server lost the map or counts anew", revision=replica.revision)
        elif replica.snapshots_applied > 1:
            core.log.info("read the map again", revision=replica.revision)

    async def _poll(self) -> None:
        core, replica = self.core, self.core.replica
        question = _Question(0)
        if await self._ask(question, "HMGET", core.content_key, REVISION_FIELD):
            return  # and what follows has been seen to
        sent_at = replica.position
        revision = -1
        with trio.move_on_after(PATIENCE):
            revision = await core.read_revision()
        if revision < 0:
            core.is_unanswered = True
            return
        if replica.check_revision(revision, sent_at):
            self._note_certain(question)
        elif self._hangs(question):
            core.is_unanswered = True
            replica.request_snapshot()
        elif not replica.needs_snapshot:
            # The messages are under way, or lost.
            arrived = trio.Event()
            replica.wait_for_state(revision, sent_at, arrived.set)
            with trio.move_on_after(PATIENCE):
                await arrived.wait()
            if not arrived.is_set():
                replica.request_snapshot()

    def _hangs(self, question: "_Question") -> bool:
        """Return whether the messages' connection is there, and does not answer."""
        subscription = self.core.subscription
        is_there = subscription is not None and subscription.is_subscribed
        return is_there and not question.settled.is_set()


@attrs.define(eq=False)
class _Question:
    """What was asked by the connection of the messages: a snapshot's number, or 0 for a poll."""

    number: int
    settled: trio.Event = attrs.field(factory=trio.Event, init=False)
    is_answered: bool = attrs.field(default=False, init=False)
