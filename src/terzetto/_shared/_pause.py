"""How long a loop waits that was refused, before it tries again. Pure.

A tenth of a second at first, doubled with every failure in a row, up to five seconds.
Used by tasks and pools. There is no chance in it, unlike in `terzetto.streaming._pace`
and `terzetto.redis._backoff`.
"""

import attrs


@attrs.define(kw_only=True)
class Pause:
    """The pauses of one loop, in seconds."""

    first: float = 0.1
    longest: float = 5.0
    has_failed: bool = attrs.field(default=False, init=False)
    """Whether the last try failed."""
    _next: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Begin with the first."""
        self._next = self.first

    def failed(self) -> float:
        """Note that a try failed; return how long to wait before the next."""
        seconds, self.has_failed = self._next, True
        self._next = min(2 * seconds, self.longest)
        return seconds

    def worked(self) -> None:
        """Note that a try succeeded."""
        self._next, self.has_failed = self.first, False
