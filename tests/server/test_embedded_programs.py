"""Embedded servers in real programs: shared, killed at every place, raced for."""

import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import pytest
import trio

from terzetto.server import open_embedded
from terzetto.server._guardian import listener_pid, read_state
from terzetto.server._process import LEAVE_GRACE
from terzetto.testing import Program, open_program

# Says where its server is, then runs commands until its standard input ends.
HOLDER = """
import sys, trio
from terzetto.server import open_embedded

async def main(directory):
    async with open_embedded(directory) as server:
        print(server.pid, server.socket_path, flush=True)
        stdin = trio.lowlevel.FdStream(sys.stdin.fileno())
        while line := await stdin.receive_some():
            async with await trio.open_unix_socket(str(server.socket_path)) as stream:
                await stream.send_all(line)
                print(repr(await stream.receive_some()), flush=True)
    print("left", flush=True)

trio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
"""


@attrs.define(eq=False, kw_only=True)
class Holder:
    program: Program
    server: int
    guardian: int
    socket_path: Path

    async def ask(self, command: str) -> str:
        await self.program.write_line(command)
        return await self.program.read_line()

    async def leave(self) -> None:
        await self.program.close_input()
        assert await self.program.read_line() == "left"
        assert await self.program.wait() == 0


# Opens a server again and again, in children that Ctrl-C strikes at one line of the
# package or of what it calls: at the first, the sixth, and so on behind the last.
# Says where, and "clean" when the child and its files are gone.
STRICKEN = """
import os, pathlib, shutil, signal, sys, tempfile, time, trio
from terzetto.server import _locks, _process, open_embedded

FILES = {module.__file__ for module in (_locks, _process, shutil, tempfile)}

def strike_at(number):
    passed = 0

    def trace_line(frame, event, argument):
        nonlocal passed
        passed += event == "line"
        if event == "line" and passed == number:
            print(pathlib.Path(frame.f_code.co_filename).name, frame.f_lineno, flush=True)
            signal.raise_signal(signal.SIGINT)
        return trace_line

    sys.settrace(lambda frame, *_: trace_line if frame.f_code.co_filename in FILES else None)

async def open_once(number):
    strike_at(number)
    async with open_embedded():
        pass

def is_struck(number):
    try:
        trio.run(open_once, number)
    except KeyboardInterrupt:
        return True
    return False

number, struck = 1, True
while struck:
    child = os.fork()
    if not child:
        os._exit(is_struck(number))
    struck = os.waitpid(child, 0)[1]
    while os.listdir(os.environ["TMPDIR"]):
        time.sleep(0.01)  # what the guardian removes has no event to wait for
    print("clean" if struck else "done", flush=True)
    number += 5
"""

StartHolder = Callable[..., Awaitable[Holder]]


@pytest.fixture
async def start_holder() -> AsyncIterator[StartHolder]:
    async with AsyncExitStack() as stack:

        async def start(*arguments: Path, environment: dict[str, str] | None = None) -> Holder:
            program = await stack.enter_async_context(
                open_program(HOLDER, *arguments, environment=environment)
            )
            pid, _, path = (await program.read_line()).partition(" ")
            return Holder(
                program=program,
                server=int(pid),
                guardian=parent(int(pid)),
                socket_path=Path(path),
            )

        yield start


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def alive(pid: int) -> bool:
    """Say whether any thread of `pid` lives: one that does still holds the locks of all."""
    try:
        return any(map(running, Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return False


def running(thread: Path) -> bool:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110 - other processes have no event to wait for
        await trio.sleep(0.01)


async def gone(*pids: int) -> None:
    await until(lambda: not any(alive(pid) for pid in pids))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


def locks_of(pid: int) -> set[str]:
    links: set[str] = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.add(entry.readlink().name)
    return {name for name in links if name.endswith(".lock")}


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def test_a_killed_program_takes_its_server_along(start_holder: StartHolder) -> None:
    holder = await start_holder()
    await holder.program.kill()
    await gone(holder.server, holder.guardian)
    assert not holder.socket_path.parent.exists()


async def test_acknowledged_writes_are_there_after_everything_was_killed(
    start_holder: StartHolder, tmp_path: Path
) -> None:
    holder = await start_holder(tmp_path)
    for count in range(1, 51):
        assert await holder.ask("INCR writes") == f"b':{count}\\r\\n'"
    kill(holder.guardian, holder.server, holder.program.pid)
    await gone(holder.server, holder.guardian, holder.program.pid)
    assert holder.socket_path.exists(), "the crash is meant to leave its socket"
    assert read_state(tmp_path) is not None, "and what the guardian wrote"

    again = await start_holder(tmp_path)
    assert again.server != holder.server
    assert await again.ask("GET writes") == "b'$2\\r\\n50\\r\\n'"


async def test_programs_share_a_server_and_the_last_one_out_stops_it(
    start_holder: StartHolder, tmp_path: Path
) -> None:
    first = await start_holder(tmp_path)
    second = await start_holder(tmp_path)
    assert second.server == first.server
    assert await first.ask("SET key value") == "b'+OK\\r\\n'"
    await first.leave()
    assert await second.ask("GET key") == "b'$5\\r\\nvalue\\r\\n'"
    await second.leave()
    assert not alive(second.server), "leaving returns when the server has ended"
    assert not second.socket_path.exists()
    assert read_state(tmp_path) is None


async def test_blocks_of_one_program_share_a_server(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as first:
        async with open_embedded(tmp_path) as second:
            assert second.pid == first.pid
        assert alive(first.pid)
        pid = first.pid
    assert not alive(pid)


async def test_the_first_program_killed_leaves_the_server_to_the_second(
    start_holder: StartHolder, tmp_path: Path
) -> None:
    first = await start_holder(tmp_path)
    second = await start_holder(tmp_path)
    await first.program.kill()
    assert await second.ask("PING") == "b'+PONG\\r\\n'"
    await second.program.kill()
    await gone(first.server, first.guardian)


async def test_ctrl_c_reaches_the_program_only(start_holder: StartHolder) -> None:
    holder = await start_holder()
    holder.program.interrupt()
    # The interrupt leaves the block; the server was there until then.
    assert await holder.program.wait() == -signal.SIGINT
    assert not alive(holder.server)


async def test_ctrl_c_in_one_program_leaves_the_server_to_the_others(
    start_holder: StartHolder, tmp_path: Path
) -> None:
    first = await start_holder(tmp_path)
    second = await start_holder(tmp_path)
    first.program.interrupt()
    assert await first.program.wait() == -signal.SIGINT
    assert await second.ask("PING") == "b'+PONG\\r\\n'"
    assert read_state(tmp_path) is not None
    assert alive(first.server)


async def test_ctrl_c_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    """While Python starts, while the server does, and after; the leak check sees processes."""

    async def interrupt(after: float) -> None:
        async with open_program(HOLDER, environment={"TMPDIR": str(tmp_path)}) as program:
            await trio.sleep(after)
            ended = False
            while not ended:  # Python itself may lose one, while it imports
                program.interrupt()
                with trio.move_on_after(3):
                    await program.wait()
                    ended = True

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(interrupt, number / 5)
    await until(lambda: not list(tmp_path.iterdir()))


async def test_ctrl_c_at_any_line_leaves_nothing(tmp_path: Path) -> None:
    places: list[str] = []
    async with open_program(STRICKEN, environment={"TMPDIR": str(tmp_path)}) as program:
        while (place := await program.read_line()) != "done":
            places.append(place)
            # Who leaves only when the grace is over has waited for itself.
            with trio.move_on_after(LEAVE_GRACE - 1) as patience:
                assert await program.read_line() == "clean"
            assert not patience.cancelled_caught, f"Ctrl-C at {place} leaves its files"
    assert len(places) > 30, places


async def test_signals_for_the_guardian_do_not_end_it(start_holder: StartHolder) -> None:
    holder = await start_holder()
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(holder.guardian, kind)
    assert await holder.ask("PING") == "b'+PONG\\r\\n'"
    assert alive(holder.guardian)
    await holder.leave()


async def test_a_killed_guardian_is_replaced_when_its_user_leaves(
    start_holder: StartHolder, tmp_path: Path
) -> None:
    holder = await start_holder(tmp_path)
    kill(holder.guardian)
    assert await holder.ask("PING") == "b'+PONG\\r\\n'"
    await holder.leave()
    assert not alive(holder.server)
    assert read_state(tmp_path) is None


@pytest.mark.parametrize("paused", [False, True])
async def test_the_next_guardian_takes_over_from_a_killed_one(
    start_holder: StartHolder, tmp_path: Path, *, paused: bool
) -> None:
    first = await start_holder(tmp_path)
    assert await first.ask("SET key value") == "b'+OK\\r\\n'"
    kill(first.guardian)
    if paused:
        os.kill(first.server, signal.SIGSTOP)
    second = await start_holder(tmp_path)
    assert second.server != first.server
    assert not alive(first.server), "two servers may not write to one directory"
    # The first program finds the new server in the place of the old one.
    assert await first.ask("GET key") == "b'$5\\r\\nvalue\\r\\n'"


async def test_an_orphaned_server_is_stopped_by_the_next_program(
    start_holder: StartHolder, tmp_path: Path
) -> None:
    first = await start_holder(tmp_path)
    kill(first.guardian, first.program.pid)
    await gone(first.guardian, first.program.pid)
    assert alive(first.server)
    second = await start_holder(tmp_path)
    assert not alive(first.server)
    assert second.server != first.server


@pytest.mark.parametrize("orphaned", [False, True])
async def test_a_recycled_pid_in_the_state_file_is_left_alone(
    start_holder: StartHolder, tmp_path: Path, *, orphaned: bool
) -> None:
    """Whether or not there is a server to stop, it is not the process of that number."""
    async with open_program("import sys; print('up', flush=True); sys.stdin.read()") as innocent:
        await innocent.read_line()
        holder = await start_holder(tmp_path)
        dead = [holder.guardian, holder.program.pid, *([] if orphaned else [holder.server])]
        kill(*dead)
        await gone(*dead)
        name_in_state(tmp_path, innocent.pid)
        async with open_embedded(tmp_path) as server:
            assert server.pid not in (innocent.pid, holder.server)
            assert not alive(holder.server)
        await innocent.close_input()
        assert await innocent.wait() == 0


def name_in_state(directory: Path, pid: int) -> None:
    state = json.loads((directory / "server.json").read_text())
    (directory / "server.json").write_text(json.dumps({**state, "pid": pid}))


async def test_leaving_waits_until_the_server_has_ended() -> None:
    go, left = trio.Event(), trio.Event()

    async def hold(*, task_status: trio.TaskStatus[int]) -> None:
        async with open_embedded() as server:
            task_status.started(server.pid)
            await go.wait()
        left.set()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(hold)
        guardian = parent(server)
        os.kill(guardian, signal.SIGSTOP)
        go.set()
        with trio.move_on_after(0.2):  # long enough for one that does not wait
            await left.wait()
        assert not left.is_set()
        os.kill(guardian, signal.SIGCONT)
        await left.wait()
        assert not alive(server)


async def test_a_forked_child_does_not_keep_the_server(tmp_path: Path) -> None:
    source = HOLDER.replace(
        "stdin = ", "import os, time\n        os.fork() or time.sleep(600)\n        stdin = "
    )
    async with open_program(source, tmp_path) as program:
        server = int((await program.read_line()).partition(" ")[0])
        guardian = parent(server)
        assert alive(server)
        await until(lambda: children(program.pid))
        [child] = children(program.pid)
        await program.kill()
        await gone(server, guardian)
        assert alive(child)
        kill(child)


async def test_nothing_of_the_program_is_inherited(start_holder: StartHolder) -> None:
    holder = await start_holder(environment={"REDIS_PASSWORD": "hidden", "REDIS_URL": "redis://x"})
    for pid in (holder.server, holder.guardian):
        assert "hidden" not in environment_of(pid)
        assert "REDIS_URL" not in environment_of(pid)
        assert os.getsid(pid) not in (os.getsid(0), holder.program.pid)
    assert locks_of(holder.server) == {"server.lock"}
    assert locks_of(holder.guardian) == {"users.lock", "guardian.lock", "hold.lock"}


async def test_programs_that_come_and_go_never_meet_two_servers(tmp_path: Path) -> None:
    """Last ones out and new ones in race; each increments a counter, none is lost."""
    source = """
import sys, trio
from terzetto.server import open_embedded

async def visit(directory):
    async with open_embedded(directory) as server:
        async with await trio.open_unix_socket(str(server.socket_path)) as stream:
            await stream.send_all(b"INCR visits\\r\\n")
            assert (await stream.receive_some()).startswith(b":")

async def main(directory, visits):
    for _ in range(visits):
        await visit(directory)

trio.run(main, sys.argv[1], int(sys.argv[2]))
"""
    programs, visits = 4, 6
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(open_program(source, tmp_path, str(visits)))
            for _ in range(programs)
        ]
        for program in running:
            assert await program.wait() == 0
    async with (
        open_embedded(tmp_path) as server,
        await trio.open_unix_socket(str(server.socket_path)) as stream,
    ):
        await stream.send_all(b"GET visits\r\n")
        assert await stream.receive_some() == b"$2\r\n%d\r\n" % (programs * visits)
        assert listener_pid(str(server.socket_path)) == server.pid
