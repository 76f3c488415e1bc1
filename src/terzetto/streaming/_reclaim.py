"""The claims' loop of a sink instance, for one lane: outbox, renewals, claims, sweeps.

It looks around a few times in a grace period, earlier when something in the
outbox is urgent. In each round the outbox comes first, so that nothing is
claimed that is done; then the renewals, so that nothing lapses that is in good
hands; then the claims; the sweep of dead consumers comes last, when nothing of
theirs that could be claimed is left. See `_intake.py` for the whole.
"""

from random import Random
from typing import Final

import trio
from redis.exceptions import RedisError

from terzetto._shared._texts import describe_error
from terzetto.redis import LinkClosedError
from terzetto.streaming._claims import claim_interval, needs_renewal
from terzetto.streaming._intake import Intake
from terzetto.streaming._lanes import Lane
from terzetto.streaming._members import Members
from terzetto.streaming._pace import Pace

_CLAIM_AT_ONCE: Final = 100  # entries in one script, which holds up the server meanwhile


async def run_claims(intake: Intake, lane: Lane) -> None:
    """Look around until the sink has closed, the lane has ended or the link's block is left."""
    random = Random()  # noqa: S311 - jitter, so that instances do not march in step
    interval = claim_interval(intake.grace)
    pace = Pace()
    members = Members(intake.redis, intake.sink, intake.grace)
    next_sweep = trio.current_time() + intake.grace
    seen, room_seen = lane.hurry.count, intake.wanted.count
    is_short = False  # of room for what could be claimed
    while not intake.is_closed and not lane.is_over:
        due = min(trio.current_time() + interval * random.uniform(0.8, 1.2), lane.dues.next)
        with trio.move_on_at(due):
            if is_short:
                await intake.wanted.wait(room_seen)
            else:
                await lane.hurry.wait(seen)
        seen, room_seen = lane.hurry.count, intake.wanted.count
        lane.dues.reach(trio.current_time())
        try:
            is_short = await _round(intake, lane)
            if trio.current_time() >= next_sweep and not intake.is_closing:
                await members.sweep(intake.groups_of(lane), intake.consumer)
                next_sweep = trio.current_time() + intake.grace * random.uniform(0.8, 1.2)
            pace.worked()
        except LinkClosedError:
            return
        except RedisError as error:
            intake.log.warning("claims failed", error=describe_error(error))
            await trio.sleep(pace.failed())
            await intake.mend(lane, error)


async def _round(intake: Intake, lane: Lane) -> bool:
    """Look around once; return whether there was no room for all that could be claimed."""
    await intake.flush(lane)
    if intake.no_ack:
        return False
    await _renew(intake, lane)
    for group in intake.groups_of(lane):
        while intake.has_taker and not intake.is_closing:
            count = min(_CLAIM_AT_ONCE, intake.buffer.free)
            if not count:
                return True
            consumer, now = intake.consumer, trio.current_time()
            events, poison, more = await group.claim(consumer, intake.grace, count)
            await intake.admit(group, consumer, events, poison, now)
            if not more:
                break
    return False


async def _renew(intake: Intake, lane: Lane) -> None:
    if len(intake.buffer) and not intake.has_taker:
        await intake.return_buffer(lane)
    now = trio.current_time()
    held = (*intake.buffer.batches(), *intake.processing.values())
    await intake.renew(
        [
            batch
            for batch in held
            if batch.stream in lane.names and needs_renewal(batch.since, now, intake.grace)
        ]
    )
