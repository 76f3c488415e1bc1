"""Real servers that live as long as the programs that use them.

`open_embedded` runs one for a program, a demo or a test. It is private, or kept
in a directory and shared by all that open that directory. `open_cluster` and
`open_sentinel` run several for tests, to be killed and started one by one.
"""

from terzetto.server._binary import find_server
from terzetto.server._errors import ServerNotFoundError, ServerStartError
from terzetto.server._guardian import free_port
from terzetto.server._process import EmbeddedServer, Tls, open_embedded
from terzetto.server._topology import Cluster, SentinelGroup, open_cluster, open_sentinel

__all__ = [
    "Cluster",
    "EmbeddedServer",
    "SentinelGroup",
    "ServerNotFoundError",
    "ServerStartError",
    "Tls",
    "find_server",
    "free_port",
    "open_cluster",
    "open_embedded",
    "open_sentinel",
]
