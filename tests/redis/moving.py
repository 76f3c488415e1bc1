"""Moving a slot of a cluster from one master to another, as an operator does."""

from contextlib import AsyncExitStack
from typing import Final

import attrs
import trio

from terzetto.redis import Redis, connect
from terzetto.redis._slots import slot_of
from terzetto.server import Cluster, EmbeddedServer

KEY: Final = "{moving}key"
SLOT: Final = slot_of(KEY)


@attrs.frozen(kw_only=True)
class Member:
    """A master, with a client that follows no redirection."""

    server: EmbeddedServer
    client: Redis
    name: str


async def owner_and_other(stack: AsyncExitStack, cluster: Cluster) -> tuple[Member, Member]:
    """Return the master that has `SLOT`, and another."""
    found: dict[bool, Member] = {}
    for master in await cluster.masters():
        client = await stack.enter_async_context(connect(f"redis://127.0.0.1:{master.port}"))
        name = (await client.execute("CLUSTER", "MYID")).decode()
        ranges = await client.execute("CLUSTER", "SLOTS")
        mine = [each for each in ranges if each[2][2].decode() == name]
        owns = any(first <= SLOT <= last for first, last, *_ in mine)
        found[owns] = Member(server=master, client=client, name=name)
    return found[True], found[False]


async def begin_move(source: Member, target: Member) -> None:
    """Let `SLOT` be on its way: what is not there any more is asked for at the target."""
    await target.client.execute("CLUSTER", "SETSLOT", SLOT, "IMPORTING", source.name)
    await source.client.execute("CLUSTER", "SETSLOT", SLOT, "MIGRATING", target.name)


async def move_keys(source: Member, target: Member, keys: list[str]) -> None:
    """Move keys of `SLOT`, while it is on its way."""
    for key in keys:
        port = target.server.port or 0
        await source.client.execute("MIGRATE", "127.0.0.1", port, key, 0, 5000)


async def end_move(source: Member, target: Member) -> None:
    """Give `SLOT` to the target for good."""
    for member in (target, source):
        await member.client.execute("CLUSTER", "SETSLOT", SLOT, "NODE", target.name)


async def move_slot(source: Member, target: Member, keys: list[str]) -> None:
    """Move `SLOT` with its keys."""
    await begin_move(source, target)
    await move_keys(source, target, keys)
    await end_move(source, target)


async def wait_blocked(client: Redis) -> None:
    """Wait until a command waits on a server."""
    while b"blocked_clients:0" in await client.execute("INFO", "clients"):  # noqa: ASYNC110 - the event is in the server
        await trio.sleep(0.01)
