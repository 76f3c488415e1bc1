"""The peer in Go: Pulse, driven through the program of the interop tests.

The loads run in that program; this process starts it, and does the arithmetic.
Where it cannot be built the contender is missing, by name.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from tests.bench.harness import AsyncMeasure, Figures, MissingPeerError, Setting, Stopwatch
from tests.bench.server import pin
from tests.bench.work import (
    LATENCY_EVENTS,
    PAYLOAD,
    READ,
    TASKS,
    TOLD,
    delay_figures,
    rate_and_delays,
)
from tests.bench.work_rmap import lags_of
from tests.interop.gopeer import PULSE_PEER, Peer, PeerMissingError, build_peer, open_peer

READS = 1_000_000
SETS_EACH = 400
LAGS = 400
ADDS = 4_000
ADDS_EACH = 200
BACKLOG = 4_000  # a fifth of the others', for Pulse acknowledges one by one
ALONE = 300
EACH = 20


@asynccontextmanager
async def open_go(url: str, number: int = 1) -> AsyncGenerator[list[Peer]]:
    """Build the peer, and run it in so many processes."""
    with TemporaryDirectory() as directory:
        binary = Path(directory, "peer")
        try:
            await trio.to_thread.run_sync(build_peer, PULSE_PEER, binary)
        except PeerMissingError as error:
            raise MissingPeerError(str(error)) from error
        async with open_peer(binary, url) as first:
            if number == 1:
                yield [first]
            else:
                async with open_peer(binary, url) as second:
                    yield [first, second]


def figures_of(load: dict[str, Any]) -> Figures:
    """Return the figures of a load of many calls."""
    watch = Stopwatch()
    watch.seconds = load["seconds"]
    return rate_and_delays(load["delays"], watch)


@asynccontextmanager
async def read(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Get one key of a map of 100."""
    async with open_go(setting.url) as [go]:
        await go.call("map.join", "map", name=f"{setting.name}.go")
        for number in range(100):
            await go.call("map.set_and_wait", "map", key=f"key {number}", value="value")

        async def measure() -> Figures:
            seconds = await go.call("bench.map.read", "map", key="key 50", number=READS)
            return {"get": seconds / READS * 1e9}

        yield measure


@asynccontextmanager
async def set_keys(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 goroutines that share a map set a key each; the map follows all of them."""
    async with open_go(setting.url) as [go]:
        await go.call("map.join", "map", name=f"{setting.name}.go")

        async def measure() -> Figures:
            return figures_of(await go.call("bench.map.set", "map", number=SETS_EACH))

        yield measure


@asynccontextmanager
async def measure_lag(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One process sets a key again and again; another says when it saw each value."""
    async with open_go(setting.url, 2) as [writer, reader]:
        for go in (writer, reader):
            await go.call("map.join", "map", name=f"{setting.name}.go")
        pin(reader.process.pid, setting.second_cores)

        async def measure() -> Figures:
            times: list[list[float]] = []
            seen: list[list[Any]] = []

            async def follow() -> None:
                seen.extend(await reader.call("bench.map.follow", "map"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                times += await writer.call("bench.map.write", "map", number=LAGS)
            text = "".join(f"{value} {at}\n" for value, at in seen)
            return lags_of(times[0], times[1], f"{text}end\n")

        yield measure


@asynccontextmanager
async def add_alone(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One goroutine adds event after event."""
    async with open_go(setting.url) as [go]:
        await go.call("stream.open", "stream", name=f"{setting.name}:go")

        async def measure() -> Figures:
            load = await go.call("bench.stream.add", "stream", number=ADDS, value=PAYLOAD)
            return {"rate": ADDS / load["seconds"]}

        yield measure


@asynccontextmanager
async def add_from_many(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 goroutines add event after event."""
    async with open_go(setting.url) as [go]:
        await go.call("stream.open", "stream", name=f"{setting.name}:go")

        async def measure() -> Figures:
            words = {"number": ADDS_EACH, "value": PAYLOAD, "flag": True}
            return figures_of(await go.call("bench.stream.add", "stream", **words))

        yield measure


@asynccontextmanager
async def catch_up(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One reader takes a backlog."""
    async with open_go(setting.url) as [go]:
        await go.call("stream.open", "stream", name=f"{setting.name}:go", number=10 * READ)
        words = {"number": READ // TASKS, "value": PAYLOAD, "flag": True}
        await go.call("bench.stream.add", "stream", **words)

        async def measure() -> Figures:
            return {"rate": READ / await go.call("bench.reader", "stream", number=READ)}

        yield measure


@asynccontextmanager
async def acknowledge(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One sink takes a backlog, and acknowledges one by one; Pulse has no other way."""
    turns = count()
    async with open_go(setting.url) as [go]:
        # Longer than the backlog, so that nothing is trimmed.
        await go.call("stream.open", "stream", name=f"{setting.name}:go", number=10 * BACKLOG)
        await go.call("bench.stream.add", "stream", number=BACKLOG, value=PAYLOAD)

        async def measure() -> Figures:
            sink = f"sink-{next(turns)}"
            seconds = await go.call("bench.sink", "stream", name=sink, number=BACKLOG)
            return {"rate": BACKLOG / seconds}

        yield measure


@asynccontextmanager
async def end_to_end(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A thousand events a second, from before `Add` to a sink's subscriber that acknowledges."""
    turns = count()
    async with open_go(setting.url) as [go]:
        await go.call("stream.open", "stream", name=f"{setting.name}:go", number=1000)

        async def measure() -> Figures:
            sink = f"sink-{next(turns)}"
            return delay_figures(
                await go.call("bench.end_to_end", "stream", name=sink, number=LATENCY_EVENTS)
            )

        yield measure


async def dispatch(
    go: Peer, node: str, turn: int, *, is_many: bool, clear: Peer | None = None
) -> Figures:
    """Dispatch jobs, from one goroutine or from 100; `clear` has the node that stops them."""
    number = EACH if is_many else ALONE
    words = {"key": f"turn {turn}", "value": "x" * 200, "number": number}
    load = await go.call("bench.dispatch", node, flag=is_many, **words)
    if clear is not None:
        await clear.call("bench.clear", node)
    assert len(load["delays"]) == (TASKS if is_many else 1) * number
    return figures_of(load)


async def open_worker(go: Peer, name: str) -> None:
    """Open a node with a worker."""
    await go.call("node.open", "node", name=name, ttl=30, grace=20)
    await go.call("worker.add", "worker", **{"in": "node"})


@asynccontextmanager
async def same_node(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One goroutine dispatches to a worker of its own node."""
    turns = count()
    async with open_go(setting.url) as [go]:
        await open_worker(go, f"{setting.name}:go")

        async def measure() -> Figures:
            figures = await dispatch(go, "node", next(turns), is_many=False, clear=go)
            return {"p50": figures["p50"], "p99": figures["p99"]}

        yield measure


@asynccontextmanager
async def other_node(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One goroutine dispatches through a client-only node to a worker in another process."""
    turns = count()
    async with open_go(setting.url, 2) as [go, other]:
        pin(other.process.pid, setting.second_cores)
        await open_worker(other, f"{setting.name}:go-2")
        await go.call("node.open", "node", name=f"{setting.name}:go-2", ttl=30, grace=20, flag=True)

        async def measure() -> Figures:
            figures = await dispatch(go, "node", next(turns), is_many=False, clear=other)
            return {"p50": figures["p50"], "p99": figures["p99"]}

        yield measure


@asynccontextmanager
async def many_tasks(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """100 goroutines dispatch to a worker of their own node."""
    turns = count()
    async with open_go(setting.url) as [go]:
        await open_worker(go, f"{setting.name}:go-3")
        yield lambda: dispatch(go, "node", next(turns), is_many=True, clear=go)


@asynccontextmanager
async def tell(setting: Setting, *, stop: bool) -> AsyncGenerator[AsyncMeasure]:
    """One goroutine stops jobs, or notifies them, on its own node."""
    turns = count()
    async with open_go(setting.url) as [go]:
        await open_worker(go, f"{setting.name}:go")

        async def measure() -> Figures:
            words = {"in": "node", "key": f"turn {next(turns)}", "number": TOLD, "value": "x" * 200}
            load = await go.call("bench.tell", "worker", flag=stop, **words)
            await go.call("bench.clear", "node")
            figures = figures_of(load)
            return {"p50": figures["p50"], "p99": figures["p99"]}

        yield measure


def notify(setting: Setting) -> AbstractAsyncContextManager[AsyncMeasure]:
    """Notify jobs."""
    return tell(setting, stop=False)


def stop(setting: Setting) -> AbstractAsyncContextManager[AsyncMeasure]:
    """Stop jobs."""
    return tell(setting, stop=True)
