"""The map of a cluster, and a link to each master; kept up to date in the background.

Theory of operation
-------------------
`slots` has a link for each slot. It is made from CLUSTER SLOTS, corrected by
each MOVED at once, and made anew when something hints that it is stale: a
MOVED, CLUSTERDOWN, or a link that is down. If no link leads to a server that
answers, the seeds are asked again: the whole cluster may be elsewhere. A link
whose server owns no slot any more is closed; what was not written there gets
`LinkClosedError`, and the client sends it to the new owner. So a request waits
for a dead master only until the others have elected a new one.

If reads may go to replicas, `readers` has a link for each slot, too: to one of the
replicas of its owner, chosen by chance but not anew each time. While a slot has no
replica, the map is asked again now and then.

`run` is one background task of the client; it is the only one that opens links.
"""

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Final

import attrs
import trio

from terzetto.redis._backoff import Backoff
from terzetto.redis._connection import ask, open_connection
from terzetto.redis._errors import ConnectError
from terzetto.redis._link import Link
from terzetto.redis._request import closed
from terzetto.redis._slots import LONG_KEY, SLOTS, KeyRule, parse_commands, parse_slots, slot_of
from terzetto.redis._url import Endpoint, Options, Role
from terzetto.redis._wire import Arg, Reply, pack

_PAUSE: Final = 0.1  # seconds between attempts to learn the map while it is stale
_PAUSE_WITHOUT_REPLICA: Final = 2.0
_ANSWER: Final = 1.0  # seconds that one server has to tell its map

_MOST_KEYS: Final = 10_000  # whose owners are remembered: a program asks for the same ones

StartLink = Callable[[Link], Awaitable[None]]


class Owners(dict[Arg, Link]):
    """The link to the owner of each key: ``owners[key]`` looks once, and remembers text.

    Raises `KeyError` while nobody is known to own the key's slot. What it remembers is of the
    map of this moment: whoever changes that clears it.
    """

    def __init__(self, slots: list[Link | None]) -> None:
        super().__init__()
        self._slots = slots

    def __missing__(self, key: Arg) -> Link:
        link = self._slots[slot_of(key)]
        if link is None:
            raise KeyError(key)
        # Not numbers: 1 is 1.0 to a dict, and another key to the server.
        if isinstance(key, (str, bytes)) and len(key) < LONG_KEY:
            if len(self) >= _MOST_KEYS:
                self.clear()
            self[key] = link
        return link


class Topology:
    """Which link leads to which slot."""

    def __init__(
        self,
        options: Options,
        seeds: tuple[Endpoint, ...],
        start: StartLink,
        read_from: Role = "master",
    ) -> None:
        self.options = options
        self.rules: dict[str, KeyRule] = {}
        self.links: dict[Endpoint, Link] = {}
        self.slots: list[Link | None] = [None] * SLOTS
        self.owners = Owners(self.slots)
        self.readers: list[Link | None] = [None] * SLOTS
        self._replicas: dict[Endpoint, Link] = {}
        self._read_from = read_from
        self._taste = secrets.randbits(32)  # which replicas this client likes
        self._seeds = seeds
        self._start = start
        self._backoff = Backoff(ceiling=options.max_backoff)
        self._next_seeds = -inf  # when the seeds may be asked again
        self.on_change: Callable[[], None] | None = None  # called when slots have other owners
        self._stale = trio.Event()
        self._fresh = trio.Event()
        self._closed = False

    async def load(self) -> None:
        """Learn the map for the first time.

        Raises:
            ConnectError: no seed answers as a member of a cluster does.
        """
        failures: list[str] = []
        for seed in self._seeds:
            try:
                await self._adopt(await self._ask_seed(seed), seed)
            except ConnectError as error:
                failures.append(str(error))
            else:
                return
        raise ConnectError(f"no seed leads to a cluster: {'; '.join(failures)}")

    async def _ask_seed(self, seed: Endpoint) -> Reply:
        """Ask a server, by a connection of its own, for its commands and its map; return that.

        Raises:
            ConnectError: it does not answer as a member of a cluster does.
        """
        connection = await open_connection(attrs.evolve(self.options, endpoint=seed))
        try:
            commands = await ask(connection, "COMMAND")
            reply = await ask(connection, "CLUSTER", "SLOTS")
        finally:
            connection.transport.close()
        if isinstance(reply, Exception) or isinstance(commands, Exception) or not reply:
            raise ConnectError(f"{seed} is no member of a cluster ({reply})")
        self.rules = parse_commands(commands)
        return reply

    async def run(self) -> None:
        """Keep the map up to date, until cancelled."""
        while True:
            with trio.move_on_after(self._pause()):
                await self._stale.wait()
            self._stale = trio.Event()
            if not await self._refresh():
                await trio.sleep(_PAUSE)

    def close(self) -> None:
        """Close all links."""
        self._closed = True
        for link in (*self.links.values(), *self._replicas.values()):
            link.close()
        self._announce()

    @property
    def is_open(self) -> bool:
        """Whether the client's block is open."""
        return not self._closed

    def doubt(self) -> None:
        """Note that the map may be stale."""
        self._stale.set()

    async def link_to(self, slot: int) -> Link:
        """Return the link to the owner of a slot; wait while nobody owns it."""
        while (link := self.slots[slot]) is None:
            if self._closed:
                raise closed()
            self.doubt()
            await self._fresh.wait()
        return link

    def any_link(self) -> Link:
        """Return a link to some master, one that is connected if possible."""
        links = list(self.links.values())
        if not links or self._closed:
            raise closed()
        return next((link for link in links if link.status.state == "connected"), links[0])

    async def moved(self, slot: int, endpoint: Endpoint) -> None:
        """Take a server's word that another owns a slot now."""
        self.slots[slot] = await self.link_of(endpoint)
        self.owners.clear()
        if self.on_change is not None:
            self.on_change()
        self.doubt()

    async def link_of(self, endpoint: Endpoint) -> Link:
        """Return the link to a server, opened if need be."""
        if self._closed:
            raise closed()
        return await self._link(self.links, endpoint, "shared")

    async def _link(self, links: dict[Endpoint, Link], endpoint: Endpoint, name: str) -> Link:
        link = links.get(endpoint)
        if link is None or link.status.state == "closed":  # its opener was cancelled
            options = attrs.evolve(
                self.options, endpoint=endpoint, source=None, readonly=links is self._replicas
            )
            link = Link(options, name)
            link.on_status = self._link_changed
            links[endpoint] = link
            await self._start(link)
        return link

    async def wait_fresh(self) -> None:
        """Wait until the map has been made anew."""
        self.doubt()
        await self._fresh.wait()

    def _link_changed(self) -> None:
        if self._is_doubtful():
            self._stale.set()

    def _is_doubtful(self) -> bool:
        links = (*self.links.values(), *self._replicas.values())
        return any(link.status.state != "connected" for link in links)

    def _pause(self) -> float:
        """Return after how many seconds the map is asked for without a hint."""
        if self._is_doubtful():
            return _PAUSE
        lacking = self._read_from == "replica" and None in self.readers
        return _PAUSE_WITHOUT_REPLICA if lacking else inf

    async def _refresh(self) -> bool:
        for endpoint, link in list(self.links.items()):
            if link.status.state != "connected":
                continue
            reply: Reply = None
            with trio.move_on_after(_ANSWER):
                reply = await link.request(pack(("CLUSTER", "SLOTS")), True)  # noqa: FBT003 - by position, as everywhere
            if isinstance(reply, list) and reply:
                await self._adopt(reply, endpoint)
                return True
        return await self._begin_anew()

    async def _begin_anew(self) -> bool:
        """Ask the seeds, for no link leads to a server that answers: all may have moved."""
        if trio.current_time() < self._next_seeds:
            return False
        for seed in self._seeds:
            reply: Reply = None
            with trio.move_on_after(_ANSWER), suppress(ConnectError):
                reply = await self._ask_seed(seed)
            if reply:
                self._backoff.reset()
                await self._adopt(reply, seed)
                return True
        self._next_seeds = trio.current_time() + self._backoff.next_delay()
        return False

    async def _adopt(self, reply: Reply, asked: Endpoint) -> None:
        slots: list[Link | None] = [None] * SLOTS
        readers: list[Link | None] = [None] * SLOTS
        wanted: set[Link] = set()
        for first, last, owner, replicas in parse_slots(reply, asked):
            link = await self.link_of(owner)
            wanted.add(link)
            slots[first : last + 1] = [link] * (last + 1 - first)
            if replicas and self._read_from == "replica":
                replica = min(replicas, key=lambda each: hash((each, self._taste)))
                link = await self._link(self._replicas, replica, "replica")
                wanted.add(link)
                readers[first : last + 1] = [link] * (last + 1 - first)
        self.slots[:] = slots
        self.owners.clear()
        self.readers[:] = readers
        for links in (self.links, self._replicas):
            for endpoint in [each for each, link in links.items() if link not in wanted]:
                links.pop(endpoint).close()
        self._announce()

    def _announce(self) -> None:
        if self.on_change is not None and not self._closed:
            self.on_change()
        self._fresh.set()
        self._fresh = trio.Event()


@attrs.define(kw_only=True)
class SlotLocator:
    """Leads to the owner of a slot or, if that is -1, to any master."""

    topology: Topology
    slot: int = -1
    role: Role = "master"

    async def locate(self) -> Endpoint:
        """Return the endpoint of this moment; ask for a new map for the next."""
        self.topology.doubt()
        if self.slot < 0:
            return self.topology.any_link().options.endpoint
        link = await self.topology.link_to(self.slot)
        return link.options.endpoint
