"""The small vocabulary of the kernel: why actors stop, how they restart, what state they are in.

Pure values without behaviour; every other module of the kernel uses them.
"""

import enum
from typing import Literal, TypeAlias

import attrs

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Who is restarted when one child crashes: it alone, all, or it and those started after it."""

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
"""When a child is restarted: always, after a crash only, or never."""

AutoShutdown: TypeAlias = Literal["never", "any", "all"]
"""When a supervisor closes because significant children ended by themselves."""

State: TypeAlias = Literal["new", "starting", "running", "stopping", "waiting", "stopped"]
"""Where an actor stands; ``"waiting"`` is between two lives, held back by the back-off."""


class Stop(enum.Enum):
    """Why a life of an actor ended; the reason that `Actor.stopping` is given."""

    NORMAL = "normal"
    """It asked for it: `Context.stop`, or `Actor.run` returned."""

    CLOSED = "closed"
    """`Ref.close`, or its supervisor's block was left or cancelled: work is handed back."""

    SHUTDOWN = "shutdown"
    """`Ref.shutdown`: it has handled all that it had accepted."""

    RESTARTED = "restarted"
    """Its supervisor stops it to start it again, because of a sibling or on request."""

    CRASHED = "crashed"
    """It raised."""


@attrs.frozen
class Exit:
    """How an actor ended for good: what `Ref.wait_stopped` returns."""

    reason: Stop
    error: BaseException | None = None
    """The crash, when `reason` is `Stop.CRASHED`; it has its traceback."""


class Ending(enum.IntEnum):
    """What a supervisor asks of a life; a request can only rise."""

    RESTART = 1
    SHUTDOWN = 2
    CLOSE = 3

    @property
    def reason(self) -> Stop:
        """The reason that the actor is told."""
        return _REASONS[self]


_REASONS = {
    Ending.RESTART: Stop.RESTARTED,
    Ending.SHUTDOWN: Stop.SHUTDOWN,
    Ending.CLOSE: Stop.CLOSED,
}


@attrs.frozen
class LifeEnd:
    """How one life ended, as its supervisor hears of it."""

    reason: Stop
    error: BaseException | None = None

    @property
    def is_fatal(self) -> bool:
        """Whether the error is none that a restart answers, such as `SystemExit`."""
        return self.error is not None and not isinstance(self.error, Exception)
