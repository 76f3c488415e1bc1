"""Go's asynq in the cases of task queues; the Go program does the work and takes the time."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tests.bench.harness import AsyncMeasure, Figures, MissingPeerError, Setting
from tests.bench.work_tasks import (
    ALONE,
    CONCURRENCY,
    GO_CONCURRENCY,
    GO_MANY,
    GO_STARTS,
    MANY,
    database,
    empty,
    waits,
)
from tests.interop.gopeer import ASYNQ_PEER, Peer, PeerMissingError, build_peer, open_peer

NAME = "asynq"
GOROUTINES = 100  # that enqueue at once where many are to be enqueued


@asynccontextmanager
async def open_asynq(url: str) -> AsyncGenerator[Peer]:
    """Build the peer, and run it."""
    with TemporaryDirectory() as directory:
        binary = Path(directory, "peer")
        try:
            await trio.to_thread.run_sync(build_peer, ASYNQ_PEER, binary)
        except PeerMissingError as error:
            raise MissingPeerError(str(error)) from error
        async with open_peer(binary, url) as peer:
            yield peer


@asynccontextmanager
async def enqueue(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One goroutine enqueues task after task."""
    url = database(setting.url, NAME)
    async with open_asynq(url) as peer:

        async def measure() -> Figures:
            taken = await peer.call("bench_enqueue", count=ALONE, concurrency=1)
            empty(url)
            return {"rate": ALONE / taken}

        yield measure


@asynccontextmanager
async def bulk(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """A hundred goroutines enqueue."""
    url = database(setting.url, NAME)
    async with open_asynq(url) as peer:

        async def measure() -> Figures:
            taken = await peer.call("bench_enqueue", count=MANY, concurrency=GOROUTINES)
            empty(url)
            return {"rate": MANY / taken}

        yield measure


@asynccontextmanager
async def drain(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Drain no-op tasks at the concurrency that Python's queues are measured with."""
    async for measure in _draining(setting, MANY, CONCURRENCY):
        yield measure


@asynccontextmanager
async def drain_go(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Drain as many as asynq's own benchmark, at its concurrency."""
    async for measure in _draining(setting, GO_MANY, GO_CONCURRENCY):
        yield measure


async def _draining(setting: Setting, count: int, concurrency: int) -> AsyncGenerator[AsyncMeasure]:
    url = database(setting.url, NAME)
    async with open_asynq(url) as peer:

        async def measure() -> Figures:
            await peer.call("bench_enqueue", count=count, concurrency=GOROUTINES)
            taken = await peer.call("bench_drain", count=count, concurrency=concurrency)
            empty(url)
            return {"rate": count / taken}

        yield measure


@asynccontextmanager
async def end_to_end(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """Enqueue one after the other, as asynq's own benchmark does, and drain; 1 % fail once."""
    url = database(setting.url, NAME)
    async with open_asynq(url) as peer:

        async def measure() -> Figures:
            taken = await peer.call("bench_enqueue", count=GO_MANY, concurrency=GOROUTINES)
            taken += await peer.call(
                "bench_drain", count=GO_MANY, concurrency=GO_CONCURRENCY, flag=True
            )
            empty(url)
            return {"rate": GO_MANY / taken}

        yield measure


@asynccontextmanager
async def start(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
    """One task at a time for an idle server."""
    url = database(setting.url, NAME)
    async with open_asynq(url) as peer:

        async def measure() -> Figures:
            found = await peer.call("bench_start", count=GO_STARTS, concurrency=CONCURRENCY)
            empty(url)
            return waits(found)

        yield measure
