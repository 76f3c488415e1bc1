"""The client of a cluster: the same face, each command sent to where its keys live.

The road of a command is that of `Redis` with one look-up before it: the slot of
its key, in the topology's table of links. What the servers answer then decides:

* MOVED: the table is corrected, and the command goes to the new owner;
* ASK: the command goes once to the server named, with ASKING before it as one unit;
* TRYAGAIN, CLUSTERDOWN, MASTERDOWN, LOADING: it was not carried out; after a
  pause and a look at the map it is sent again, until the caller's deadline;
* a link that was closed because its server owns nothing any more: likewise.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, cast

import attrs
import trio
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    MovedError,
    NoScriptError,
    RedisError,
)

from terzetto._shared._outcomes import value_or_raise
from terzetto.errors import TerzettoError
from terzetto.redis._actors import Keeper
from terzetto.redis._client import Redis
from terzetto.redis._clock import measure_offset
from terzetto.redis._commands import Road, check_unit, road_of, shared, upper_name
from terzetto.redis._errors import LinkClosedError, LinkLostError, TextInRepr
from terzetto.redis._link import Link
from terzetto.redis._refusals import NOT_NOW, Asking, asking, is_ask, named_by, refusal_of
from terzetto.redis._request import LinkStatistics, LinkStatus, State, as_list, replies_of
from terzetto.redis._script import Script
from terzetto.redis._shards import Shards
from terzetto.redis._slots import fixed_place, keys_of, slot_of
from terzetto.redis._topology import SlotLocator, Topology
from terzetto.redis._url import Endpoint, Options
from terzetto.redis._wire import Arg, Reply, pack, pack_many, pack_often

_ANY: Final = -1  # the slot of a command without keys: any master will do
_PAUSE: Final = 0.05  # seconds before a command that was not carried out is sent again
_SPLIT: Final = frozenset({"DEL", "EXISTS", "MGET", "TOUCH", "UNLINK"})

_EVERYWHERE: Final[dict[str, Callable[[list[Reply]], Reply]]] = {
    "DBSIZE": sum,
    "FLUSHALL": lambda replies: replies[0],
    "FLUSHDB": lambda replies: replies[0],
    "FUNCTION": lambda replies: replies[0],
    "KEYS": lambda replies: [key for reply in replies for key in reply],
    "SCRIPT": lambda replies: (
        [min(found) for found in zip(*replies, strict=True)]  # EXISTS: where all know it
        if isinstance(replies[0], list)
        else replies[0]
    ),
}
"""Commands for all masters, and how their replies become one."""


class CrossSlotError(TextInRepr, TerzettoError, ClusterCrossSlotError):
    """Keys of one command or unit live in different slots; give them a common ``{tag}``."""


@attrs.frozen
class Master:
    """A server of a cluster, for what is about it and no other: settings, statistics, time.

    Made by `ClusterRedis.masters`.

    Attributes:
        name: its address, as ``host:port``.
    """

    name: str
    _link: Link

    async def execute(self, *args: Arg) -> Reply:
        """Run one command there and return its RESP3 reply; keys are not looked at.

        Waits while the server is away; raises `LinkClosedError` when it has no slot any
        more, an error reply as what it is, and otherwise as `Redis.execute`.
        """
        road = road_of(args)
        return value_or_raise(await self._link.request(pack(args), road is Road.READ))

    async def server_time_offset(self, *, samples: int = 5) -> float:
        """Return by how many seconds its clock is ahead of ours; see `Redis`."""
        return await measure_offset(self.execute, samples)


class ClusterRedis(Redis):
    """A client of a Redis cluster, with one shared link for each master.

    What a single server does in one piece needs its keys in one slot: scripts,
    transactions, locks, multi-key commands. MGET, DEL, UNLINK, EXISTS, TOUCH and
    units without MULTI are split and put together again; a split one is not
    atomic. DBSIZE, KEYS, FLUSHALL, FLUSHDB, SCRIPT and FUNCTION go to all masters,
    commands without keys to any.
    """

    def __init__(self, options: Options, topology: Topology, keeper: Keeper) -> None:
        super().__init__(options, topology.any_link(), keeper)
        self._topology = topology
        self._shards: Shards | None = None
        self._owners = topology.owners
        self._simple: dict[Arg, tuple[int, bool]] = {}  # place of the one key, and `repeatable`

    @property
    def status(self) -> LinkStatus:
        """The state of the link that is worst off, of several the one that changed last."""
        return max((link.status for link in self._links()), key=_severity)

    @property
    def state(self) -> State:
        """The state of the client: "connected" if all its shared links are."""
        return self.status.state

    def statistics(self) -> LinkStatistics:
        """Return the sums over all shared links."""
        figures = [link.statistics() for link in self._links()]
        return LinkStatistics(
            queued=sum(each.queued for each in figures),
            in_flight=sum(each.in_flight for each in figures),
            crowd=sum(each.crowd for each in figures),
            connections=sum(each.connections for each in figures),
        )

    async def wait_connected(self) -> None:
        """Wait until all shared links are connected; `LinkClosedError` if the client is closed.

        A link whose server owns nothing any more is not waited for.
        """
        while self.state != "connected":
            try:
                for link in self._links():
                    await link.wait_connected()
            except LinkClosedError:
                if not self._topology.is_open:
                    raise
                await self._topology.wait_fresh()

    async def wait_changed(self) -> LinkStatus:
        """Wait for the next change of the map or of a link's status; return the worst status."""
        await self._topology.wait_fresh()
        return self.status

    @trio.lowlevel.enable_ki_protection
    async def execute(self, *args: Arg) -> Reply:
        """Run one command where its keys live and return its RESP3 reply.

        As `Redis.execute`. Raises `CrossSlotError` if its keys are in different slots.
        """
        try:
            data = pack_often(args)
            place, repeatable = self._simple[args[0]]
            key = args[place]
            link = self._owners[key]
        except (TypeError, ValueError, LookupError):
            return await self._execute_with_care(args)
        reply = await link.request(data, repeatable)
        if isinstance(reply, Exception):
            slot = slot_of(key)
            reply = await self._settle(reply, link, slot, data, repeatable=repeatable)
            return value_or_raise(reply)
        return reply

    async def _execute_with_care(self, args: tuple[Arg, ...]) -> Reply:
        data = pack(args)  # which says what is wrong
        road = road_of(args)
        if road is Road.BLOCKS:
            return await self._execute_blocking(args)
        name = upper_name(args[0])
        merge = _EVERYWHERE.get(name)
        if merge is not None:
            return merge([value_or_raise(reply) for reply in await self._everywhere(data)])
        if name in _SPLIT and len({slot_of(key) for key in args[1:]}) > 1:
            return await self._split(name, args)
        self._learn(args[0])
        slot = self._slot(keys_of(args, self._topology.rules))
        return value_or_raise(await self._send(slot, data, repeatable=road is Road.READ))

    def _learn(self, name: Arg) -> None:
        """Note a command that needs no second look."""
        place = fixed_place(name, self._topology.rules)
        if place and name in shared:
            self._simple[name] = place, shared[name]

    async def execute_many(self, commands: Sequence[Sequence[Arg]]) -> list[Reply | RedisError]:
        """Run commands in order; those of one master in one write, in one piece.

        Commands of different masters run side by side. With MULTI and EXEC all keys
        must be in one slot. As `Redis.execute_many`; raises `CrossSlotError`.
        """
        units = [tuple(command) for command in commands]
        data = [pack(unit) for unit in units]
        check_unit(units)
        rules = self._topology.rules
        if any(upper_name(unit[0]) == "MULTI" for unit in units):
            slot = self._slot([key for unit in units for key in keys_of(unit, rules)])
            return await self._whole(slot, units)
        groups: dict[int, list[int]] = {}
        for number, unit in enumerate(units):
            groups.setdefault(self._slot(keys_of(unit, rules)), []).append(number)
        replies: list[Reply] = [None] * len(units)
        by_link: dict[Link, list[int]] = {}
        for slot, numbers in groups.items():
            by_link.setdefault(await self._link_of(slot), []).extend(numbers)

        async def send(link: Link, numbers: list[int]) -> None:
            numbers.sort()
            answer = await link.request_unit(b"".join([data[n] for n in numbers]), len(numbers))
            found = as_list(answer)
            for place, number in enumerate(numbers):
                reply = answer if found is None else found[place]
                if isinstance(reply, Exception):
                    slot = self._slot(keys_of(units[number], rules))
                    reply = await self._settle(reply, link, slot, data[number], repeatable=False)
                replies[number] = reply

        async with trio.open_nursery() as nursery:
            for link, numbers in by_link.items():
                nursery.start_soon(send, link, numbers)
        for reply in replies:
            if isinstance(reply, (LinkLostError, LinkClosedError)):
                raise reply
        return replies

    async def run_script(
        self, script: Script, *, keys: Sequence[Arg] = (), args: Sequence[Arg] = ()
    ) -> Reply:
        """Run a script where its keys live, all of which it declares. As `Redis.run_script`."""
        try:
            return await self.execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.execute("EVAL", script.source, len(keys), *keys, *args)

    def _link_now(self, slot: int) -> Link | None:
        return self._topology.slots[slot]

    async def scan_iter(  # type: ignore[override] # redis-py's is `async def` too, but untyped
        self,
        match: bytes | str | None = None,
        count: int | None = None,
        _type: str | None = None,
        **_: object,
    ) -> AsyncIterator[Any]:
        """Iterate over the keys of all masters; one that moves meanwhile may come twice."""
        options: list[Arg] = []
        for word, value in (("MATCH", match), ("COUNT", count), ("TYPE", _type)):
            if value is not None:
                options += [word, value]
        for link in self._links():
            cursor: Arg = "0"
            while True:
                reply = value_or_raise(await link.request(pack(("SCAN", cursor, *options)), True))  # noqa: FBT003 - by position, as everywhere
                cursor, keys = reply
                for key in keys:
                    yield self._shaper.shape(("ECHO",), key, {})
                if int(cursor) == 0:
                    break

    def shared(self, endpoint: Endpoint) -> Link | None:
        """Return the shared link to a server, if there is one.

        :meta private:
        """
        return self._topology.links.get(endpoint)

    async def misplaced(self, error: Exception, sender: Endpoint) -> bool:
        """Return True if this error reply of `sender` says that another connection could do it.

        :meta private:
        """
        if isinstance(error, MovedError):
            await self._moved(error, sender)
            return True
        if isinstance(error, (AskError, *NOT_NOW)):
            self._topology.doubt()
            await trio.sleep(_PAUSE)
            return True
        return await super().misplaced(error, sender)

    async def _sharded_hub(self) -> Shards:
        """Return what looks after sharded subscriptions, at the owners of their slots."""
        async with self._hub_lock:
            if self._shards is None:
                shards = Shards(self._options, self._topology, self.misplaced)
                await self._keeper.keep_hub(shards)
                self._shards = shards
            return self._shards

    def _links(self) -> list[Link]:
        return list(self._topology.links.values())

    def masters(self) -> list[Master]:
        """Return the servers that have slots now, as this client knows them, by their names."""
        found = [
            Master(str(endpoint).partition("://")[2], link)
            for endpoint, link in self._topology.links.items()
        ]
        return sorted(found, key=lambda master: master.name)

    def slot_of(self, key: str | bytes) -> int:
        """Return the slot of a key; keys of one slot can be used in one command."""
        return slot_of(key)

    def slot_owner(self, key: str | bytes) -> str | None:
        """Return the server that has a key now, as a URL; None while nobody serves its slot."""
        link = self._topology.slots[slot_of(key)]
        return None if link is None else str(link.options.endpoint)

    def _slot(self, keys: Sequence[Arg]) -> int:
        slots = {slot_of(key): key for key in keys}
        if len(slots) > 1:
            one, other, *_ = (f"{key!r:.60}" for key in slots.values())
            raise CrossSlotError(
                f"{one} and {other} are in different slots of the cluster, and what names both"
                " needs them in one: give such keys a common {tag}, which alone then decides"
            )
        return next(iter(slots), _ANY)

    def _slot_of(self, commands: Sequence[Sequence[Arg]]) -> int:
        rules = self._topology.rules
        return self._slot([key for each in commands for key in keys_of(tuple(each), rules)])

    def _options_for(self, slot: int) -> Options:
        locator = SlotLocator(topology=self._topology, slot=slot)
        return attrs.evolve(self._options, locator=locator)

    async def _execute_blocking(self, args: tuple[Arg, ...]) -> Reply:
        slot = self._slot(keys_of(args, self._topology.rules))
        async with self._leases.lease(self._options_for(slot), slot) as dedicated:
            return await dedicated.execute(*args)

    async def _link_of(self, slot: int) -> Link:
        return self._topology.any_link() if slot == _ANY else await self._topology.link_to(slot)

    async def _send(self, slot: int, data: bytes, *, repeatable: bool) -> Reply:
        """Send a command to the owner of a slot; return the reply, or the error that stands."""
        link = await self._link_of(slot)
        reply = await link.request(data, repeatable)
        if isinstance(reply, Exception):
            return await self._settle(reply, link, slot, data, repeatable=repeatable)
        return reply

    async def _settle(
        self, reply: Reply, link: Link, slot: int, data: bytes, *, repeatable: bool
    ) -> Reply:
        """Go where error replies lead, until there is a reply or an error that stands."""
        while isinstance(reply, Exception):
            if isinstance(reply, MovedError):
                await self._moved(reply, link.endpoint)
            elif isinstance(reply, AskError):
                [reply] = await self._asking(reply, link.endpoint, Asking.one(data))
                if not isinstance(reply, NOT_NOW):
                    continue
                await trio.sleep(_PAUSE)
            elif isinstance(reply, NOT_NOW):
                self._topology.doubt()
                await trio.sleep(_PAUSE)
            elif isinstance(reply, LinkClosedError) and self._topology.is_open:
                await self._topology.wait_fresh()
            elif isinstance(reply, LinkLostError) and not reply.may_have_run:
                await trio.lowlevel.checkpoint()
            elif await super().misplaced(reply, link.endpoint):
                link.retire(reply)
            else:
                return reply
            link = await self._link_of(slot)
            reply = await link.request(data, repeatable)
        return reply

    async def _moved(self, error: MovedError, sender: Endpoint) -> None:
        endpoint = named_by(error, sender)
        await self._topology.moved(int(cast("Any", error).slot_id), endpoint)

    async def _asking(self, error: AskError, sender: Endpoint, unit: Asking) -> list[Reply]:
        """Send a unit to where its slot is on its way to; errors of the link are in it."""
        link = await self._topology.link_of(named_by(error, sender))
        replies: Reply = await link.request_unit(unit.data, unit.count)
        found = as_list(replies)
        return unit.replies([replies] * unit.count if found is None else found)

    async def _whole(self, slot: int, units: Sequence[tuple[Arg, ...]]) -> list[Reply]:
        """Send a unit with MULTI to one server, again if it was refused as a whole."""
        data = pack_many(units)
        while True:
            link = await self._link_of(slot)
            replies = await link.request_unit(data, len(units))
            if isinstance(replies, LinkClosedError) and self._topology.is_open:
                await self._topology.wait_fresh()
                continue
            found = replies_of(replies)
            refusal = refusal_of(units, found)
            if is_ask(refusal):
                found = await self._asking(refusal, link.endpoint, asking(units))
                if isinstance(found[-1], (LinkLostError, LinkClosedError)):
                    raise found[-1]
                refusal = refusal_of(units, found)
            if refusal is None or not await self.misplaced(refusal, link.endpoint):
                return found
            if not isinstance(refusal, (AskError, MovedError, *NOT_NOW)):
                link.retire(refusal)

    async def _everywhere(self, data: bytes) -> list[Reply]:
        replies: list[Reply] = []

        async def send(link: Link) -> None:
            replies.append(await link.request(data))

        async with trio.open_nursery() as nursery:
            for link in self._links():
                nursery.start_soon(send, link)
        return replies

    async def _split(self, name: str, args: tuple[Arg, ...]) -> Reply:
        """Run a command on many keys for each slot, and put the replies together."""
        slots: dict[int, list[int]] = {}
        for place, key in enumerate(args[1:]):
            slots.setdefault(slot_of(key), []).append(place)
        found: dict[int, Reply] = {}
        repeatable = road_of(args) is Road.READ

        async def send(slot: int, places: list[int]) -> None:
            data = pack((args[0], *(args[1 + place] for place in places)))
            found[slot] = await self._send(slot, data, repeatable=repeatable)

        async with trio.open_nursery() as nursery:
            for slot, places in slots.items():
                nursery.start_soon(send, slot, places)
        if name != "MGET":
            return sum(value_or_raise(reply) for reply in found.values())
        values: list[Reply] = [None] * (len(args) - 1)
        for slot, places in slots.items():
            for place, value in zip(places, value_or_raise(found[slot]), strict=True):
                values[place] = value
        return values


def _severity(status: LinkStatus) -> tuple[int, float]:
    return ("connected", "reconnecting", "closed").index(status.state), status.since
