"""The errors that every room shares, and the root of all others.

Each room exports its own errors beside its functions; all derive from
`TerzettoError`, say what happened, and say what to do about it.
"""


class TerzettoError(Exception):
    """The root of every error that Terzetto raises of its own accord."""


class InvalidNameError(TerzettoError, ValueError):
    """A name or key cannot be used; nothing was written to Redis."""


class InvalidOptionError(TerzettoError, ValueError):
    """An option or argument is out of its range; nothing was written to Redis."""


class InvalidPayloadError(TerzettoError, ValueError):
    """A value cannot be turned into bytes, or bytes into the value that was asked for."""


class ClosedError(TerzettoError):
    """The component was closed; open a new one to go on."""


class MissingExtraError(TerzettoError, ImportError):
    """Something optional is not installed; the text names the extra that brings it."""
