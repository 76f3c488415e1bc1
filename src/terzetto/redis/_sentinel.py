"""Finding the server of a service by its sentinels.

A `SentinelLocator` is asked each time a link connects, so a link whose master
is gone, or is master no more, finds the new one by reconnecting. A sentinel may
be behind the times: `open_connection` checks the role of what it was sent to.

A `Listener` does not wait for that: it is told by a sentinel when there is
another master (``+switch-master``), and lets the links leave the old one. That is
what saves those whose master hangs, and neither answers nor closes anything.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import Final, cast

import attrs
import trio
from redis.exceptions import RedisError

from terzetto.redis._connection import ask, open_connection
from terzetto.redis._errors import ConnectError, LinkClosedError
from terzetto.redis._link import Link
from terzetto.redis._pubsub import Hub, Kind, Message
from terzetto.redis._url import Endpoint, Options, Role
from terzetto.redis._wire import Reply

SENTINEL_PORT: Final = 26379
_SHORTEST: Final = 0.1  # seconds that any sentinel gets at least

_LAST_REPLIES: Final = (
    1.0  # seconds that a server may take to answer what it was sent as the master
)
_NEWS: Final = 100  # messages of sentinels that may wait to be read

_DOWN: Final = ("s_down", "o_down", "disconnected")


@attrs.define(kw_only=True)
class SentinelLocator:
    """Knows the sentinels of a service, the one that answered last first."""

    service: str
    sentinels: list[Options]
    role: Role = "master"
    random: Random = attrs.field(factory=Random, repr=False)

    async def locate(self) -> Endpoint:
        """Ask the sentinels for the server, one after the other.

        Raises:
            ConnectError: none of them answered, or none knows one.
        """
        failures: list[str] = []
        for sentinel in list(self.sentinels):
            try:
                endpoint = await self._ask(sentinel)
            except ConnectError as error:
                failures.append(str(error))
                continue
            if endpoint is not None:
                self.sentinels.remove(sentinel)
                self.sentinels.insert(0, sentinel)
                return endpoint
            failures.append(f"{sentinel.endpoint} knows no {self.role} of {self.service!r}")
        raise ConnectError(f"no sentinel leads to {self.service!r}: {'; '.join(failures)}")

    async def _ask(self, sentinel: Options) -> Endpoint | None:
        connection = await open_connection(sentinel)
        try:
            with trio.move_on_after(max(_SHORTEST, sentinel.connect_timeout)):
                if self.role == "replica":
                    replicas = await ask(connection, "SENTINEL", "REPLICAS", self.service)
                    endpoint = self._pick(replicas, sentinel)
                    if endpoint is not None:
                        return endpoint
                # A service without a replica that is up is read from its master.
                master = await ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
                return _endpoint(master, sentinel)
            raise ConnectError(f"{sentinel.endpoint} did not answer in time")
        finally:
            connection.transport.close()

    def _pick(self, replicas: Reply, sentinel: Options) -> Endpoint | None:
        if not isinstance(replicas, list):
            return None
        up: list[Reply] = []
        for replica in cast("list[dict[bytes, bytes]]", replicas):
            flags = replica.get(b"flags", b"").decode()
            if replica.get(b"master-link-status") != b"ok":
                continue  # it falls behind
            if not any(word in flags for word in _DOWN):
                up.append([replica[b"ip"], replica[b"port"]])
        return _endpoint(self.random.choice(up), sentinel) if up else None


@attrs.define(kw_only=True)
class _Sentinels:
    """Leads to one sentinel after the other."""

    locator: SentinelLocator
    role: Role = "replica"  # not that of a master, which would be checked
    _turn: int = -1

    async def locate(self) -> Endpoint:
        self._turn += 1
        sentinels = self.locator.sentinels
        await trio.lowlevel.checkpoint()
        return sentinels[self._turn % len(sentinels)].endpoint


class Listener:
    """Hears from the sentinels when the master changes; made by `connect`.

    Theory of operation: it is subscribed to ``+switch-master`` at one sentinel; if
    that goes, at the next. After a gap it asks, as news may have been missed. Links
    to another server than the new master are retired, so that replies under way
    still come, and dropped if that takes too long: the old master may be hanging.
    """

    def __init__(self, locator: SentinelLocator, links: Callable[[], Iterable[Link]]) -> None:
        options = attrs.evolve(locator.sentinels[0], locator=_Sentinels(locator=locator))
        self.hub = Hub(options, _never)
        self._locator = locator
        self._links = links

    async def run(self) -> None:
        """Listen until the client is closed or no sentinel allows it."""
        try:
            async with self.hub.subscribe([(Kind.CHANNEL, b"+switch-master")], _NEWS) as news:
                async for item in news:
                    master = await self._master(item.data if isinstance(item, Message) else None)
                    if master is not None:
                        await self._leave_others(master)
        except LinkClosedError:
            return
        except RedisError as error:
            self.hub.link.log.warning("no sentinel tells of new masters", reason=str(error))

    async def _master(self, news: bytes | None) -> Endpoint | None:
        if news is None:
            try:
                return await self._locator.locate()
            except ConnectError:
                return None  # links ask for themselves when they connect
        service, *addresses = news.split()  # the old one's host and port, then the new one's
        if service.decode(errors="replace") != self._locator.service:
            return None
        return _endpoint(addresses[2:], self._locator.sentinels[0])

    async def _leave_others(self, master: Endpoint) -> None:
        left = [
            (link, link.epoch)
            for link in self._links()
            if link is not self.hub.link and link.epoch and link.endpoint != master
        ]
        reason = ConnectError(f"{master} is the master now")
        for link, _ in left:
            link.retire(reason)
        if left:
            await trio.sleep(_LAST_REPLIES)
        for link, epoch in left:
            if link.epoch == epoch:
                link.drop(reason)


async def _never(error: Exception, sender: Endpoint) -> bool:
    """Tell that no other connection can do better: sentinels refuse nothing for a time."""
    del error, sender
    await trio.lowlevel.checkpoint()
    return False


def _endpoint(address: Reply, sentinel: Options) -> Endpoint | None:
    if not isinstance(address, list) or len(cast("list[bytes]", address)) != 2:  # noqa: PLR2004 - host and port
        return None
    host, port = cast("list[bytes]", address)
    return Endpoint(host=host.decode(), port=int(port), tls=sentinel.endpoint.tls)
