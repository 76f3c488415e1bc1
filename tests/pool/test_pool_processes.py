"""Worker processes that are killed, paused and stopped: what was accepted runs on."""

import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from terzetto import pool
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from tests.faults.record import measure_stalls

PROGRAM = Path(__file__).with_name("pool_program.py")
TTL = 1.0


@attrs.define
class Line:
    at: float
    name: str
    event: str
    key: str


@attrs.define
class Log:
    """What the processes noted, and what follows from it."""

    path: Path
    dead: dict[str, float] = attrs.field(factory=dict[str, float])

    def lines(self) -> list[Line]:
        if not self.path.exists():
            return []
        found: list[Line] = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            at, name, event, key = text.split(" ", 3)
            found.append(Line(float(at), name, event, key))
        return sorted(found, key=lambda line: line.at)

    def is_ready(self, name: str) -> bool:
        return any(line.name == name and line.event == "ready" for line in self.lines())

    def live(self) -> dict[str, list[str]]:
        """Return by whom each key is run now."""
        live: dict[str, list[str]] = {}
        for line in self.lines():
            if line.event == "start":
                live.setdefault(line.key, []).append(line.name)
            elif line.event == "stop":
                live[line.key].remove(line.name)
        return {
            key: running
            for key, names in live.items()
            if (running := [name for name in names if name not in self.dead])
        }

    def overlaps(self) -> list[str]:
        """Return the keys that two living processes ran at the same time."""
        live: dict[str, list[str]] = {}
        found: list[str] = []
        for line in self.lines():
            names = live.setdefault(line.key, [])
            if line.event == "start":
                if any(self.dead.get(name, float("inf")) > line.at for name in names):
                    found.append(line.key)
                names.append(line.name)
            elif line.event == "stop":
                names.remove(line.name)
        return found


@attrs.define
class Fleet:
    url: str
    log: Log
    ttl: float = TTL
    processes: dict[str, subprocess.Popen[bytes]] = attrs.field(
        factory=dict[str, subprocess.Popen[bytes]]
    )

    async def start(self, name: str) -> None:
        command = [sys.executable, str(PROGRAM), self.url, "p", name, str(self.log.path)]
        self.processes[name] = subprocess.Popen(  # noqa: ASYNC220, S603 - our own program, to be killed
            [*command, str(self.ttl), str(self.ttl)]
        )
        await until(lambda: self.log.is_ready(name))

    def signal(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()
        self.log.dead[name] = time.monotonic()

    async def end(self, name: str) -> None:
        """End a process and see that it leaves on its own."""
        process = self.processes[name]
        process.terminate()
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
        del self.processes[name]


async def until(is_so: Callable[[], object], within: float = 30.0) -> None:
    with trio.fail_after(within):
        while not is_so():  # noqa: ASYNC110 - states of other processes
            await trio.sleep(0.02)


@asynccontextmanager
async def running(url: str, tmp_path: Path, *names: str) -> AsyncGenerator[Fleet]:
    fleet = Fleet(url, Log(tmp_path / "log"))
    try:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(fleet.start, name)
        yield fleet
        for name in list(fleet.processes):
            await fleet.end(name)
    finally:
        for process in fleet.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


async def dispatch_all(node: pool.Node, keys: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(node.dispatch, key)


KEYS = [f"job-{number}" for number in range(100)]


@attrs.define
class SlowToStop:
    """Jobs that end when they are let go."""

    stopping: trio.Event = attrs.field(factory=trio.Event)
    let_go: trio.Event = attrs.field(factory=trio.Event)

    async def start(self, _: pool.Job) -> None:
        await trio.lowlevel.checkpoint()

    async def stop(self, _: str) -> None:
        self.stopping.set()
        await self.let_go.wait()


async def test_kill_9_of_a_worker_process_loses_no_job(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    async with (
        running(server.url, tmp_path, "a", "b") as fleet,
        pool.open_node("p", redis, client_only=True, worker_ttl=TTL, ack_grace_period=TTL) as node,
        measure_stalls(tmp_path) as stalled,
    ):
        await dispatch_all(node, KEYS)
        lost = [key for key, names in fleet.log.live().items() if names == ["a"]]
        assert 0 < len(lost) < len(KEYS)
        fleet.kill("a")
        killed_at, before = trio.current_time(), stalled()
        await fleet.start("c")
        await until(lambda: len(fleet.log.live()) == len(KEYS))
        assert all(len(names) == 1 for names in fleet.log.live().values())
        assert fleet.log.overlaps() == []
        seconds = trio.current_time() - killed_at - (stalled() - before)
        assert seconds < 4 * TTL + 5  # four TTLs, on a busy machine
        assert sorted(await node.job_keys()) == sorted(KEYS)


async def test_kill_9_while_jobs_are_dispatched_loses_none_that_was_accepted(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    undecided: list[str] = []
    async with (
        running(server.url, tmp_path, "a", "b") as fleet,
        pool.open_node("p", redis, client_only=True, worker_ttl=TTL, ack_grace_period=TTL) as node,
    ):

        async def dispatch(key: str) -> None:
            try:
                await node.dispatch(key)
            except pool.DispatchUnknownError:
                undecided.append(key)

        async with trio.open_nursery() as nursery:
            for number, key in enumerate(KEYS):
                nursery.start_soon(dispatch, key)
                if number == 30:
                    await until(lambda: len(fleet.log.live()) > 10)
                    fleet.kill("b")
                await trio.sleep(0.01)
        await until(lambda: set(fleet.log.live()) >= set(KEYS) - set(undecided))
        assert fleet.log.overlaps() == []


async def test_a_process_that_was_paused_gives_up_the_jobs_that_moved_and_works_again(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    async with (
        running(server.url, tmp_path, "a", "b") as fleet,
        pool.open_node("p", redis, client_only=True, worker_ttl=TTL, ack_grace_period=TTL) as node,
    ):
        await dispatch_all(node, KEYS)
        fleet.signal("a", signal.SIGSTOP)
        await until(lambda: all("b" in names for names in fleet.log.live().values()))
        fleet.signal("a", signal.SIGCONT)
        await until(
            lambda: (
                len(fleet.log.live()) == len(KEYS)
                and all(len(names) == 1 for names in fleet.log.live().values())
                and {"a", "b"} == {names[0] for names in fleet.log.live().values()}
            )
        )
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(node.dispatch, f"late-{number}")
        assert {"a", "b"} == {
            names[0] for key, names in fleet.log.live().items() if key.startswith("late")
        }


async def test_sigterm_hands_the_jobs_over(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    async with (
        running(server.url, tmp_path, "a", "b") as fleet,
        pool.open_node("p", redis, client_only=True, worker_ttl=TTL, ack_grace_period=TTL) as node,
    ):
        await dispatch_all(node, KEYS)
        await fleet.end("a")
        await until(lambda: [*fleet.log.live().values()] == [["b"]] * len(KEYS))
        assert fleet.log.overlaps() == []


async def test_a_shutdown_whose_process_was_killed_is_finished_by_a_living_node(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    jobs = SlowToStop()
    async with (
        running(server.url, tmp_path, "a") as fleet,
        pool.open_node("p", redis, worker_ttl=TTL, ack_grace_period=TTL) as node,
    ):
        worker = await node.add_worker(jobs, grace=60)
        await until(lambda: len(node.pool_workers) == 2)
        await dispatch_all(node, KEYS)
        assert 0 < len(worker.jobs) < len(KEYS)
        fleet.signal("a", signal.SIGUSR1)
        await jobs.stopping.wait()
        fleet.kill("a")  # it asked, and waits for us
        jobs.let_go.set()
        await until(lambda: node.is_closed)
        assert node.is_shut_down
        await node.close()  # until it has left
        assert await redis.execute("KEYS", "*") == []
