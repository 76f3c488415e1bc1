"""Advisory locks on files: the one truth about who uses a data directory.

A lock belongs to an open file description, so the kernel lets go of it when its
holder ends, however it ends. That is why liveness is never read from a pid
file. Called by `_process`; the guardian takes the same locks with plain `flock`.
"""

import fcntl
import os
import weakref
from pathlib import Path


class FileLock:
    """A lock on the file `path`, through an open file description of its own.

    No method waits. The file is made when it is missing and is never removed:
    two processes that lock files of one name must mean the same file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = _open(path)
        _open_locks.add(self)

    def try_shared(self) -> bool:
        """Take the lock together with others; False if somebody has it alone."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take the lock alone; False if somebody has it."""
        return self._try(fcntl.LOCK_EX)

    def release(self) -> None:
        """Let go of the lock; harmless when it is not held."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def hand_over(self) -> int:
        """Return the descriptor that carries the lock, for a process to inherit it.

        The caller closes it once that process has it. This object goes on with a
        new description, which holds nothing.
        """
        carrier, self._fd = self._fd, -1
        self._fd = _open(self._path)
        return carrier

    def close(self) -> None:
        """Close the file; the lock goes with it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _close_after_fork() -> None:
    # A child made by a bare fork shares the description: it would keep its
    # parent's locks after the parent's end. Closing here takes nothing from it.
    for lock in list(_open_locks):
        lock.close()


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()
os.register_at_fork(after_in_child=_close_after_fork)
