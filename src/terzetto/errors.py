"""The errors that every room shares, and the root of all others.

Each room exports its own errors beside its functions; all derive from
`TerzettoError`, say what happened, and say what to do about it.
"""

__all__ = [
    "ClosedError",
    "InvalidCronError",
    "InvalidNameError",
    "InvalidOptionError",
    "InvalidPayloadError",
    "MissingExtraError",
    "TerzettoError",
]


class TerzettoError(Exception):
    """The root of every error that Terzetto raises of its own accord."""


class InvalidNameError(TerzettoError, ValueError):
    """A name or key cannot be used; nothing was written to Redis."""


class InvalidOptionError(TerzettoError, ValueError):
    """An option or argument is out of its range; nothing was written to Redis."""


class InvalidCronError(InvalidOptionError):
    """A cron spec cannot be read.

    Attributes:
        spec: the whole spec.
        field: the part that is wrong: ``"minute"``, ``"hour"``, ``"day of month"``,
            ``"month"``, ``"day of week"``, ``"time zone"``, ``"descriptor"``,
            ``"duration"``, or ``"fields"`` if there are too many or too few.
    """

    def __init__(self, spec: str, field: str, why: str) -> None:
        super().__init__(spec, field, why)
        self.spec = spec
        self.field = field

    def __str__(self) -> str:
        _, field, why = self.args
        return f"the {field} of cron spec {self.spec[:200]!r} cannot be read: {why}"


class InvalidPayloadError(TerzettoError, ValueError):
    """A value cannot be turned into bytes, or bytes into the value that was asked for."""


class ClosedError(TerzettoError):
    """The component was closed; open a new one to go on."""


class MissingExtraError(TerzettoError, ImportError):
    """Something optional is not installed; the text names the extra that brings it."""
