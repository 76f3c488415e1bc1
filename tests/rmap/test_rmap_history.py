"""Three replicas on a real server, under random operations, cuts and flushes.

A spy, whose subscription is never cut, writes down every state that the map had. All
that a replica ever shows must be one of these, in their order; at rest all are equal
to the server.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terzetto import rmap
from terzetto.redis import Message, Redis, Subscription, connect
from terzetto.rmap import Change, Map, content_key, updates_channel
from terzetto.rmap._message import Op, decode_message
from terzetto.server import open_embedded

KEY = content_key("config")
State = tuple[int, dict[str, str]]

REPLICA = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), REPLICA, st.integers(0, 9), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["cut", "burst"]), REPLICA, st.just(0), st.just("")),
        st.tuples(st.sampled_from(["flush", "rest"]), st.just(0), st.just(0), st.just("")),
    ),
    min_size=5,
    max_size=40,
)


@attrs.define
class Spy:
    """Every state that the map had, in order."""

    states: list[State] = attrs.field(factory=lambda: [(0, {})])
    subscriber_id: int = 0
    moved: trio.Event = attrs.field(factory=trio.Event)

    async def follow(self, subscription: Subscription) -> None:
        async for item in subscription:
            assert isinstance(item, Message), "the spy was never cut"
            message = decode_message(item.data)
            last, content = self.states[-1]
            assert message.revision == last + 1
            content = dict(content)
            if message.op is Op.SET:
                content[message.key.decode()] = message.value.decode()
            elif message.op is Op.DELETE:
                content.pop(message.key.decode(), None)
            else:
                content.clear()
            self.states.append((message.revision, content))
            self.moved.set()
            self.moved = trio.Event()

    async def catch_up(self, control: Redis) -> State:
        """Wait until the last state is the server's; nobody writes meanwhile."""
        fields: dict[bytes, bytes] = await control.execute("HGETALL", KEY)
        revision = int(fields.pop(b"=rev", b"0"))
        with trio.fail_after(30):
            while self.states[-1][0] != revision:
                await self.moved.wait()
        fields.pop(b"=kind", None)
        content = {key.decode(): value.decode() for key, value in fields.items()}
        assert self.states[-1] == (revision, content)
        return revision, content


@attrs.define
class Observer:
    """What one replica has shown, and which kinds it has told."""

    config: Map
    seen: list[State] = attrs.field(factory=list)
    kinds: list[Change] = attrs.field(factory=list)

    async def watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with self.config.subscribe() as changes:
            task_status.started()
            async for change in changes:
                self.kinds.append(change)
                self.seen.append((self.config.revision, self.config.snapshot()))


async def write(config: Map, operation: int, key: str, value: str) -> None:
    """Do one of ten writes; a reply that was lost in a cut is nobody's fault."""
    match operation:
        case 0 | 1:
            await config.set(key, value)
        case 2:
            await config.set_and_wait(key, value)
        case 3:
            await config.set_if_absent(key, value)
        case 4:
            await config.test_and_set(key, config.get(key, ""), value)
        case 5:
            await config.append_values(key + "l", value)
        case 6:
            await config.remove_values(key + "l", *config.get_values(key + "l")[:1])
        case 7:
            await config.increment(key + "n")
        case 8:
            await config.delete(key)
        case _:
            await config.reset()


@asynccontextmanager
async def open_replicas(url: str) -> AsyncGenerator[list[tuple[Redis, Map]]]:
    async with AsyncExitStack() as stack:
        opened: list[tuple[Redis, Map]] = []
        for _ in range(3):
            redis = await stack.enter_async_context(connect(url))
            config = await stack.enter_async_context(rmap.join("config", redis, poll_interval=0.2))
            opened.append((redis, config))
        yield opened


async def subscriber_ids(redis: Redis) -> list[int]:
    text: bytes = await redis.execute("CLIENT", "LIST", "TYPE", "pubsub")
    return sorted(int(line.split()[0].removeprefix(b"id=")) for line in text.splitlines())


async def play(steps: list[tuple[str, int, int, str]]) -> None:
    spy = Spy()
    async with (
        open_embedded() as server,
        connect(server.url) as control,
        control.subscribe(updates_channel("config"), buffer_size=100_000) as messages,
        trio.open_nursery() as nursery,
    ):
        (spy.subscriber_id,) = await subscriber_ids(control)
        nursery.start_soon(spy.follow, messages)
        async with open_replicas(server.url) as replicas:
            observers = [Observer(config) for _, config in replicas]
            for observer in observers:
                await nursery.start(observer.watch)
            await drive(steps, control, replicas, spy)
            await come_to_rest(control, replicas, spy)
        nursery.cancel_scope.cancel()
    for observer in observers:
        check_order(observer.seen, spy.states)


async def drive(
    steps: list[tuple[str, int, int, str]],
    control: Redis,
    replicas: list[tuple[Redis, Map]],
    spy: Spy,
) -> None:
    for number, (kind, replica, operation, key) in enumerate(steps):
        _, config = replicas[replica]
        match kind:
            case "write":
                with trio.fail_after(20):
                    await write(config, operation, key, str(number))
            case "burst":
                async with trio.open_nursery() as nursery:
                    for _, other in replicas:
                        for op in range(9):
                            nursery.start_soon(write, other, op, "a", f"{number}.{op}")
            case "cut":
                ids = [id_ for id_ in await subscriber_ids(control) if id_ != spy.subscriber_id]
                if ids:
                    await control.execute("CLIENT", "KILL", "ID", ids[replica % len(ids)])
            case "flush":
                await spy.catch_up(control)
                await control.execute("FLUSHALL")
                spy.states.append((0, {}))
            case _:
                await come_to_rest(control, replicas, spy)


async def come_to_rest(control: Redis, replicas: list[tuple[Redis, Map]], spy: Spy) -> None:
    """Wait until every replica has what the server has."""
    state = await spy.catch_up(control)
    for _, config in replicas:
        with trio.fail_after(30):
            await config.wait_for(lambda m: (m.revision, m.snapshot()) == state)


def check_order(seen: list[State], states: list[State]) -> None:
    """Each state that was seen is one that was, at or after the one seen before."""
    position = 0
    for state in seen:
        assert state in states[position:], (state, states)
        position = states.index(state, position)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(STEPS)
def test_replicas_show_only_what_was_in_order_and_end_equal(
    steps: list[tuple[str, int, int, str]],
) -> None:
    trio.run(play, steps)
