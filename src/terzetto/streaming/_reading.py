"""The reading loop of a sink instance, for one lane: XREADGROUP, and what comes of it.

A turn of the loop is: wait for room; send the acknowledgements that ride along
and the read; sort what it brought, which may be done where its bytes were read. A read
that was delivered and whose reply was lost is pending on the server, and comes by a
claim. See `_intake.py` for the whole.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import cast

import attrs
import trio
from redis.exceptions import RedisError

from terzetto._shared._texts import describe_error
from terzetto.redis import Arg, LinkClosedError, Reply
from terzetto.streaming._buffer import Batch
from terzetto.streaming._event import Entry, Event, Poison
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
    at_once = _AtOnce(intake, groups, consumer)
    try:
        replies = await poll.read(commands, at_once.take)
    finally:
        if replies is None:
            intake.outbox.put_back(acknowledged)
    if replies is None:
        return
    if acknowledged:
        intake.keep_refused(acknowledged, replies)
    if isinstance(replies[-1], RedisError):
        raise replies[-1]
    reply: dict[bytes, list[Entry]] = replies[-1] or {}
    lane.note_reply(reply, count)
    if at_once.is_taken:
        return
    now = trio.current_time()
    for brought in at_once.decoded or _decode(groups, reply):
        await _take_in(intake, brought, consumer, now)


@attrs.frozen
class _Brought:
    """What a read has brought of one stream."""

    group: Group
    events: Sequence[Event]
    poison: Sequence[Poison]


def _decode(groups: Mapping[str, Group], reply: dict[bytes, list[Entry]]) -> list[_Brought]:
    """Read a reply; what it was made of is used up."""
    found: list[_Brought] = []
    for key, entries in reply.items():
        group = groups[key.decode("utf-8", "surrogateescape")]  # decode_text, without the call
        found.append(_Brought(group, *group.decode(entries)))
    return found


class _AtOnce:
    """Takes in what a read has brought, in the task that read its bytes.

    So takers go on a turn of the scheduler sooner. Where something has to be looked at, or
    asked, nothing is taken, and the loop does it all.
    """

    def __init__(self, intake: Intake, groups: Mapping[str, Group], consumer: str) -> None:
        self.is_taken = False
        self.decoded: list[_Brought] = []
        self._intake = intake
        self._groups = groups
        self._consumer = consumer

    def take(self, replies: list[Reply]) -> None:
        """Look at the replies to acknowledgements and a read."""
        reply, intake = replies[-1], self._intake
        if not isinstance(reply, dict) or not intake.takes_all or intake.may_have_lost:
            return
        self.decoded = _decode(self._groups, cast("dict[bytes, list[Entry]]", reply))
        if all(not each.poison and intake.wants(each.group, each.events) for each in self.decoded):
            now = trio.current_time()
            for each in self.decoded:
                stream = each.group.stream.name
                intake.buffer.put(Batch(stream, deque(each.events), self._consumer, now))
            self.is_taken = True


def _command(intake: Intake, consumer: str, keys: Sequence[str], count: int) -> Sequence[Arg]:
    head: list[Arg] = ["XREADGROUP", "GROUP", intake.sink, consumer, "COUNT", count]
    head += ["BLOCK", intake.options.block_ms]
    if intake.no_ack:
        head.append("NOACK")
    return [*head, "STREAMS", *keys, *[">"] * len(keys)]


async def _take_in(intake: Intake, brought: _Brought, consumer: str, now: float) -> None:
    group, events, poison = brought.group, brought.events, brought.poison
    if intake.may_have_lost:
        # This process may have been stopped since the server answered, and
        # the entries claimed by others: take what is still ours.
        ids = [*(event.id for event in events), *(entry.id for entry in poison)]
        kept = await group.extend(consumer, ids)
        events = [event for event in events if event.id in kept]
        poison = [entry for entry in poison if entry.id in kept]
    await intake.admit(group, consumer, events, poison, now)
