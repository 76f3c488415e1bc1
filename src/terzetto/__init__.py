"""Event streams, worker pools, replicated maps and task queues on Redis, as trio actors.

`connect` opens the link to Redis that everything else is given; `serve` runs a
tree of actors as a process; `TerzettoError` is the root of all errors; a `Logger`
is what every `logger=` takes. The rest is in the packages: `terzetto.actor`,
`terzetto.redis`, `terzetto.rmap`, `terzetto.streaming`, `terzetto.pool`,
`terzetto.tasks`, `terzetto.observe`, `terzetto.server`, `terzetto.testing` and
`terzetto.codec`.
"""

from terzetto._shared._logging import Logger
from terzetto.actor import serve
from terzetto.errors import TerzettoError
from terzetto.redis import connect

__all__ = ["Logger", "TerzettoError", "connect", "serve"]
