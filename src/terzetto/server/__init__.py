"""Real servers that live as long as the programs that use them.

`open_embedded` runs one for a program, a demo or a test. It is private, or kept
in a directory and shared by all that open that directory.
"""

from terzetto.server._binary import find_server
from terzetto.server._errors import ServerNotFoundError, ServerStartError
from terzetto.server._process import EmbeddedServer, open_embedded

__all__ = [
    "EmbeddedServer",
    "ServerNotFoundError",
    "ServerStartError",
    "find_server",
    "open_embedded",
]
