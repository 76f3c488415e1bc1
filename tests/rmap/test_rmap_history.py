"""Three replicas on a real server, under random operations, delays, cuts and flushes.

A spy, whose subscription is never cut, writes down every state that the map had. All
that a replica ever shows must be one of these, in their order; at rest all are equal
to the server.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terzetto import rmap
from terzetto.redis import Message, Redis, Subscription, connect
from terzetto.rmap import Change, Map, content_key, updates_channel
from terzetto.rmap._message import Op, decode_message
from terzetto.server import open_embedded
from terzetto.testing import Proxy, ProxyConnection, open_proxy

KEY = content_key("config")
SET_AND_WAIT = 2  # the number of that operation in `write`
State = tuple[int, dict[str, str]]

REPLICA = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), REPLICA, st.integers(0, 9), st.sampled_from("abc")),
        st.tuples(
            st.sampled_from(["cut", "hold", "delay", "burst", "sync"]),
            REPLICA,
            st.just(0),
            st.just(""),
        ),
        st.tuples(st.sampled_from(["flush", "rest"]), st.just(0), st.just(0), st.just("")),
    ),
    min_size=5,
    max_size=30,
)


@attrs.define
class Spy:
    """Every state that the map had, in order."""

    states: list[State] = attrs.field(factory=lambda: [(0, {})])
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


async def write_alone(config: Map, operation: int, key: str, value: str) -> None:
    """Write while nobody else does; who waits for the change sees it then."""
    with trio.fail_after(20):
        await write(config, operation, key, value)
    if operation == SET_AND_WAIT:
        assert config[key] == value


async def check_sync(control: Redis, config: Map, spy: Spy) -> None:
    state = await spy.catch_up(control)
    with trio.fail_after(20):
        await config.sync()
    assert (config.revision, config.snapshot()) == state


@attrs.frozen
class Replica:
    """A map, joined through a proxy of its own."""

    proxy: Proxy
    config: Map

    def each_subscription(self, act: Callable[[ProxyConnection], None]) -> None:
        for connection in self.proxy.connections:
            if connection.is_subscribed:
                act(connection)

    def disturb(self, how: str) -> None:
        match how:
            case "cut":
                self.each_subscription(lambda connection: connection.cut())
            case "hold":
                self.each_subscription(lambda connection: connection.hold())
            case _:
                self.proxy.delay = 0.01

    def mend(self) -> None:
        self.proxy.delay = 0.0
        self.each_subscription(lambda connection: connection.release())


@asynccontextmanager
async def open_replicas(url: str) -> AsyncGenerator[list[Replica]]:
    async with AsyncExitStack() as stack:
        opened: list[Replica] = []
        for _ in range(3):
            proxy = await stack.enter_async_context(open_proxy(url))
            redis = await stack.enter_async_context(connect(proxy.url))
            config = await stack.enter_async_context(rmap.join("config", redis, poll_interval=0.2))
            opened.append(Replica(proxy, config))
        yield opened


async def play(steps: list[tuple[str, int, int, str]]) -> None:
    spy = Spy()
    async with (
        open_embedded() as server,
        connect(server.url) as control,
        control.subscribe(updates_channel("config"), buffer_size=100_000) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(spy.follow, messages)
        async with open_replicas(server.url) as replicas:
            observers = [Observer(replica.config) for replica in replicas]
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
    replicas: list[Replica],
    spy: Spy,
) -> None:
    for number, (kind, which, operation, key) in enumerate(steps):
        replica = replicas[which]
        match kind:
            case "write":
                await write_alone(replica.config, operation, key, str(number))
            case "burst":
                async with trio.open_nursery() as nursery:
                    for other in replicas:
                        for op in range(9):
                            nursery.start_soon(write, other.config, op, "a", f"{number}.{op}")
            case "sync":
                await check_sync(control, replica.config, spy)
            case "cut" | "hold" | "delay":
                replica.disturb(kind)
            case "flush":
                await spy.catch_up(control)  # messages may be under way to the replicas
                await control.execute("FLUSHALL")
                spy.states.append((0, {}))
            case _:
                await come_to_rest(control, replicas, spy)


async def come_to_rest(control: Redis, replicas: list[Replica], spy: Spy) -> None:
    """Wait until every replica has what the server has."""
    state = await spy.catch_up(control)
    for replica in replicas:
        replica.mend()
    for replica in replicas:
        with trio.fail_after(30):
            await replica.config.wait_for(lambda m: (m.revision, m.snapshot()) == state)


def check_order(seen: list[State], states: list[State]) -> None:
    """Each state that was seen is one that was, at or after the one seen before."""
    position = 0
    for state in seen:
        assert state in states[position:], (state, states)
        position = states.index(state, position)


@pytest.mark.timeout(180)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(STEPS)
def test_replicas_show_only_what_was_in_order_and_end_equal(
    steps: list[tuple[str, int, int, str]],
) -> None:
    trio.run(play, steps)
