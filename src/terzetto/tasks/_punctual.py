"""Has trio notice its deadlines as they fall due, and not up to two milliseconds later.

Theory of operation. trio waits for input and output until its next deadline. The wait is
rounded up to whole milliseconds, and Linux may end one of a second a millisecond late: it
spares itself wake-ups by a thousandth of every wait. So functions that sleep alike wake late,
and together, where they could have begun one after the other. A timer of the kernel's that
counts as input knows no such slack. It is set anew before each wait, for as long as trio is
about to wait: one system call for many a task, none where there is something to do.

Other systems have no such timers, and mostly no such slack.
"""

import ctypes
import os
import sys
from typing import Final

import attrs
import trio

_CLOCK_MONOTONIC: Final = 1
_NANO: Final = 1_000_000_000


async def wake_on_time() -> None:
    """Have this run of trio notice its deadlines as they fall due, until cancelled.

    Returns at once where the system gives no timer: then trio does as well as it can.
    """
    timer = _Timer.open()
    if timer is None:
        await trio.lowlevel.checkpoint()
        return
    trio.lowlevel.add_instrument(timer)
    try:
        while True:
            # It is never read: to be set anew empties it.
            await trio.lowlevel.wait_readable(timer.fileno)
    finally:
        trio.lowlevel.remove_instrument(timer)
        os.close(timer.fileno)


@attrs.define(eq=False)
class _Timer(trio.abc.Instrument):
    """A timer that becomes readable when trio's wait should be over."""

    fileno: int
    _libc: ctypes.CDLL
    _spec: "ctypes.Array[ctypes.c_long]" = attrs.field(factory=ctypes.c_long * 4)
    """C's `itimerspec`: an interval, here none, and a time, each in seconds and nanoseconds."""

    @classmethod
    def open(cls) -> "_Timer | None":
        """Return a timer that is not set, None where the system gives none."""
        if sys.platform != "linux":
            return None
        libc = ctypes.CDLL(None)
        fileno: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        return cls(fileno, libc) if fileno >= 0 else None

    def before_io_wait(self, timeout: float) -> None:
        """Set it for as long as trio will wait, unless that is not at all."""
        if timeout > 0:
            seconds = int(timeout)
            self._spec[2] = seconds
            self._spec[3] = max(1, int((timeout - seconds) * _NANO))  # zero would unset it
            self._libc.timerfd_settime(self.fileno, 0, self._spec, None)
