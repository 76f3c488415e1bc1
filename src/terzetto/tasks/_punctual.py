"""Has trio notice its deadlines as they fall due, and not up to two milliseconds later.

Theory of operation. trio waits for input and output until its next deadline. The wait is
rounded up to whole milliseconds, and Linux may end one of a second a millisecond late: it
spares itself wake-ups by a thousandth of every wait. So functions that sleep alike wake late,
and together, where they could have begun one after the other. A timer of the kernel's that
counts as input knows no such slack. It is set before a wait, if the next deadline is another
one by then: one system call for many a task, none where there is something to do.

A wait that is shorter, for those who want to know when nothing goes on (`trio.testing`), is
left alone: the timer's end would be something.

Other systems have no such timers, and mostly no such slack.
"""

import ctypes
import math
import os
import sys
from contextlib import suppress
from time import perf_counter
from typing import Final

import attrs
import trio

_CLOCK_MONOTONIC: Final = 1
_NANO: Final = 1_000_000_000
_SAME: Final = 0.0001  # seconds by which two ends may differ, for looking at the clock takes time


async def wake_on_time() -> None:
    """Have this run of trio notice its deadlines as they fall due, until cancelled.

    Returns at once where the system gives no timer, then trio does as well as it can; and
    where the run has another clock than the machine's, as tests do.
    """
    timer = _Timer.open() if _has_real_clock() else None
    if timer is None:
        await trio.lowlevel.checkpoint()
        return
    try:
        trio.lowlevel.add_instrument(timer)
        try:
            while True:
                await trio.lowlevel.wait_readable(timer.fileno)
                timer.take_note()
        finally:
            trio.lowlevel.remove_instrument(timer)
    finally:
        os.close(timer.fileno)


def _has_real_clock() -> bool:
    clock = trio.lowlevel.current_clock()
    return clock.deadline_to_sleep_time(clock.current_time() + 1.0) <= 1.0


@attrs.define(eq=False)
class _Timer(trio.abc.Instrument):
    """A timer that becomes readable when trio's next deadline is due."""

    fileno: int
    _libc: ctypes.CDLL
    _spec: "ctypes.Array[ctypes.c_long]" = attrs.field(factory=ctypes.c_long * 4)
    """C's `itimerspec`: an interval, here none, and a time, each in seconds and nanoseconds."""
    _ends_at: float = -math.inf
    """When it ends, or ended, by `perf_counter`."""

    @classmethod
    def open(cls) -> "_Timer | None":
        """Return a timer that is not set, None where the system gives none."""
        if sys.platform != "linux":
            return None
        libc = ctypes.CDLL(None)
        fileno: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        return cls(fileno, libc) if fileno >= 0 else None

    def before_io_wait(self, timeout: float) -> None:
        """Set it for the next deadline, if trio waits for that, unless it is set so already."""
        if timeout > 0 and abs(perf_counter() + timeout - self._ends_at) > _SAME:
            left = trio.lowlevel.current_statistics().seconds_to_next_deadline
            if 0 < left <= timeout:
                self._set(left)

    def _set(self, left: float) -> None:
        self._ends_at = perf_counter() + left
        seconds = int(left)
        self._spec[2] = seconds
        self._spec[3] = max(1, int((left - seconds) * _NANO))  # zero would unset it
        self._libc.timerfd_settime(self.fileno, 0, self._spec, None)

    def take_note(self) -> None:
        """Take note that it has ended, unless it has been set anew: it is not readable then."""
        with suppress(BlockingIOError):
            os.read(self.fileno, 8)
            self._ends_at = -math.inf
