"""Reading from replicas, for clients that ask for it: what may go there, and when.

Only single commands and units that do nothing but read keys go to a replica, and
only while a link to one is connected; everything else, and whatever a replica
cannot answer, goes the usual way to the master. So a program sees what it
wrote a little later, and never an error that it would not see otherwise.

`ReplicaReads` is mixed into the clients of a Sentinel service and of a cluster,
which say by `_reader` where the replica of some keys is.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Final

from redis.commands import READ_COMMANDS
from redis.exceptions import RedisError

from terzetto.redis._actors import Keeper
from terzetto.redis._client import Redis
from terzetto.redis._cluster import ClusterRedis
from terzetto.redis._commands import Road, road_of, upper_name
from terzetto.redis._errors import LinkClosedError, LinkLostError, ReplyTooLongError
from terzetto.redis._link import Link
from terzetto.redis._refusals import is_refusal
from terzetto.redis._request import as_list
from terzetto.redis._slots import keys_of, slot_of
from terzetto.redis._topology import Topology
from terzetto.redis._url import Options
from terzetto.redis._wire import Arg, Reply, pack, pack_many

_ABOUT_ONE_SERVER: Final = frozenset({"DBSIZE", "KEYS", "RANDOMKEY"})
_CURSORS: Final = frozenset({"HSCAN", "SCAN", "SSCAN", "ZSCAN"})
"""Each server counts on in its own way, and the next call may reach another one."""

READS: Final = READ_COMMANDS - _ABOUT_ONE_SERVER - _CURSORS
"""What a replica may be asked."""


def reads_keys(args: tuple[Arg, ...]) -> bool:
    """Tell whether a command reads keys, so that a replica can answer it.

    Raises:
        WrongLinkError: it must not go over a shared link.
    """
    return bool(args) and upper_name(args[0]) in READS and road_of(args) is not Road.BLOCKS


class ReplicaReads(Redis, metaclass=ABCMeta):
    """Sends what only reads keys to a replica, while there is one."""

    @abstractmethod
    def _reader(self, units: Sequence[tuple[Arg, ...]]) -> Link | None:
        """Return the link to a replica that has the keys of all commands, if there is one."""

    async def execute(self, *args: Arg) -> Reply:
        """Run one command, at a replica if it only reads keys. As `Redis.execute`."""
        link = self._connected_reader([args]) if args else None
        if link is not None:
            reply = await link.request(pack(args), True)  # noqa: FBT003 - by position, as everywhere
            if not _is_for_the_master(reply):
                if isinstance(reply, Exception):  # value_or_raise, without the call
                    raise reply
                return reply
        return await super().execute(*args)

    async def execute_at_master(self, *args: Arg) -> Reply:
        """Run one command where it would run without `read_from`. As `Redis.execute`."""
        return await super().execute(*args)

    async def execute_many(self, commands: Sequence[Sequence[Arg]]) -> list[Reply | RedisError]:
        """Run commands in order, at a replica if all of them only read keys.

        As `Redis.execute_many`.
        """
        units = [tuple(command) for command in commands]
        link = self._connected_reader(units) if units else None
        if link is not None:
            reply = await link.request_unit(pack_many(units), len(units), repeatable=True)
            replies = as_list(reply)
            if replies is not None and not any(map(_is_for_the_master, replies)):
                return replies
            if isinstance(reply, ReplyTooLongError):
                raise reply
        return await super().execute_many(units)

    def _connected_reader(self, units: Sequence[tuple[Arg, ...]]) -> Link | None:
        if not all(reads_keys(unit) for unit in units):
            return None
        link = self._reader(units)
        return link if link is not None and link.status.state == "connected" else None


class SentinelReplicaReads(ReplicaReads):
    """A client of a service behind sentinels that reads from one of its replicas."""

    def __init__(self, options: Options, link: Link, reader: Link, keeper: Keeper) -> None:
        super().__init__(options, link, keeper)
        self._replica = reader

    def _reader(self, units: Sequence[tuple[Arg, ...]]) -> Link | None:
        del units
        return self._replica


class ClusterReplicaReads(ReplicaReads, ClusterRedis):  # type: ignore[misc] # redis-py's own bases disagree about a method
    """A client of a cluster that reads from the replicas of each master."""

    def __init__(self, options: Options, topology: Topology, keeper: Keeper) -> None:
        ClusterRedis.__init__(self, options, topology, keeper)
        self._map = topology

    def _reader(self, units: Sequence[tuple[Arg, ...]]) -> Link | None:
        found: set[Link | None] = set()
        for unit in units:
            found.update(self._map.readers[slot_of(key)] for key in keys_of(unit, self._map.rules))
        return found.pop() if len(found) == 1 else None


def _is_for_the_master(reply: Reply) -> bool:
    return is_refusal(reply) or isinstance(reply, (LinkLostError, LinkClosedError))
