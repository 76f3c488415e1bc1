"""The reading loop of a sink instance, for one lane: XREADGROUP, and what comes of it.

A turn of the loop is: wait for room; send the acknowledgements that ride along
and the read; sort what it brought. A read that was delivered and whose reply was
lost is pending on the server, and comes by a claim. See `_intake.py` for the whole.
"""

from collections.abc import Sequence

import trio
from redis.exceptions import RedisError

from terzetto._shared._texts import describe_error
from terzetto.redis import Arg, LinkClosedError
from terzetto.streaming._event import Entry
from terzetto.streaming._group import Group
from terzetto.streaming._intake import Intake
from terzetto.streaming._lanes import Lane
from terzetto.streaming._pace import Pace
from terzetto.streaming._poll import Poll


async def run_reading(intake: Intake, lane: Lane) -> None:
    """Read until the sink closes, no stream is left, or the link's block is left."""
    pace = Pace()
    name = f"sink {intake.sink} of {', '.join(lane.names)}"
    async with intake.redis.open_dedicated(name, key=lane.key) as link:
        lane.poll = Poll(link)
        try:
            while await intake.wait_for_room(lane):
                try:
                    await _turn(intake, lane, lane.poll)
                    pace.worked()
                    await intake.buffer.give_way()
                except LinkClosedError:
                    intake.buffer.close()
                    return
                except RedisError as error:
                    lane.note_failure(error)
                    intake.log.warning("reading failed", error=describe_error(error))
                    await trio.sleep(pace.failed())
                    await intake.mend(lane, error)
                finally:
                    intake.lanes.release(lane, intake.wanted)
        finally:
            lane.poll = None


async def _turn(intake: Intake, lane: Lane, poll: Poll) -> None:
    if intake.silence > 2 * intake.grace:
        await intake.show_alive()
    # No checkpoint from here to the read: a stream that is added would not be in it, and
    # there would be no read yet to interrupt.
    groups = {group.stream.key: group for group in intake.groups_of(lane)}
    if intake.is_closing or not groups:
        return
    consumer = intake.consumer
    acknowledged = intake.outbox.take_acknowledged(lane.names)
    commands = intake.acknowledgements(acknowledged)
    count = lane.count
    commands.append(_command(intake, consumer, tuple(groups), count))
    replies = None
    try:
        replies = await poll.read(commands)
    finally:
        if replies is None:
            intake.outbox.put_back(acknowledged)
    if replies is None:
        return
    if isinstance(replies[-1], RedisError):
        raise replies[-1]
    reply: dict[bytes, list[Entry]] = replies[-1] or {}
    lane.note_reply(reply, count)
    now = trio.current_time()
    for key, entries in reply.items():
        group = groups[key.decode("utf-8", "surrogateescape")]
        await _take_in(intake, group, consumer, entries, now)


def _command(intake: Intake, consumer: str, keys: Sequence[str], count: int) -> Sequence[Arg]:
    head: list[Arg] = ["XREADGROUP", "GROUP", intake.sink, consumer, "COUNT", count]
    head += ["BLOCK", intake.options.block_ms]
    if intake.no_ack:
        head.append("NOACK")
    return [*head, "STREAMS", *keys, *[">"] * len(keys)]


async def _take_in(
    intake: Intake,
    group: Group,
    consumer: str,
    entries: list[Entry],
    now: float,
) -> None:
    events, poison = group.decode(entries)
    if not intake.no_ack and intake.silence > intake.grace:
        # This process may have been stopped since the server answered, and
        # the entries claimed by others: take what is still ours.
        ids = [*(event.id for event in events), *(entry.id for entry in poison)]
        kept = await group.extend(consumer, ids)
        events = [event for event in events if event.id in kept]
        poison = [entry for entry in poison if entry.id in kept]
    await intake.admit(group, consumer, events, poison, now)
