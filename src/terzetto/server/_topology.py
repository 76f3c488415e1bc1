"""Clusters and sentinel groups for tests, of servers that live as long as a block.

Each member is an `EmbeddedServer` with a guardian of its own, so a program that is
killed leaves none behind. What is not there yet is looked for again and again: the
members tell each other by gossip, and gossip has no event to wait for.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import combinations
from typing import Final

import attrs
import trio

from terzetto.server import _guardian
from terzetto.server._ask import ask, ask_info
from terzetto.server._binary import find_server
from terzetto.server._errors import ServerStartError
from terzetto.server._process import DURABLE, EmbeddedServer, Launch, Tls, open_process

LOOK = 0.02  # seconds between two looks at members that are not ready
SLOTS: Final = 16_384
_FIELDS_WITHOUT_SLOTS = 8  # of a line of CLUSTER NODES
# A replica may wait 5 s for others to synchronise with, and a quiet master says
# nothing for 10 s. For tests both are too long.
_REPLICATED = ("repl-diskless-sync-delay 0", "repl-ping-replica-period 1")
_HURRIED: Final = ("INFO-PERIOD", "1000", "PUBLISH-PERIOD", "500")  # milliseconds


@attrs.define(eq=False, kw_only=True)
class Cluster:
    """A cluster of servers. Made by `open_cluster`."""

    members: tuple[EmbeddedServer, ...]
    """All of them; the first ones began as masters. Each can be killed and started."""
    encrypted: bool = False
    """Whether their ports speak TLS."""

    @property
    def url(self) -> str:
        """The address for `terzetto.connect`: ``redis-cluster://…``, ``rediss-cluster://…``."""
        return f"redis{'s' * self.encrypted}-cluster://" + ",".join(
            f"127.0.0.1:{member.port}" for member in self.members
        )

    async def masters(self) -> tuple[EmbeddedServer, ...]:
        """Return the members that are up and serve slots now."""
        return await _in_role("master", self.members)

    async def replicas(self) -> tuple[EmbeddedServer, ...]:
        """Return the members that are up and follow a master now."""
        return await _in_role("slave", self.members)

    async def wait_ready(self) -> None:
        """Wait until all members that are up agree that every slot is served.

        Members that are up and replicas must have synchronised, too. After a master
        was killed this waits for the fail-over; give it a deadline of your own.
        """
        await _until(self._is_ready)

    async def _is_ready(self) -> bool:
        masters = {str(await ask(master, "CLUSTER", "MYID")) for master in await self.masters()}
        return await _all(self.members, partial(self._is_settled, masters))

    async def _is_settled(self, masters: set[str], member: EmbeddedServer) -> bool:
        info = await ask_info(member, "CLUSTER", "INFO")
        whole = info.get("cluster_state") == "ok" and info.get("cluster_slots_ok") == str(SLOTS)
        # For a while after a kill everybody still takes the dead for a master.
        owners = await _slot_owners(member)
        return whole and owners <= masters and await _is_synchronised(member)


@attrs.define(eq=False, kw_only=True)
class SentinelGroup:
    """A master, its replicas and the sentinels that watch them. Made by `open_sentinel`."""

    service: str
    """The name that the sentinels know the master by."""
    servers: tuple[EmbeddedServer, ...]
    """The data servers; the first one began as the master."""
    sentinels: tuple[EmbeddedServer, ...]
    """The sentinels; each can be killed and started, as the servers can."""
    encrypted: bool = False
    """Whether their ports, and those of the servers, speak TLS."""

    @property
    def url(self) -> str:
        """The address for `terzetto.connect`: ``redis-sentinel://…``, ``rediss-sentinel://…``."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis{'s' * self.encrypted}-sentinel://{hosts}/{self.service}"

    async def master(self) -> EmbeddedServer | None:
        """Return the server that most sentinels hold to be the master; None in between."""
        ports: list[object] = []
        for sentinel in self.sentinels:
            try:
                reply = await ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
            except (OSError, trio.BrokenResourceError):
                continue
            if isinstance(reply, list):
                ports.append(reply[1])  # after the host
        for server in self.servers:
            if ports.count(str(server.port)) * 2 > len(self.sentinels):
                return server
        return None

    async def wait_ready(self) -> None:
        """Wait until most sentinels agree on a master that is up and has its role.

        All sentinels that are up must see each other, and all replicas that are up
        must follow that master. After a master was killed this waits for the
        fail-over; give it a deadline of your own.
        """
        await _until(self._is_ready)

    async def _is_ready(self) -> bool:
        master = await self.master()
        if master is None or master not in await _in_role("master", self.servers):
            return False
        following = await _all(self.servers, partial(self._follows, master))
        return following and await _all(self.sentinels, self._sees_others)

    async def _follows(self, master: EmbeddedServer, server: EmbeddedServer) -> bool:
        if server is master:
            return True
        info = await ask_info(server, "INFO", "replication")
        return info.get("master_port") == str(master.port) and await _is_synchronised(server)

    async def _sees_others(self, sentinel: EmbeddedServer) -> bool:
        reply = await ask(sentinel, "SENTINEL", "MASTER", self.service)
        if not isinstance(reply, list):
            return False
        fields = {str(name): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
        return (
            fields.get("num-other-sentinels") == str(len(self.sentinels) - 1)
            and fields.get("num-slaves") == str(len(self.servers) - 1)
            and fields.get("flags") == "master"
        )


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_cluster(
    *,
    masters: int = 3,
    replicas: int = 1,
    ports: Sequence[int] = (),
    node_timeout: float = 2.0,
    tls: Tls | None = None,
    config: Sequence[str] = (),
) -> AsyncGenerator[Cluster, None]:
    """Run a cluster on ports of 127.0.0.1 while the block is open; for tests.

    It is whole when the block begins: every slot is served, everybody knows
    everybody, and each replica has synchronised.

    Args:
        masters: how many members serve slots; 3 at least, or there is no fail-over.
        replicas: how many follow each of them.
        ports: those of the members, the masters' first; free ones if there are none.
        node_timeout: seconds without an answer after which a member counts as failing.
        tls: let members and clients speak TLS with each other; only if the binary has it.
        config: further lines of each member's configuration.

    Raises:
        ServerNotFoundError: there is no server binary; install the extra `server`.
        ServerStartError: a member did not come up, or there are too few or too many ports.

    If cancelled, all members end. Waiting has no limit but the caller's.
    """
    count = masters * (1 + replicas)
    if ports and len(ports) != count:
        raise ServerStartError(f"{count} members need {count} ports, not {len(ports)}")
    launch = Launch(
        command=(str(find_server()), "-"),
        port=0,
        tls=tls,
        config=(
            *(["tls-cluster yes"] if tls else []),
            *DURABLE,
            *_REPLICATED,
            "cluster-enabled yes",
            f"cluster-node-timeout {round(node_timeout * 1000)}",
            "cluster-replica-validity-factor 0",  # a replica always stands for election
            *config,
        ),
    )
    async with AsyncExitStack() as stack:
        launches = [attrs.evolve(launch, port=port) for port in ports or [0] * count]
        members = await _open_all(stack, launches)
        cluster = Cluster(members=members, encrypted=tls is not None)
        await _form(members, masters)
        await cluster.wait_ready()
        yield cluster


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_sentinel(
    *,
    service: str = "main",
    replicas: int = 2,
    sentinels: int = 3,
    down_after: float = 1.0,
    tls: Tls | None = None,
    config: Sequence[str] = (),
) -> AsyncGenerator[SentinelGroup, None]:
    """Run a master, its replicas and sentinels on 127.0.0.1 while the block is open; for tests.

    When the block begins, the replicas have synchronised and the sentinels see
    them and each other.

    Args:
        service: the name that the sentinels know the master by.
        replicas: how many servers follow the master.
        sentinels: how many watch; most of them must agree on a fail-over.
        down_after: seconds without an answer after which the master counts as down.
        tls: let servers, sentinels and clients speak TLS; only if the binary has it.
        config: further lines of each data server's configuration.

    Raises:
        ServerNotFoundError: there is no server binary; install the extra `server`.
        ServerStartError: a member did not come up.

    If cancelled, all members end. Waiting has no limit but the caller's.
    """
    binary = str(find_server())
    common = (*DURABLE, *_REPLICATED, *config)
    async with AsyncExitStack() as stack:
        launch = Launch(command=(binary, "-"), port=0, tls=tls, config=common)
        [master] = await _open_all(stack, [launch])
        following = attrs.evolve(launch, config=(*common, f"replicaof 127.0.0.1 {master.port}"))
        others = await _open_all(stack, [following] * replicas)
        # Sentinels ask for replicas at once, then every 10 s only.
        await _until(partial(_all, others, _is_synchronised))
        watching = Launch(
            command=(binary, _guardian.CONFIG_FILE, "--sentinel"),
            port=0,
            config=(
                "bind 127.0.0.1",
                "dir ./",
                f"sentinel monitor {service} 127.0.0.1 {master.port} {sentinels // 2 + 1}",
                f"sentinel down-after-milliseconds {service} {round(down_after * 1000)}",
                f"sentinel failover-timeout {service} {round(down_after * 5000)}",
            ),
            rewrites=True,
            tls=tls,
        )
        group = SentinelGroup(
            service=service,
            servers=(master, *others),
            sentinels=await _open_all(stack, [watching] * sentinels),
            encrypted=tls is not None,
        )
        for sentinel in group.sentinels:
            # Servers that don't know this take 10 s to see a replica come back.
            await ask(sentinel, "SENTINEL", "DEBUG", *_HURRIED)
        await group.wait_ready()
        yield group


async def _open_all(
    stack: AsyncExitStack, launches: Sequence[Launch]
) -> tuple[EmbeddedServer, ...]:
    """Start servers one after the other; `stack` ends them, the last one first."""
    return tuple([await stack.enter_async_context(open_process(launch)) for launch in launches])


async def _form(members: Sequence[EmbeddedServer], masters: int) -> None:
    """Make one cluster of `members`: the first ones serve the slots, the others follow."""
    for number, member in enumerate(members):
        # Different epochs from the start spare the members to sort that out.
        await _ordered(member, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
    for number, member in enumerate(members[:masters]):
        first, end = (SLOTS * edge // masters for edge in (number, number + 1))
        await _ordered(member, "CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1))
    # Everybody meets everybody: gossip alone would take seconds.
    for member, other in combinations(members, 2):
        await _ordered(member, "CLUSTER", "MEET", "127.0.0.1", str(other.port))
    await _until(partial(_all, members, partial(_knows, count=len(members))))
    for number, member in enumerate(members[masters:]):
        master = await ask(members[number % masters], "CLUSTER", "MYID")
        await _ordered(member, "CLUSTER", "REPLICATE", str(master))


async def _ordered(member: EmbeddedServer, *words: str) -> None:
    reply = await ask(member, *words)
    if reply != "OK":
        raise ServerStartError(f"a new member refuses {' '.join(words)}: {reply}")


async def _knows(member: EmbeddedServer, *, count: int) -> bool:
    """Say whether `member` has shaken hands with all of `count` members."""
    reply = await ask(member, "CLUSTER", "NODES")
    return isinstance(reply, str) and have_met(reply, count)


def have_met(nodes: str, count: int) -> bool:
    """Say whether who tells of these nodes has shaken hands with all of `count` members.

    Until then one of them may be connected, but goes by a name that is none of its own.
    """
    lines = [line.split() for line in nodes.splitlines()]
    return len(lines) == count and all(
        "connected" in fields and "handshake" not in fields[2].split(",") for fields in lines
    )


async def _slot_owners(member: EmbeddedServer) -> set[str]:
    """Return the names of those that `member` takes for the masters of slots."""
    reply = await ask(member, "CLUSTER", "NODES")
    lines = [line.split() for line in str(reply).splitlines()]
    return {
        fields[0]
        for fields in lines
        if "master" in fields[2] and len(fields) > _FIELDS_WITHOUT_SLOTS
    }


async def _is_synchronised(member: EmbeddedServer) -> bool:
    """Say whether `member` is a master, or a replica that has its master's data."""
    info = await ask_info(member, "INFO", "replication")
    return info.get("role") == "master" or info.get("master_link_status") == "up"


async def _in_role(role: str, members: Sequence[EmbeddedServer]) -> tuple[EmbeddedServer, ...]:
    found: list[EmbeddedServer] = []
    for member in members:
        try:
            info = await ask_info(member, "INFO", "replication")
        except (OSError, trio.BrokenResourceError):
            continue
        if info.get("role") == role:
            found.append(member)
    return tuple(found)


async def _all(
    members: Sequence[EmbeddedServer], holds: Callable[[EmbeddedServer], Awaitable[bool]]
) -> bool:
    """Say whether `holds` is true of every member that is up, and one is."""
    up = 0
    for member in members:
        try:
            if not await holds(member):
                return False
        except (OSError, trio.BrokenResourceError):
            continue
        up += 1
    return up > 0


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():  # noqa: ASYNC110 - what servers know of each other has no event
        await trio.sleep(LOOK)
