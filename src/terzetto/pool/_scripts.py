"""The pool's Lua scripts, each with the common part before it.

Called by `_store.py`, which knows their keys and arguments.
"""

from importlib.resources import files
from typing import Final

from terzetto.redis import Script


def _script(name: str) -> Script:
    here = files("terzetto.pool")
    source = here.joinpath(f"lua/{name}.lua").read_text(encoding="utf-8")
    common = here.joinpath("lua/_maps.lua").read_text(encoding="utf-8")
    return Script(name=f"terzetto.pool:lua/{name}.lua", source=f"{common}\n{source}")


CLAIM: Final = _script("claim")
LEDGER: Final = _script("ledger")
BURY: Final = _script("bury")
ENLIST: Final = _script("enlist")
RETIRE: Final = _script("retire")
DISCHARGE: Final = _script("discharge")
ALIVE: Final = _script("alive")
GUARDS: Final = _script("guards")
ORPHANS: Final = _script("orphans")
ADOPT: Final = _script("adopt")
SHUTDOWN: Final = _script("shutdown")
WIPE: Final = _script("wipe")
TICK: Final = _script("tick")
FORGET: Final = _script("forget")
REMOVE_KEEPALIVES: Final = _script("remove_keepalives")


ALL: Final = (
    CLAIM,
    LEDGER,
    BURY,
    ENLIST,
    RETIRE,
    DISCHARGE,
    ALIVE,
    GUARDS,
    ORPHANS,
    ADOPT,
    SHUTDOWN,
    WIPE,
    FORGET,
    REMOVE_KEEPALIVES,
    TICK,
)
