"""Lanes: which streams are read together, and how they share the room of the buffers."""

from collections import deque
from typing import cast

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from terzetto.redis import LinkLostError, Redis, ReplyTooLongError
from terzetto.streaming._buffer import Batch, Buffer, Signal
from terzetto.streaming._event import decode_entries
from terzetto.streaming._lanes import Lanes

ENTRY = (b"1-0", [b"n", b"x", b"p", b""])


class Slots:
    """Stands for a client: the slot of a stream is what is between the first two dashes."""

    def slot_of(self, key: str) -> int:
        return int(key.split("-")[1])


def lanes_of(*streams: str) -> Lanes:
    lanes = Lanes(cast("Redis", Slots()), {})
    for stream in streams:
        lanes.add(stream)
    return lanes


def fill(buffer: Buffer, number: int) -> None:
    events, _ = decode_entries("s", [ENTRY] * number)
    buffer.put(Batch(stream="s", events=deque(events)))


def test_streams_of_one_slot_share_a_lane_which_ends_with_the_last() -> None:
    lanes = lanes_of("a-1-", "b-2-", "c-1-")
    assert [lane.names for lane in lanes] == [["a-1-", "c-1-"], ["b-2-"]]
    lane = lanes.remove("a-1-")
    assert lanes.of("c-1-") is lane
    assert lanes.of("a-1-") is None
    assert lanes.remove("c-1-").names == []
    # Its loop has not seen that yet: a stream that comes now finds it.
    assert lanes.add("d-1-") is lane
    lanes.remove("d-1-")
    lanes.close(lane)
    assert lane.is_over
    assert lanes.add("d-1-") is not lane


@given(
    st.integers(1, 50),
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["reserve", "bring", "release"]))),
    st.data(),
)
def test_reads_under_way_bring_no_more_than_there_is_room_for(
    size: int, number: int, steps: list[tuple[int, str]], data: st.DataObject
) -> None:
    wanted = Signal()
    buffer = Buffer(size, wanted)
    lanes = lanes_of(*(f"s-{slot}-" for slot in range(number)))
    for index, step in steps:
        lane = list(lanes)[index % number]
        if step == "reserve" and not lane.reserved:
            before = len(buffer) + sum(each.reserved for each in lanes)
            room = lanes.reserve(lane, [buffer], 1000)
            assert [each.reserved for each in lanes if each is lane] == [room]
            # Beyond the room, an empty buffer lets every lane read one event.
            assert room <= max(size - before, 0) or (room == 1 and not len(buffer))
        elif step == "bring":
            fill(buffer, data.draw(st.integers(0, lane.reserved)))
            lanes.release(lane, wanted)
        elif step == "release":
            lanes.release(lane, wanted)
            buffer.drop_all()
        assert len(buffer) <= size + number


def test_one_lane_has_all_the_room_and_several_share_it() -> None:
    buffer = Buffer(100, Signal())
    alone = lanes_of("a-1-")
    (lane,) = alone
    assert alone.reserve(lane, [buffer], 1000) == 100
    assert alone.reserve(lane, [buffer], 30) == 30
    assert alone.reserve(lane, [buffer, Buffer(10, Signal())], 1000) == 10
    assert alone.reserve(lane, [], 1000) == 0
    shared = lanes_of("a-1-", "b-2-", "c-3-", "d-4-")
    assert [shared.reserve(lane, [buffer], 1000) for lane in shared] == [25] * 4


async def test_who_has_been_given_few_events_goes_before_the_next_read(
    nursery: trio.Nursery,
) -> None:
    """He, and one more whom he wakes."""
    buffer, went = Buffer(1000, Signal()), list[str]()
    second = trio.Event()

    async def take() -> None:
        await buffer.take_many(1000)
        went.append("taker")
        second.set()

    async def follow() -> None:
        await second.wait()
        went.append("second")

    for task in (take, follow):
        nursery.start_soon(task)
    await trio.testing.wait_all_tasks_blocked()
    fill(buffer, 1)
    await buffer.give_way()
    assert went == ["taker", "second"]


async def test_many_events_hold_up_no_read(nursery: trio.Nursery) -> None:
    buffer = Buffer(1000, Signal())
    nursery.start_soon(buffer.take_many, 1000)
    await trio.testing.wait_all_tasks_blocked()
    fill(buffer, 500)
    await buffer.give_way()
    assert len(buffer) == 500, "nobody else has run"


def test_a_lane_shares_its_room_among_its_streams_and_asks_for_less_when_too_much_came() -> None:
    lanes = lanes_of("a-1-", "b-1-", "c-1-")
    (lane,) = lanes
    buffer = Buffer(100, Signal())
    assert (lanes.reserve(lane, [buffer], 1000), lane.count) == (100, 33)
    lane.note_failure(LinkLostError("the server went", may_have_run=True))
    assert lanes.reserve(lane, [buffer], 1000) == 100
    for room, count in ((25, 8), (6, 2), (1, 1), (1, 1)):
        error = LinkLostError("a reply was too long", may_have_run=True)
        error.__cause__ = ReplyTooLongError("it was")
        lane.note_failure(error)
        assert (lanes.reserve(lane, [buffer], 1000), lane.count) == (room, count)
    lane.note_reply({b"a": [ENTRY], b"b": []}, 1)
    assert lanes.reserve(lane, [buffer], 1000) == 1, "there may be more as big as that"
    lane.note_reply({b"a": []}, 1)
    assert lanes.reserve(lane, [buffer], 1000) == 100
