"""Replicated maps: every process reads its own copy, and every write is one atomic script.

A map lives in Redis, under a name, and every process that has joined it keeps a copy
that follows all changes. Go processes that use Pulse join the same maps. For rooms
that write maps from scripts of their own, `content_key` and `updates_channel` say where
a map is.
"""

from terzetto.rmap._join import child, join
from terzetto.rmap._keys import content_key, updates_channel
from terzetto.rmap._look import Log, StoredMap, Update, find_maps, open_log, read_map
from terzetto.rmap._map import BYTES, BytesMap, Map
from terzetto.rmap._replica import Change
from terzetto.rmap._typed import Swap, TypedMap

__all__ = [
    "BYTES",
    "BytesMap",
    "Change",
    "Log",
    "Map",
    "StoredMap",
    "Swap",
    "TypedMap",
    "Update",
    "child",
    "content_key",
    "find_maps",
    "join",
    "open_log",
    "read_map",
    "updates_channel",
]
