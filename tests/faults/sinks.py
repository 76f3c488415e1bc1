"""Instances of sinks in processes of their own to do harm to, and the books of what they do.

The test writes down what it adds and what it does to the processes, the
processes what their handlers do; `sink_oracle.judge_sink` compares.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

import terzetto
from terzetto.redis import Redis
from terzetto.streaming import Stream
from terzetto.testing import Program, open_program
from tests.faults.record import Event, Follower, Kind, Recorder
from tests.faults.sink_oracle import SinkVerdict, judge_sink
from tests.faults.sink_program import key_of

GRACE: Final = 1.0  # seconds
LOOK: Final = 0.05  # seconds between two looks at what the server has
CLIENT: Final = "client"


@attrs.define(eq=False)
class SinkProcess:
    """A process with one instance."""

    name: str
    program: Program


@attrs.define(eq=False, kw_only=True)
class Sinks:
    """The processes of a scenario. Made by `open_sinks`."""

    url: str
    redis: Redis
    directory: Path
    events: list[Event] = attrs.field(factory=list[Event])
    _stack: AsyncExitStack = attrs.field(alias="stack", repr=False)
    _recorder: Recorder = attrs.field(alias="recorder", repr=False)
    _follower: Follower = attrs.field(alias="follower", repr=False)
    _started: int = 0

    def stream(self, name: str) -> Stream:
        """Return a stream that is never trimmed."""
        return Stream(name, self.redis, max_len=0)

    async def start(
        self,
        stream: str,
        *,
        sink: str = "k",
        how: str = "handle",
        concurrency: int = 1,
        url: str | None = None,
    ) -> SinkProcess:
        """Start a process; return when it has joined."""
        name = f"s{self._started}"
        self._started += 1
        program = await self._stack.enter_async_context(
            open_program(
                Path(__file__).with_name("sink_program.py"),
                *(url or self.url, stream, sink, name, self.directory / f"{name}.events"),
                *(str(GRACE), str(concurrency), how),
                environment={"PYTHONPATH": str(Path(__file__).parents[2])},
            )
        )
        assert await program.read_line() == "ready"
        return SinkProcess(name, program)

    async def add(self, stream: str, names: Iterable[str]) -> list[str]:
        """Add events, and write them down; return their keys."""
        ids = await self.stream(stream).add_many((name, b"") for name in names)
        keys = [key_of(stream, event_id) for event_id in ids if event_id is not None]
        for key in keys:
            self._recorder.write(CLIENT, key, Kind.ACCEPTED)
        return keys

    async def kill(self, process: SinkProcess) -> None:
        """End a process with SIGKILL."""
        self._recorder.write(process.name, "", Kind.KILLED)
        await process.program.kill()

    def pause(self, process: SinkProcess) -> None:
        """Stop a process with SIGSTOP."""
        self._recorder.write(process.name, "", Kind.PAUSED)
        process.program.pause()

    def resume(self, process: SinkProcess) -> None:
        """Let a process go on with SIGCONT."""
        self._recorder.write(process.name, "", Kind.RESUMED)
        process.program.resume()

    async def leave(self, process: SinkProcess) -> float:
        """Let a process leave; return the seconds until it had ended."""
        began = trio.current_time()
        await process.program.close_input()
        assert await process.program.wait() == 0
        return trio.current_time() - began

    def count(self, kind: Kind) -> int:
        """Return for how many events it was written down so far."""
        self.events += self._follower.read_new()
        return len({event.key for event in self.events if event.kind is kind})

    def stalled_since(self, began: float) -> float:
        """Return for how many seconds since `began` the machine did not let a process run."""
        self.events += self._follower.read_new()
        stalls = [event for event in self.events if event.kind is Kind.STALLED]
        return sum(float(event.key) for event in stalls if event.at > began)

    async def wait_count(self, kind: Kind, number: int) -> None:
        """Wait until it was written down for so many events."""
        while self.count(kind) < number:  # noqa: ASYNC110 - other processes have no event to wait for
            await trio.sleep(LOOK)

    async def settle(self, *streams: str) -> None:
        """Wait until the server has nothing pending and nothing to deliver."""
        for name in streams:
            while True:
                (group,) = (await self.stream(name).info()).groups
                if group.pending == 0 and group.lag == 0:
                    break
                await trio.sleep(LOOK)

    async def judge(self, *streams: str) -> SinkVerdict:
        """Write the dead letters down, and judge everything since the beginning."""
        for name in streams:
            after = None
            while letters := await self.stream(name).dead_letters.read(after=after, limit=1000):
                for letter in letters:
                    self._recorder.write(CLIENT, key_of(name, letter.event_id), Kind.DEAD)
                after = letters[-1].id
        self.count(Kind.DONE)
        return judge_sink(self.events)


@asynccontextmanager
async def open_sinks(url: str, directory: Path) -> AsyncGenerator[Sinks]:
    """Run a scenario; its processes end with the block."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(terzetto.connect(url))
        recorder = Recorder(directory / f"{CLIENT}.events")
        stack.callback(recorder.close)
        yield Sinks(
            url=url,
            redis=redis,
            directory=directory,
            stack=stack,
            recorder=recorder,
            follower=Follower(directory),
        )
