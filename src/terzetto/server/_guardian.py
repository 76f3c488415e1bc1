"""The process that starts a server, keeps it running, and stops it after its last user.

Run as a script by `_process`, detached and in a session of its own, so that
neither Ctrl-C nor the end of the program that started it reaches it. It imports
the standard library only, since it runs as ``python -I -S``. The rest of the
package imports names and helpers from here, never the other way round.

Theory of operation. Four lock files in the data directory say who is there:

``users.lock``
    Every open block holds it shared. Whoever can have it alone knows that there
    is no user. The guardian waits for just that, and then holds it to its end,
    so that nobody can join a server that is being stopped.
``guardian.lock``
    Held alone by the guardian. The program that starts a guardian takes the
    lock first and lets the guardian inherit it: there is never a moment between.
``server.lock``
    Inherited by the server (and by what it forks to rewrite its file). It is
    held exactly as long as somebody may write to the directory.
``hold.lock``
    Taken for each start of the server. Who holds it keeps the server down.

    starting --answers--> serving --server ended--> starting
        |                    |
        | never answered     | users.lock is ours alone
        v                    v
     reported            stopping --> cleaned, exit

The kernel releases the locks of the dead, so a `kill -9` of anybody leads to one
of these states again. A server whose guardian was killed runs on for its users;
the next guardian stops it before it starts its own. No process is ever
signalled because of a number in a file: an orphan is found by asking the kernel
who listens on the socket.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

USERS_LOCK = "users.lock"
GUARDIAN_LOCK = "guardian.lock"
SERVER_LOCK = "server.lock"
HOLD_LOCK = "hold.lock"
STATE_FILE = "server.json"
CONFIG_FILE = "server.conf"
LOG_FILE = "server.log"
SOCKET_FILE = "server.sock"
TEMPORARY_PREFIX = "terzetto-"

MAX_SOCKET_PATH = 100  # bytes: the systems' limits are 103 and 107
STOP_GRACE = 10.0  # seconds between SIGTERM and SIGKILL
ORPHAN_PATIENCE = 30.0  # seconds to get rid of a server without a guardian
POLL = 0.01  # seconds between two looks at a server that does not answer yet
PORT_ATTEMPTS = 5  # a free port may be taken before the server has it
STABLE_AFTER = 1.0  # seconds of life after which an end is no sign of a crash loop
MAX_BACKOFF = 5.0  # seconds between two starts in a crash loop
LOG_TAIL = 2000  # bytes of the log that an error shows


class StartError(Exception):
    """The server cannot be started; the text goes to the program that asked for it."""


def listener_pid(path: str) -> int | None:
    """Return the process that listens on the unix socket `path`, as the kernel knows it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
            if sys.platform == "darwin":
                # LOCAL_PEERPID of SOL_LOCAL; the socket module has no names for them.
                credentials = probe.getsockopt(0, 2, 4)
            else:
                credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return None
    pid: int = struct.unpack_from("i", credentials)[0]
    return pid if pid > 0 else None  # 0: a process of a container that we can't see into


class State(NamedTuple):
    """What a guardian tells whoever wants to join: where its server is."""

    pid: int
    port: int | None
    socket: str


def read_state(directory: Path) -> State | None:
    """Return what the guardian of `directory` wrote last, if there is one."""
    try:
        fields = json.loads((directory / STATE_FILE).read_bytes())
        return State(pid=fields["pid"], port=fields["port"], socket=fields["socket"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_answer(reply: bytes) -> bool:
    """Say whether a reply to PING is that of a server which is ready."""
    # A server with a password refuses the PING, and is ready all the same.
    return reply.endswith(b"\r\n") and not reply.startswith(b"-LOADING")


def open_log(directory: Path) -> BinaryIO:
    """Open the log of `directory` for appending, for its owner alone."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    return os.fdopen(os.open(directory / LOG_FILE, flags, 0o600), "ab")


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_port() -> int:
    """Return a TCP port that is free on 127.0.0.1, and will be when a server starts again.

    The system lends ports of its ephemeral range to outgoing connections. A client
    that tries to reconnect to one of these may even be connected to itself. So the
    port is one below; the port 10,000 higher, a cluster's bus, is free as well.

    Raises:
        OSError: none was found.
    """
    for _ in range(1000):
        port = 10_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10_000))
            return port
    raise OSError("there is no free port between 10000 and 22000 on 127.0.0.1")


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
            probe.sendall(b"PING\r\n")
            return is_answer(probe.recv(1024))
        except OSError:
            return False


class Guardian:
    """Guards the server of one directory. See the module's theory of operation."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._directory = Path(spec["directory"])
        self._private: bool = spec["private"]
        self._command: list[str] = spec["command"]
        self._config: list[str] = spec["config"]
        self._rewrites: bool = spec["rewrites"]
        self._tls: bool = spec["tls"]
        self._wanted_port: int | None = spec["port"]
        self._port: int | None = None
        self._socket = ""
        self._users = _open_lock(self._directory / USERS_LOCK)
        self._hold = _open_lock(self._directory / HOLD_LOCK)
        self._ending = threading.Event()
        self._turn = threading.Lock()  # starting a server and beginning to end exclude each other
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Serve until the last user is gone; then leave nothing behind."""
        try:
            self._take_over()
            threading.Thread(target=self._await_last_user, daemon=True).start()
            self._serve()
        except (StartError, OSError) as error:
            _report({"error": str(error)})
        self._clean()

    def _take_over(self) -> None:
        """Deal with what an earlier server left here, be it files or itself."""
        previous = read_state(self._directory)
        if previous is not None:
            self._socket = previous.socket
        lock = _open_lock(self._directory / SERVER_LOCK)
        try:
            orphaned = not _try_lock(lock)
            if orphaned:
                self._stop_orphan(lock)
        finally:
            os.close(lock)
        if orphaned and previous is not None:
            # Its users are still there: they find the new server where the old one was.
            self._port = previous.port
        else:
            self._remove_socket()
            self._socket = self._choose_socket()
        if self._wanted_port:
            self._port = self._wanted_port
        elif self._wanted_port == 0 and self._port is None:
            self._port = free_port()
        # Who has no user from the start has come to clean up, and starts nothing.
        if _try_lock(self._users):
            self._ending.set()

    def _stop_orphan(self, lock: int) -> None:
        started = time.monotonic()
        signalled = None
        while not _try_lock(lock):
            waited = time.monotonic() - started
            if waited > ORPHAN_PATIENCE:
                raise StartError(
                    f"another server uses {self._directory} and cannot be told to stop: "
                    "find and end the process that has its files open"
                )
            pid = listener_pid(self._socket) if self._socket else None
            kind = signal.SIGKILL if waited > STOP_GRACE else signal.SIGTERM
            if pid is not None and (pid, kind) != signalled:
                signalled = (pid, kind)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, kind)
                    os.kill(pid, signal.SIGCONT)
            time.sleep(POLL)

    def _choose_socket(self) -> str:
        path = str(self._directory / SOCKET_FILE)
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - made there by mkdtemp, for us alone
            if len(os.fsencode(parent)) + 32 <= MAX_SOCKET_PATH and os.access(parent, os.W_OK):
                return str(Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=parent), SOCKET_FILE))
        raise StartError(
            f"{path} is too long for a unix socket and there is no short temporary directory: "
            "choose a shorter directory or set TMPDIR"
        )

    def _serve(self) -> None:
        attempts = 1
        answered = False
        pause = 0.0
        while not self._ending.wait(pause):
            started = time.monotonic()
            server = self._start()
            if server is None:
                return
            if not answered:
                answered = self._wait_answer(server)
                if answered:
                    _report(self._state(server.pid))
            server.wait()
            if answered:
                lived = time.monotonic() - started
                pause = 0.0 if lived > STABLE_AFTER else min(MAX_BACKOFF, 2 * pause or 0.1)
            elif self._wanted_port == 0 and attempts < PORT_ATTEMPTS:
                attempts += 1
                self._port = free_port()
            elif not self._ending.is_set():
                raise StartError(
                    f"{self._command[0]} ended with status {server.returncode} "
                    f"before it answered; its last words: {self._last_words()}"
                )

    def _start(self) -> "subprocess.Popen[bytes] | None":
        """Start the server, or return None when the time for that is over."""
        fcntl.flock(self._hold, fcntl.LOCK_EX)
        lock = _open_lock(self._directory / SERVER_LOCK)
        try:
            # What the last server forked may still be writing.
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._turn:
                if self._ending.is_set():
                    return None
                with self._write_config() as config, open_log(self._directory) as log:
                    self._server = subprocess.Popen(  # noqa: S603 - the binary that find_server found
                        self._command,
                        cwd=self._directory,
                        stdin=config,
                        stdout=log,
                        stderr=log,
                        pass_fds=[lock],
                    )
                self._write_state(self._server.pid)
                return self._server
        except OSError as error:
            raise StartError(f"{self._command[0]} cannot be run: {error}") from error
        finally:
            os.close(lock)
            fcntl.flock(self._hold, fcntl.LOCK_UN)

    def _write_config(self) -> BinaryIO:
        """Write the configuration, and open it to be read from standard input.

        By its path the server would not find it: it takes ``* ? [`` in it for a pattern.
        """
        lines = [
            f"unixsocket {_quoted(self._socket)}",
            "unixsocketperm 600",
            *(["port 0"] if self._tls else []),
            f"{'tls-port' if self._tls else 'port'} {self._port or 0}",
            *self._config,
        ]
        path = self._directory / CONFIG_FILE
        if not (self._rewrites and self._server):
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path.open("rb")

    def _state(self, pid: int) -> dict[str, Any]:
        return State(pid=pid, port=self._port, socket=self._socket)._asdict()

    def _write_state(self, pid: int) -> None:
        path = self._directory / (STATE_FILE + ".new")
        path.write_text(json.dumps(self._state(pid)), encoding="ascii")
        path.replace(self._directory / STATE_FILE)

    def _wait_answer(self, server: "subprocess.Popen[bytes]") -> bool:
        while server.poll() is None:
            # Another process can't answer here: the path was ours before the server had it.
            if _answers(self._socket):
                return True
            time.sleep(POLL)
        return False

    def _last_words(self) -> str:
        try:
            log = (self._directory / LOG_FILE).read_bytes()
        except OSError:
            return "(none)"
        return log[-LOG_TAIL:].decode(errors="replace").strip() or "(none)"

    def _await_last_user(self) -> None:
        fcntl.flock(self._users, fcntl.LOCK_EX)
        with self._turn:
            self._ending.set()
            server = self._server
        if server is None:
            return
        if self._private:
            server.kill()  # its data goes with it
            return
        server.terminate()
        server.send_signal(signal.SIGCONT)  # one that was stopped must wake up to end
        try:
            server.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            server.kill()

    def _remove_socket(self) -> None:
        if not self._socket:
            return
        path = Path(self._socket)
        with contextlib.suppress(OSError):
            path.unlink()
        if path.parent != self._directory and path.parent.name.startswith(TEMPORARY_PREFIX):
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def _clean(self) -> None:
        self._remove_socket()
        with contextlib.suppress(OSError):
            (self._directory / STATE_FILE).unlink()
        if self._private:
            shutil.rmtree(self._directory, ignore_errors=True)


def _quoted(text: str) -> str:
    """Return `text` as one word of a configuration file, in ASCII."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in os.fsencode(text)) + '"'


def _report(message: dict[str, Any]) -> None:
    """Tell the program that started this guardian, and let go of its pipe."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of ours
        os.dup2(nowhere.fileno(), 1)


def main() -> None:
    """Read what to guard from standard input, then go on as a process without a parent."""
    text = sys.stdin.buffer.read()
    if not text:  # whoever started this gave up before saying what for
        return
    if os.fork():
        # Nobody has to wait for the guardian: the system's first process adopts it.
        os._exit(0)
    # A handler, not SIG_IGN: the server must not inherit that.
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, lambda _number, _frame: None)
    os.umask(0o077)
    Guardian(json.loads(text)).run()


if __name__ == "__main__":
    main()
