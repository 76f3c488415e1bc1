"""The name of this host, as asynq shows it to other processes.

Part of the names of servers and schedulers.
"""

import socket
from typing import Final

_UNKNOWN: Final = "unknown-host"


def host_name() -> str:
    """Return the host's name, or that it is unknown."""
    try:
        return socket.gethostname() or _UNKNOWN
    except OSError:
        return _UNKNOWN
