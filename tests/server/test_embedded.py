"""What `open_embedded` promises to one program: it answers, keeps, restarts, and ends."""

import json
import os
import signal
import stat
import tempfile
from pathlib import Path

import pytest
import trio

from terzetto.redis import connect
from terzetto.server import EmbeddedServer, ServerStartError, open_embedded
from terzetto.server._guardian import STOP_GRACE, listener_pid


async def ask(server: EmbeddedServer, *lines: str) -> bytes:
    async with await trio.open_unix_socket(str(server.socket_path)) as stream:
        await stream.send_all("".join(line + "\r\n" for line in lines).encode())
        return await stream.receive_some(65536)


async def asked_in_the_end(server: EmbeddedServer, line: str) -> bytes:
    """The reply, once there is one: while a server restarts, its socket refuses or breaks."""
    while True:
        try:
            if (reply := await ask(server, line)) and not reply.startswith(b"-LOADING"):
                return reply
        except (OSError, trio.BrokenResourceError):
            await trio.sleep(0.01)


def is_dead(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def is_gone(path: Path) -> bool:
    return not path.exists()


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(directory: Path) -> list[Path]:
    """What lies in `directory`, at any depth, that its owner alone may not use."""
    return [path for path in (directory, *directory.rglob("*")) if mode_of(path) & 0o077]


async def test_answers_on_its_socket(server: EmbeddedServer) -> None:
    assert await ask(server, "PING") == b"+PONG\r\n"


async def test_answers_on_its_port(server: EmbeddedServer) -> None:
    assert server.port is not None
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(b"PING\r\n")
        assert await stream.receive_some(100) == b"+PONG\r\n"


async def test_has_no_port_unless_asked() -> None:
    async with open_embedded() as server:
        assert server.port is None
        assert b"tcp_port:0\r\n" in await ask(server, "INFO server")


async def test_syncs_every_write(server: EmbeddedServer) -> None:
    assert b"always" in await ask(server, "CONFIG GET appendfsync")
    assert b"yes" in await ask(server, "CONFIG GET appendonly")


async def test_two_private_servers_share_nothing(server: EmbeddedServer) -> None:
    async with open_embedded() as other:
        await ask(server, "SET key here")
        assert await ask(other, "GET key") == b"$-1\r\n"


async def test_nothing_of_a_private_server_remains() -> None:
    async with open_embedded() as server:
        directory, pid = server.directory, server.pid
        assert not is_dead(pid)
        assert not is_gone(directory)
    assert is_dead(pid)
    assert is_gone(directory)


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_embedded():
            raise KeyError("mine")


async def test_a_cancelled_block_stops_the_server() -> None:
    pids: list[int] = []
    with trio.CancelScope() as scope:
        async with open_embedded() as server:
            pids.append(server.pid)
            scope.cancel()
            await trio.sleep_forever()
    assert is_dead(*pids)


async def test_data_is_there_at_the_next_start(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "with its parents"
    async with open_embedded(directory) as server:
        await ask(server, "SET key value")
    async with open_embedded(directory) as server:
        assert await ask(server, "GET key") == b"$5\r\nvalue\r\n"


async def test_only_the_owner_may_use_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with open_embedded(tmp_path / "data") as server:
            await ask(server, "SET key value")
            assert open_to_others(server.directory) == []
            assert mode_of(server.socket_path) == 0o600
            assert mode_of(server.directory) == 0o700
    finally:
        os.umask(before)


async def test_a_server_that_dies_comes_back_with_its_data(server: EmbeddedServer) -> None:
    await ask(server, "SET key value")
    first = server.pid
    os.kill(first, signal.SIGKILL)
    assert await asked_in_the_end(server, "GET key") == b"$5\r\nvalue\r\n"
    assert server.pid != first
    assert listener_pid(str(server.socket_path)) == server.pid


async def test_a_server_that_keeps_dying_comes_back_each_time(server: EmbeddedServer) -> None:
    for _ in range(3):
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        assert await asked_in_the_end(server, "PING") == b"+PONG\r\n"
        assert server.pid != pid


async def test_kill_keeps_the_server_down_until_start(server: EmbeddedServer) -> None:
    await ask(server, "SET key value")
    for _ in range(2):
        pid = server.pid
        await server.kill()
        assert is_dead(pid) or listener_pid(str(server.socket_path)) is None
        with trio.move_on_after(0.4):  # longer than the guardian hesitates
            while server.pid == pid:  # noqa: ASYNC110 - written by the guardian
                await trio.sleep(0.01)
        assert server.pid == pid, "it was started again"
        with pytest.raises(OSError, match="refused"):
            await ask(server, "PING")
        await server.start()
        assert await ask(server, "GET key") == b"$5\r\nvalue\r\n"


async def test_leaving_a_server_that_is_down_ends_the_hold(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as server:
        await ask(server, "SET key value")
        await server.kill()
    async with open_embedded(tmp_path) as server:
        assert await ask(server, "GET key") == b"$5\r\nvalue\r\n"


@pytest.mark.parametrize("private", [True, False])
async def test_leaving_ends_a_server_that_is_paused(tmp_path: Path, *, private: bool) -> None:
    started = trio.current_time()
    async with open_embedded(None if private else tmp_path) as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
    assert is_dead(pid)
    assert trio.current_time() - started < STOP_GRACE, "it was woken up, not waited for"


class _CancelAt(trio.abc.Instrument):
    """Cancels a scope before the nth step of a task."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.task = trio.lowlevel.current_task()
        self.step = step
        self.scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.step -= 1
            if self.step == 0:
                self.scope.cancel()


@pytest.mark.parametrize("joins", [False, True])
async def test_cancelled_at_any_step_it_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, joins: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    step, cancelled = 0, True
    async with open_embedded(tmp_path / "shared") as other:
        while cancelled:
            step += 1
            before = names_in(tmp_path)
            scope = trio.CancelScope()
            instrument = _CancelAt(step, scope)
            trio.lowlevel.add_instrument(instrument)
            with scope:
                async with open_embedded(tmp_path / "shared" if joins else None):
                    instrument.step = 0
                    await trio.lowlevel.checkpoint()
            trio.lowlevel.remove_instrument(instrument)
            cancelled = scope.cancelled_caught
            assert names_in(tmp_path) == before
            assert await ask(other, "PING") == b"+PONG\r\n"
    assert step > 2, "it has places to be cancelled at"


@pytest.mark.parametrize("action", ["kill", "start"])
async def test_kill_and_start_can_be_cancelled(server: EmbeddedServer, action: str) -> None:
    if action == "start":
        await server.kill()
    with trio.CancelScope() as scope:
        scope.cancel()
        await (server.kill if action == "kill" else server.start)()
    assert scope.cancelled_caught
    await server.start()
    assert await ask(server, "PING") == b"+PONG\r\n"


async def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    directory = tmp_path / ("long-" * 20) / ("longer-" * 20)
    async with open_embedded(directory) as server:
        assert len(os.fsencode(server.socket_path)) <= 103
        assert server.socket_path.parent != server.directory
        assert mode_of(server.socket_path.parent) == 0o700
        elsewhere = server.socket_path.parent
        await ask(server, "SET key value")
        async with open_embedded(directory) as joined:
            assert joined.socket_path == server.socket_path
    assert is_gone(elsewhere)
    async with open_embedded(directory) as server:
        assert await ask(server, "GET key") == b"$5\r\nvalue\r\n"


async def test_the_socket_directory_of_a_crash_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / ("long-" * 30)
    left = Path(tempfile.mkdtemp(prefix="terzetto-"))
    (left / "server.sock").touch()
    directory.mkdir(mode=0o700)
    state = {"pid": os.getpid(), "port": None, "socket": str(left / "server.sock")}
    (directory / "server.json").write_text(json.dumps(state))
    async with open_embedded(directory) as server:
        assert await ask(server, "PING") == b"+PONG\r\n"
        assert is_gone(left)


async def test_names_with_odd_characters_and_bytes() -> None:
    # Not under tmp_path: the socket is meant to lie in the directory itself.
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent, os.fsdecode(b'a "quoted" #%?*[x] \\ \xff name'))
        async with open_embedded(directory) as server:
            assert server.socket_path.parent == directory
            async with connect(server.url) as redis:
                assert await redis.execute("PING") == b"PONG"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\0\xff"])
async def test_a_state_file_that_makes_no_sense_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    async with open_embedded(tmp_path) as server:
        assert await ask(server, "PING") == b"+PONG\r\n"


async def test_a_server_that_refuses_its_data_tells_why(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as server:
        await ask(server, "SET key value")
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(ServerStartError, match=r"(?is)before it answered.*manifest"):
        async with open_embedded(tmp_path):
            pass


async def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerStartError, match="cannot hold"):
        async with open_embedded(tmp_path / "file"):
            pass


async def test_a_directory_whose_locks_cannot_be_had_is_refused(tmp_path: Path) -> None:
    (tmp_path / "leave.lock").mkdir()
    with pytest.raises(ServerStartError, match="cannot hold"):
        async with open_embedded(tmp_path):
            pass


async def test_an_open_directory_with_files_is_refused_and_an_empty_one_closed(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o755)
    async with open_embedded(directory):
        assert mode_of(directory) == 0o700
    directory = tmp_path / "used"
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "theirs").touch()
    with pytest.raises(ServerStartError, match="chmod 700"):
        async with open_embedded(directory):
            pass
    assert mode_of(directory) == 0o755


async def test_a_port_in_use_is_an_error(server: EmbeddedServer) -> None:
    with pytest.raises(ServerStartError, match="before it answered"):
        async with open_embedded(port=server.port):
            pass


async def test_who_joins_may_ask_for_the_port_that_there_is(tmp_path: Path) -> None:
    async with open_embedded(tmp_path, port=0) as first:
        for port in (None, 0, first.port):
            async with open_embedded(tmp_path, port=port) as joined:
                assert joined.port == first.port
        with pytest.raises(ServerStartError, match=f"has port {first.port}"):
            async with open_embedded(tmp_path, port=1):
                pass
        assert await ask(first, "PING") == b"+PONG\r\n"


async def test_who_joins_a_server_without_port_gets_none(tmp_path: Path) -> None:
    async with open_embedded(tmp_path):
        with pytest.raises(ServerStartError, match="has no port"):
            async with open_embedded(tmp_path, port=0):
                pass


async def test_a_user_of_its_own_by_configuration() -> None:
    users = ["user default off", "user shop on >secret ~shop:* &* +@all"]
    async with open_embedded(config=users) as server:
        assert (await ask(server, "PING")).startswith(b"-NOAUTH")
        assert await ask(server, "AUTH shop secret") == b"+OK\r\n"
        pid = server.pid
        await server.kill()
        await server.start()
        assert server.pid != pid
