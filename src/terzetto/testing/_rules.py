"""What a fault proxy does to a single command: faults, and the rules that ask for them.

Rules are matched in the order of the commands' arrival at the proxy. Called by
`_proxy`; tests get a `Rule` from `Proxy.on`.
"""

import enum
from collections.abc import Callable, Sequence

import attrs
import trio

Matcher = Callable[[Sequence[bytes]], bool]


class Fault(enum.Enum):
    """What happens to a command, or to its reply."""

    CUT = "cut"
    """The command never reaches the server; its connection breaks."""
    DROP_REPLY = "drop reply"
    """The server runs the command; in place of the reply, the connection breaks."""
    HOLD = "hold"
    """The command, and what comes after it, waits at the proxy until `Rule.release`."""
    HOLD_REPLY = "hold reply"
    """The server runs the command; the reply, and what comes after it, waits likewise."""
    DELAY = "delay"
    """The server runs the command; the reply, and what comes after it, is late."""


@attrs.define(eq=False, kw_only=True)
class Rule:
    """A fault for certain commands. Made by `Proxy.on`."""

    command: str
    fault: Fault
    times: int | None
    skip: int
    seconds: float
    where: Matcher | None
    hits: int = attrs.field(default=0, init=False)
    """How many commands it has happened to."""
    _matched: int = attrs.field(default=0, init=False)
    _removed: bool = attrs.field(default=False, init=False)
    _released: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _hit: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    async def wait_hit(self, count: int = 1) -> None:
        """Wait until it has happened to `count` commands since the rule was made.

        For a fault of the reply, the server has run the command by then.
        """
        while self.hits < count:
            await self._hit.wait()
        await trio.lowlevel.checkpoint()

    def release(self) -> None:
        """Let go what `Fault.HOLD` or `Fault.HOLD_REPLY` holds, and hold nothing more."""
        self._removed = True
        self._released.set()

    def remove(self) -> None:
        """Let it happen to no further command."""
        self._removed = True

    def matches(self, words: Sequence[bytes]) -> bool:
        """Say whether it is to happen to the command of `words`, which has just arrived."""
        wanted = self.command.upper().encode().split()
        if self._removed or [word.upper() for word in words[: len(wanted)]] != wanted:
            return False
        if self.where is not None and not self.where(words):
            return False
        self._matched += 1
        turn = self._matched - self.skip
        return turn > 0 and (self.times is None or turn <= self.times)

    def record_hit(self) -> None:
        """Note that it happens now."""
        self.hits += 1
        self._hit.set()
        self._hit = trio.Event()

    async def wait_released(self) -> None:
        """Wait until the test lets go."""
        await self._released.wait()
