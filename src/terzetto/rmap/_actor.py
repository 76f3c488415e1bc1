"""The actor of a map: it follows the channel, takes snapshots, and polls the revision.

Theory of operation
-------------------

Two background tasks feed the replica, which decides all (`_replica`):

- *follow* holds the subscription and passes on each message and each gap;
- *keep exact* takes a snapshot whenever the replica needs one, and else asks for the
  server's revision every `poll_interval` seconds, for the changes that no message tells
  of: a hash that expired, a flush, messages lost without a sign.

The order at the start matters: subscribe, wait for the server's word, and only then
read the hash, so that every change is in the hash or in a message, or in both.

An outage is waited out. An error reply of the server (the key holds no hash, no
permission) fails the join; later it is logged, the copy counts as stale, and the next
poll tries again. The core survives restarts; stopping for good freezes it.

Spawned by `join` and `child`.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import attrs
import trio
from redis.exceptions import RedisError

from terzetto.actor import Actor, Context, Stop
from terzetto.redis import Gap, LinkClosedError
from terzetto.rmap._core import Core

BUFFER_SIZE: Final = 10_000  # messages not yet applied; more than that make a gap
PATIENCE: Final = 1.0  # seconds for a poll's answer, and for messages that are under way
PAUSE: Final = 0.05  # seconds between two snapshots, when the first was not enough


@attrs.define
class MapActor(Actor):
    """Keeps one core exact."""

    core: Core[Any]
    poll_interval: float

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
        core, replica = self.core, self.core.replica
        async with core.redis.subscribe(core.channel, buffer_size=BUFFER_SIZE) as subscription:
            replica.gap()
            task_status.started()
            while True:
                for item in await subscription.read():
                    if isinstance(item, Gap):
                        replica.gap()
                    else:
                        replica.receive(item.data)
                core.note_certain()
                core.want_snapshot()

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
        core = self.core
        number = core.replica.begin_snapshot()
        reply: object = await core.redis.execute("HGETALL", core.content_key)
        replica, epoch = core.replica, core.replica.epoch
        replica.apply_snapshot(number, cast("Mapping[bytes, bytes]", reply))
        core.note_certain()
        if replica.epoch != epoch:
            core.log.warning("the server lost the map or counts anew", revision=replica.revision)
        elif replica.snapshots_applied > 1:
            core.log.info("read the map again", revision=replica.revision)

    async def _poll(self) -> None:
        core, replica = self.core, self.core.replica
        sent_at = replica.position
        revision = -1
        with trio.move_on_after(PATIENCE):
            revision = await core.read_revision()
        if revision < 0:
            core.is_unanswered = True
            return
        if replica.check_revision(revision, sent_at):
            core.note_certain()
        elif not replica.needs_snapshot:
            # The messages are under way, or lost.
            arrived = trio.Event()
            replica.wait_for_state(revision, sent_at, arrived.set)
            with trio.move_on_after(PATIENCE):
                await arrived.wait()
            if not arrived.is_set():
                replica.request_snapshot()
