"""Event streams, worker pools, replicated maps and task queues on Redis, as trio actors.

`connect` opens the link to Redis that everything else is given; `serve` runs a
tree of actors as a process; `TerzettoError` is the root of all errors. The rest
is in the packages: `terzetto.actor`, `terzetto.redis`, `terzetto.rmap`,
`terzetto.streaming`, `terzetto.pool`, `terzetto.tasks`, `terzetto.observe` and
`terzetto.server`.
"""

from terzetto.actor import serve
from terzetto.errors import TerzettoError
from terzetto.redis import connect

__all__ = ["TerzettoError", "connect", "serve"]
