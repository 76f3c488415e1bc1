"""A fleet of real worker processes to do harm to, and a dispatcher that keeps books.

The fleet writes down what it does to its processes, the processes what their
jobs do, the dispatcher what it was told; `oracle.judge` compares.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import trio
from redis.exceptions import RedisError

import terzetto
from terzetto import pool
from terzetto.errors import TerzettoError
from terzetto.redis import Redis
from terzetto.testing import Program, open_program
from tests.faults.oracle import Verdict, judge
from tests.faults.record import STALL, Event, Follower, Kind, Recorder, keep_time

POOL: Final = "scenario"
CLIENT: Final = "client"
REDIS: Final = "redis"


def stretch() -> float:
    """Return how many times longer than its work a process of this machine takes for it."""
    began, used = time.perf_counter(), time.process_time()
    while time.process_time() - used < 0.2:
        pass
    return (time.perf_counter() - began) / (time.process_time() - used)


TTL: Final = round(max(1.0, stretch()), 1)
"""Seconds; one on a machine that has nothing else to do. All bounds are multiples of it."""
GRACE: Final = TTL
AT_ONCE: Final = 50  # dispatches
LOOK: Final = 0.02  # seconds between two looks at what was written down

SCALE: Final = float(os.environ.get("TERZETTO_FAULTS_SCALE", "1"))


def scaled(number: int) -> int:
    """Return a number of the scenario's table, made smaller by TERZETTO_FAULTS_SCALE."""
    return max(1, round(number * SCALE))


@attrs.define(eq=False)
class FleetNode:
    """A process of the fleet."""

    name: str
    program: Program
    is_paused: bool = False


@attrs.define(eq=False, kw_only=True)
class Fleet:
    """Worker processes of one pool, and the books of what they run. Made by `open_fleet`."""

    url: str
    name_of_pool: str
    directory: Path
    client: pool.Node
    nodes: list[FleetNode] = attrs.field(factory=list[FleetNode])
    known: list[str] = attrs.field(factory=list[str])
    """Keys that a dispatch was refused for, because they exist."""
    events: list[Event] = attrs.field(factory=list[Event])
    _stack: AsyncExitStack = attrs.field(alias="stack", repr=False)
    _recorder: Recorder = attrs.field(alias="recorder", repr=False)
    _follower: Follower = attrs.field(alias="follower", repr=False)
    _live: dict[str, Counter[str]] = attrs.field(
        factory=lambda: defaultdict[str, Counter[str]](Counter), repr=False
    )
    _started: int = 0

    async def add_node(self, url: str | None = None) -> FleetNode:
        """Start a process; return when jobs may come to it."""
        name = f"n{self._started}"
        self._started += 1
        program = await self._stack.enter_async_context(
            open_program(
                Path(__file__).with_name("node_program.py"),
                *(url or self.url, self.name_of_pool, name, self.directory / f"{name}.events"),
                *(str(TTL), str(GRACE)),
                environment={"PYTHONPATH": str(Path(__file__).parents[2])},
            )
        )
        assert await program.read_line() == "ready"
        node = FleetNode(name, program)
        self.nodes.append(node)
        return node

    async def kill(self, node: FleetNode) -> None:
        """End a process with SIGKILL."""
        self._recorder.write(node.name, "", Kind.KILLED)
        self.nodes.remove(node)
        await node.program.kill()

    def pause(self, node: FleetNode) -> None:
        """Stop a process with SIGSTOP."""
        self._recorder.write(node.name, "", Kind.PAUSED)
        node.program.pause()
        node.is_paused = True

    def resume(self, node: FleetNode) -> None:
        """Let a process go on with SIGCONT."""
        self._recorder.write(node.name, "", Kind.RESUMED)
        node.program.resume()
        node.is_paused = False

    async def dispatch(self, keys: Iterable[str]) -> None:
        """Dispatch many jobs, some at a time, and write down what is said about each."""
        limit = trio.CapacityLimiter(AT_ONCE)

        async def one(key: str) -> None:
            async with limit:
                kind = Kind.ACCEPTED
                try:
                    await self.client.dispatch(key, key.encode())
                except pool.JobExistsError:
                    # An earlier dispatch of it was accepted without our hearing of it.
                    self.known.append(key)
                except (TerzettoError, RedisError):
                    kind = Kind.UNDECIDED
                self._recorder.write(CLIENT, key, kind)

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(one, key)

    async def leave(self, node: FleetNode) -> None:
        """Let a process leave the pool; return when it has ended."""
        self.nodes.remove(node)
        await node.program.close_input()
        assert await node.program.wait() == 0

    async def stop_job(self, key: str) -> None:
        """Stop a job."""
        await self.client.stop_job(key)
        self._recorder.write(CLIENT, key, Kind.STOPPED)

    def live(self) -> Counter[str]:
        """Return how often each key is executed now, by what was written down so far."""
        for event in self._follower.read_new():
            self.events.append(event)
            if event.kind is Kind.STARTED:
                self._live[event.node][event.key] += 1
            elif event.kind is Kind.ENDED:
                self._live[event.node][event.key] -= 1
        able = [self._live[node.name] for node in self.nodes if not node.is_paused]
        return sum((+count for count in able), Counter[str]())

    def accepted(self) -> set[str]:
        """Return the keys that were accepted and not stopped since."""
        keys: set[str] = set()
        for event in sorted(self.events, key=lambda event: event.at):
            if event.kind is Kind.ACCEPTED:
                keys.add(event.key)
            elif event.kind is Kind.STOPPED:
                keys.discard(event.key)
        return keys

    async def wait_live(self, keys: Iterable[str], *, within: float) -> float | None:
        """Wait until each of `keys` is executed once; return the seconds, or None if too many."""
        wanted = Counter(dict.fromkeys(keys, 1))
        began = trio.current_time()
        while self.live() != wanted:
            if trio.current_time() - began > within:
                return None
            await trio.sleep(LOOK)
        return trio.current_time() - began

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of what was written down."""
        while not holds():  # noqa: ASYNC110 - other processes have no event to wait for
            await trio.sleep(LOOK)

    async def judge(self) -> Verdict:
        """Call the roll, and judge everything since the beginning.

        A job that moves is nowhere for a moment, so one that seems lost is looked
        for again; it is lost if it does not come within ten times the TTL.
        """
        deadline = trio.current_time() + 10 * TTL
        while True:
            began = time.monotonic()
            for node in self.nodes:
                await node.program.write_line("roll call")
                assert await node.program.read_line() == "rolled"
            self.live()
            verdict = judge(self.events, roll_call=began, lease=TTL)
            if not verdict.lost or trio.current_time() > deadline:
                return verdict
            await trio.sleep(TTL)  # a roll call is work for every job

    def explain(self, verdict: Verdict) -> str:
        """Return the events of the first key that something is wrong with."""
        wrong = [*verdict.lost, *verdict.undead, *(one.key for one in verdict.overlaps)]
        if not wrong:
            return "all is well"
        told = [
            event
            for event in self.events
            if event.key in (wrong[0], "") or event.kind is Kind.STALLED
        ]
        told.sort(key=lambda event: event.at)
        lines = [f"{event.at:.3f} {event.node} {event.kind} {event.key}" for event in told]
        return "\n".join([f"all that happened is in {self.directory}", *lines])


async def keep_asking(redis: Redis, recorder: Recorder) -> None:
    """Write down, for ever, when Redis takes long to answer; its disk may be busy."""
    while True:
        began, used = time.monotonic(), time.process_time()
        with suppress(RedisError):
            await redis.execute("PING")
            stalled = (time.monotonic() - began) - (time.process_time() - used)
            if stalled > STALL:
                recorder.write(REDIS, f"{stalled:.3f}", Kind.STALLED)
        await trio.sleep(LOOK)


@asynccontextmanager
async def open_fleet(
    url: str, directory: Path, *, nodes: int, client_url: str | None = None, name: str = POOL
) -> AsyncGenerator[Fleet, None]:
    """Run a fleet, and a dispatcher without workers in this process."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(
            terzetto.connect(client_url or url, max_backoff=TTL / 4)
        )
        client = await stack.enter_async_context(
            pool.open_node(name, redis, worker_ttl=TTL, ack_grace_period=GRACE, client_only=True)
        )
        recorder = Recorder(directory / f"{CLIENT}.events")
        stack.callback(recorder.close)
        fleet = Fleet(
            url=url,
            name_of_pool=name,
            directory=directory,
            client=client,
            stack=stack,
            recorder=recorder,
            follower=Follower(directory),
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(keep_time, recorder, CLIENT)
        nursery.start_soon(keep_asking, redis, recorder)
        for _ in range(nodes):
            await fleet.add_node()
        yield fleet
        nursery.cancel_scope.cancel()
