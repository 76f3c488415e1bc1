"""The Lua scripts of this room, and the map scripts that it runs without a replica.

A stream's consumers and a sink's keep-alives are replicated maps on the wire.
Sinks write them now and then and read them rarely, so no replica is kept: the
maps' own scripts write, and the hash is read when it is needed.
"""

from typing import Final

from terzetto._shared._encoding import decode_text
from terzetto.redis import Redis, Script
from terzetto.rmap import content_key, updates_channel


def _own(name: str) -> Script:
    return Script.load("terzetto.streaming", f"lua/{name}.lua")


BURY: Final = _own("bury")
CLAIM: Final = _own("claim")
DELETE_CONSUMER: Final = _own("delete_consumer")
DESTROY_GROUP: Final = _own("destroy_group")
EDGES: Final = _own("edges")
EXTEND: Final = _own("extend")
HAND_BACK: Final = _own("hand_back")
LEAVE: Final = _own("leave")
OPEN_GROUP: Final = _own("open_group")
REPLAY: Final = _own("replay")


def _map(name: str) -> Script:
    return Script.load("terzetto.rmap", f"lua/{name}.lua")


_APPEND_UNIQUE: Final = _map("append_unique_values")
_DELETE: Final = _map("delete")
_DESTROY: Final = _map("destroy")
_REMOVE: Final = _map("remove_values")
_SET: Final = _map("set")


class MapWriter:
    """Writes one replicated map without holding a replica of it.

    Methods raise `LinkLostError` and the server's errors as they come. All but
    `set_key` can be repeated without harm, and repeating that only sets it again.
    """

    def __init__(self, redis: Redis, name: str, *, ttl: int = 0, sliding: bool = False) -> None:
        self._redis = redis
        self._key = content_key(name)
        self._head = (updates_channel(name), ttl, "sliding" if sliding else "absolute")

    async def set_key(self, key: str, value: str) -> None:
        """Set `key` to `value`."""
        await self._redis.run_script(_SET, keys=[self._key], args=[*self._head, key, value])

    async def append(self, key: str, item: str) -> None:
        """Append `item` to the list of `key`, if it is not in it."""
        await self._redis.run_script(
            _APPEND_UNIQUE, keys=[self._key], args=[*self._head, key, item]
        )

    async def remove(self, key: str, item: str) -> bool:
        """Take `item` off the list of `key`; tell whether nothing is left of the list."""
        reply = await self._redis.run_script(
            _REMOVE, keys=[self._key], args=[*self._head, key, item]
        )
        return not reply[0]

    async def delete(self, key: str) -> None:
        """Delete `key`."""
        await self._redis.run_script(_DELETE, keys=[self._key], args=[*self._head, key])

    async def destroy(self) -> None:
        """Empty the map, if it is there."""
        if await self._redis.execute("EXISTS", self._key):
            await self._redis.run_script(_DESTROY, keys=[self._key], args=self._head)

    async def read(self) -> dict[str, bytes]:
        """Return the keys and values as they are now."""
        reply = await self._redis.execute("HGETALL", self._key)
        return {decode_text(key): value for key, value in reply.items() if not key.startswith(b"=")}
