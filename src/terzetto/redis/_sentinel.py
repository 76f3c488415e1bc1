"""Finding the server of a service by its sentinels.

A `SentinelLocator` is asked each time a link connects, so a link whose master
is gone, or is master no more, finds the new one by reconnecting. A sentinel may
be behind the times: `open_connection` checks the role of what it was sent to.
"""

from random import Random
from typing import Final, cast

import attrs
import trio

from terzetto.redis._connection import ask, open_connection
from terzetto.redis._errors import ConnectError
from terzetto.redis._url import Endpoint, Options, Role
from terzetto.redis._wire import Reply

SENTINEL_PORT: Final = 26379
_SHORTEST: Final = 0.1  # seconds that any sentinel gets at least

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
            if not any(word in flags for word in _DOWN):
                up.append([replica[b"ip"], replica[b"port"]])
        return _endpoint(self.random.choice(up), sentinel) if up else None


def _endpoint(address: Reply, sentinel: Options) -> Endpoint | None:
    if not isinstance(address, list) or len(cast("list[bytes]", address)) != 2:  # noqa: PLR2004 - host and port
        return None
    host, port = cast("list[bytes]", address)
    return Endpoint(host=host.decode(), port=int(port), tls=sentinel.endpoint.tls)
