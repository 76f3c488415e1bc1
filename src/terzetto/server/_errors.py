"""The errors of the servers that Terzetto starts by itself."""

from terzetto.errors import MissingExtraError, TerzettoError


class ServerNotFoundError(MissingExtraError):
    """There is no server binary on this machine; the extra `server` brings one."""


class ServerStartError(TerzettoError):
    """The server did not come up, or may not be opened like this; the text says why."""
