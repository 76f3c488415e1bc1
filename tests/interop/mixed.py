"""A pool with nodes of Go's Pulse and nodes of ours, each with one worker.

Our nodes have a connection each, the peer's share one process, so that a test
starts a second peer for a node that it kills.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

import attrs

from terzetto import pool
from terzetto.pool._ring import Member, place
from terzetto.redis import connect
from tests.interop.gomap import wait_for
from tests.interop.gopeer import Peer

POOL: Final = "mixed"
TTL: Final = 4.0  # seconds; long enough for a loaded machine to keep its signs of life up
GRACE: Final = 4.0


class Handler:
    """What our worker runs: jobs that do nothing, with a log as the peer's handler has it."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.told: list[list[str]] = []

    async def start(self, job: pool.Job) -> None:
        """Start a job, or refuse it if its payload says so."""
        payload = job.payload.decode()
        self.told.append(["start", job.key, payload])
        if payload.startswith("refuse:"):
            raise ValueError(payload.removeprefix("refuse:"))
        self.jobs[job.key] = payload

    async def stop(self, key: str) -> None:
        """Stop a job."""
        self.told.append(["stop", key, ""])
        self.jobs.pop(key, None)

    async def notify(self, key: str, payload: bytes) -> None:
        """Take a notification."""
        self.told.append(["notify", key, payload.decode()])


class Side(Protocol):
    """A node with its worker, of either kind."""

    @property
    def worker_id(self) -> str: ...
    async def jobs(self) -> dict[str, str]: ...
    async def told(self) -> list[list[str]]: ...
    async def job_keys(self) -> list[str]: ...
    async def pool_workers(self) -> list[str]: ...
    async def dispatch(self, key: str, payload: bytes) -> None: ...
    async def stop_job(self, key: str) -> None: ...
    async def notify(self, key: str, payload: bytes) -> None: ...
    async def close(self) -> None: ...
    async def shutdown(self) -> None: ...
    async def is_closed(self) -> bool: ...


@attrs.define(eq=False)
class Ours:
    """A node of ours."""

    node: pool.Node
    worker: pool.Worker
    handler: Handler

    @property
    def worker_id(self) -> str:
        return self.worker.id

    async def jobs(self) -> dict[str, str]:
        return dict(self.handler.jobs)

    async def told(self) -> list[list[str]]:
        return list(self.handler.told)

    async def job_keys(self) -> list[str]:
        return await self.node.job_keys()

    async def pool_workers(self) -> list[str]:
        return self.node.pool_workers

    async def dispatch(self, key: str, payload: bytes) -> None:
        await self.node.dispatch(key, payload)

    async def stop_job(self, key: str) -> None:
        await self.node.stop_job(key)

    async def notify(self, key: str, payload: bytes) -> None:
        await self.node.notify(key, payload)

    async def close(self) -> None:
        await self.node.close()

    async def shutdown(self) -> None:
        await self.node.shutdown()

    async def is_closed(self) -> bool:
        return self.node.is_closed


@attrs.define(eq=False)
class Theirs:
    """A node of the peer's."""

    peer: Peer
    node: str
    worker: str
    worker_id: str

    async def jobs(self) -> dict[str, str]:
        return dict(await self.peer.call("worker.jobs", self.worker))

    async def told(self) -> list[list[str]]:
        told: list[list[str]] = await self.peer.call("worker.told", self.worker)
        return told

    async def job_keys(self) -> list[str]:
        return sorted(await self.peer.call("node.job_keys", self.node))

    async def pool_workers(self) -> list[str]:
        ids: list[str] = await self.peer.call("node.pool_workers", self.node)
        return ids

    async def dispatch(self, key: str, payload: bytes) -> None:
        await self.peer.call("node.dispatch", self.node, key=key, value=payload)

    async def stop_job(self, key: str) -> None:
        await self.peer.call("node.stop_job", self.node, key=key)

    async def notify(self, key: str, payload: bytes) -> None:
        await self.peer.call("node.notify", self.node, key=key, value=payload)

    async def close(self) -> None:
        await self.peer.call("node.close", self.node)

    async def shutdown(self) -> None:
        await self.peer.call("node.shutdown", self.node)

    async def is_closed(self) -> bool:
        state: dict[str, bool] = await self.peer.call("node.state", self.node)
        return state["closed"] or state["shutdown"]


@attrs.define(eq=False)
class Mixed:
    """The nodes of a pool. Made by `open_mixed`."""

    url: str
    go: Peer
    ttl: float = TTL
    sides: list[Side] = attrs.field(factory=list[Side])
    stack: AsyncExitStack = attrs.field(factory=AsyncExitStack)

    async def add(self, kind: str, peer: Peer | None = None) -> Side:
        """Add a node with a worker, ``go`` or ``ours``; return once all know of it."""
        side = await (self.add_ours() if kind == "ours" else self.add_theirs(peer or self.go))
        self.sides.append(side)
        await self.wait_agreed()
        return side

    async def add_ours(self) -> Ours:
        """Add a node of ours, on a connection of its own."""
        redis = await self.stack.enter_async_context(connect(self.url))
        node = await self.stack.enter_async_context(
            pool.open_node(
                POOL,
                redis,
                worker_ttl=self.ttl,
                ack_grace_period=GRACE,
                job_sink_block_duration=0.2,
                worker_shutdown_ttl=5,
            )
        )
        handler = Handler()
        return Ours(node, await node.add_worker(handler), handler)

    async def add_theirs(self, peer: Peer) -> Theirs:
        """Add a node of the peer's."""
        name = f"node {len(self.sides)}"
        await peer.call("node.open", name, name=POOL, ttl=self.ttl, grace=GRACE)
        worker = f"worker {len(self.sides)}"
        worker_id = await peer.call("worker.add", worker, **{"in": name})
        return Theirs(peer, name, worker, worker_id)

    async def wait_agreed(self) -> None:
        """Wait until every node knows the workers, and no others."""
        expected = sorted(side.worker_id for side in self.sides)
        for side in self.sides:
            await wait_for(_sorted(side.pool_workers), expected)

    async def running(self) -> Counter[tuple[str, str]]:
        """Return how often each job runs, with its payload, over all nodes."""
        return Counter([job for side in self.sides for job in (await side.jobs()).items()])

    async def where(self) -> dict[str, str]:
        """Return the worker in which each key runs."""
        return {key: side.worker_id for side in self.sides for key in await side.jobs()}

    def ring(self, keys: list[str]) -> dict[str, str | None]:
        """Return the worker that each key belongs to; the nodes were added oldest first."""
        members = [Member(number, side.worker_id) for number, side in enumerate(self.sides)]
        return {key: place(key, members) for key in keys}

    async def dispatch(self, number: int, *, by: list[Side]) -> list[str]:
        """Dispatch jobs, the nodes `by` taking turns; return their keys."""
        keys = [f"job {index} é" for index in range(number)]
        for index, key in enumerate(keys):
            await by[index % len(by)].dispatch(key, f"payload of {key}".encode())
        return keys

    async def wait_running(self, keys: list[str]) -> None:
        """Wait until each of the jobs runs once, and nothing else."""
        await wait_for(self.running, Counter((key, f"payload of {key}") for key in keys))

    async def wait_placed(self, keys: list[str]) -> None:
        """Wait until each of the jobs runs once, where the ring says."""
        await wait_for(self.where, self.ring(keys))
        await self.wait_running(keys)


@asynccontextmanager
async def open_mixed(url: str, go: Peer, *kinds: str, ttl: float = TTL) -> AsyncGenerator[Mixed]:
    """Open a pool with a node for each of `kinds`; leaving the block closes those of ours."""
    mixed = Mixed(url, go, ttl)
    async with mixed.stack:
        for kind in kinds:
            await mixed.add(kind)
        yield mixed


def _sorted(look: Callable[[], Awaitable[list[str]]]) -> Callable[[], Awaitable[Any]]:
    async def sort() -> list[str]:
        return sorted(await look())

    return sort
