"""Any history of a sink's instances: every event is acknowledged once, or dead once; none is lost.

Hypothesis makes the history: events are added, instances join, take,
acknowledge, leave, crash and are replaced. At the end one instance drains what is
left. A crash is an instance that stops without a word, as after SIGKILL; the
real thing is in `test_streaming_processes.py`.
"""

from collections import Counter
from typing import Any

import attrs
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terzetto.actor import Supervisor, open_supervisor
from terzetto.redis import Redis, connect
from terzetto.server import open_embedded
from terzetto.streaming import OLDEST, Event, Sink, Stream

GRACE = 0.3
STEPS = (
    "add",
    "add",
    "join",
    "leave",
    "crash",
    "take",
    "take",
    "ack",
    "ack_nowait",
    "reject",
    "hand_back",
    "wait",
)


async def say_nothing(_: float) -> None:
    """Leave nothing behind but what is in Redis."""


@attrs.define
class Instance:
    """An instance of the sink and the events that its application holds."""

    sink: Sink
    name: str
    held: list[Event] = attrs.Factory(list[Event])


@attrs.define
class History:
    """The real thing and what the model knows of it."""

    stream: Stream
    top: Supervisor
    added: list[str] = attrs.Factory(list[str])
    acknowledged: Counter[str] = attrs.Factory(Counter[str])
    joined: int = 0
    later: set[str] = attrs.Factory(set[str])
    instances: list[Instance] = attrs.Factory(list[Instance])

    async def run(self, steps: list[tuple[str, int]]) -> None:
        for step, number in steps:
            with trio.fail_after(20):
                await getattr(self, step)(number)

    def pick(self, number: int) -> Instance | None:
        return self.instances[number % len(self.instances)] if self.instances else None

    async def add(self, number: int) -> None:
        ids = await self.stream.add_many([("n", b"", f"{number % 3}")] * (number % 5 + 1))
        self.added += [event_id for event_id in ids if event_id]

    async def join(self, number: int) -> None:
        self.joined += 1
        name = f"sink-{self.joined}"
        child = self.stream.sink_child(
            "k",
            start=OLDEST,
            ack_grace_period=GRACE,
            buffer_size=number % 7 + 1,
            child_name=name,
        )
        self.instances.append(Instance(await self.top.spawn(child), name))

    async def leave(self, number: int) -> None:
        instance = self.pick(number)
        if instance is not None:
            self.instances.remove(instance)
            await self.top.remove_child(instance.name)

    async def crash(self, number: int) -> None:
        instance = self.pick(number)
        if instance is not None:
            engine: Any = instance.sink._intake  # pyright: ignore[reportPrivateUsage] - the crash
            engine.outbox.take_acknowledged([self.stream.name])
            engine.is_closing = True
            engine.close = say_nothing
            await self.leave(number)

    async def take(self, number: int) -> None:
        instance = self.pick(number)
        if instance is not None:
            with trio.move_on_after(0.05):
                instance.held.append(await anext(instance.sink))

    async def ack(self, number: int) -> None:
        instance = self.pick(number)
        if instance is not None and instance.held:
            event = instance.held.pop(number % len(instance.held))
            self.acknowledged[event.id] += await instance.sink.ack(event)

    async def ack_nowait(self, number: int) -> None:
        instance = self.pick(number)
        if instance is not None and instance.held:
            event = instance.held.pop()
            self.later.add(event.id)
            instance.sink.ack_nowait(event)

    async def reject(self, number: int) -> None:
        instance = self.pick(number)
        if instance is not None and instance.held:
            await instance.sink.reject(instance.held.pop(), "no good")

    async def hand_back(self, number: int) -> None:
        instance = self.pick(number)
        if instance is not None and instance.held:
            instance.sink.hand_back_nowait(instance.held.pop(), delay=number % 2 * 0.1)

    async def wait(self, number: int) -> None:
        await trio.sleep(GRACE * (number % 4) / 2)

    async def drain(self) -> None:
        while self.instances:
            await self.leave(0)
        await self.join(6)
        sink = self.instances[0].sink
        with trio.fail_after(30):
            while True:
                events: list[Event] = []
                with trio.move_on_after(GRACE):
                    events = await sink.read()
                for event in events:  # not within the scope: a cancelled `ack` may have been made
                    self.acknowledged[event.id] += await sink.ack(event)
                (group,) = (await self.stream.info()).groups
                if not group.pending and not group.lag:
                    break
        await self.leave(0)


async def play(redis: Redis, steps: list[tuple[str, int]]) -> None:
    stream = Stream("s", redis, max_len=0)
    async with stream.open_reader() as reader, open_supervisor() as top:
        history = History(stream, top)
        await history.run(steps)
        await history.drain()
        seen: list[str] = []
        while len(seen) < len(history.added):
            seen += [event.id for event in await reader.read()]
    assert seen == history.added, "a reader sees every event once, in the stream's order"
    dead = Counter(letter.event_id for letter in await stream.dead_letters.read(limit=1000))
    for event_id in history.added:
        ends = history.acknowledged[event_id] + dead[event_id]
        assert ends == 1 or (ends == 0 and event_id in history.later), event_id
    assert set(dead) | set(history.acknowledged) <= set(history.added)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 100)), min_size=5, max_size=40)
)
def test_every_event_ends_once_whatever_the_instances_do(steps: list[tuple[str, int]]) -> None:
    async def main() -> None:
        async with open_embedded() as server, connect(server.url) as redis:
            await play(redis, steps)

    trio.run(main)
