"""What happens in a node, for those who watch: log lines and an event for each.

Watchers never hold anything up: one who does not read loses the newest events,
and is told how many by `Watch.lost`.
"""

from collections import Counter
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import attrs
import trio

from terzetto.pool._checks import check_count

Kind: TypeAlias = Literal[
    "node_joined",
    "node_left",
    "worker_joined",
    "worker_left",
    "worker_evicted",
    "worker_buried",
    "job_started",
    "job_stopped",
    "job_ended",
    "job_fenced",
    "job_failed",
    "job_restarted",
    "job_crashed",
    "job_moved",
    "job_recovered",
    "dead_letter",
]


@attrs.frozen
class NodeEvent:
    """Something that happened in, or was done by, a node.

    Attributes:
        kind: what.
        key: the job it is about, or ``""``.
        worker_id: the worker it is about, or ``""``.
        text: an error as ``"TypeName: text"``, a count, or ``""``.
    """

    kind: Kind
    key: str = ""
    worker_id: str = ""
    text: str = ""


@attrs.define(eq=False)
class Watch:
    """The events of a node from now on, oldest first.

    Attributes:
        lost: how many were dropped because the watcher was behind.
    """

    _receive: trio.MemoryReceiveChannel[NodeEvent]
    lost: int = 0

    def __aiter__(self) -> AsyncIterator[NodeEvent]:
        return self._receive.__aiter__()

    async def next(self) -> NodeEvent:
        """Wait for the next event; raises `trio.EndOfChannel` once the node is closed."""
        return await self._receive.receive()


@attrs.define(eq=False)
class Watchers:
    """Everybody who watches a node.

    Attributes:
        counts: how many events of each kind there were.
    """

    counts: Counter[Kind] = attrs.field(factory=Counter[Kind])
    _watches: list[tuple[Watch, trio.MemorySendChannel[NodeEvent]]] = attrs.field(
        factory=list[tuple[Watch, trio.MemorySendChannel[NodeEvent]]]
    )
    _is_closed: bool = False

    def report(self, kind: Kind, key: str, worker_id: str, text: str) -> None:
        """Count an event, and tell everybody."""
        self.counts[kind] += 1
        if not self._watches:
            return
        event = NodeEvent(kind, key, worker_id, text)
        for watch, send in self._watches:
            try:
                send.send_nowait(event)
            except trio.WouldBlock:
                watch.lost += 1
            except trio.BrokenResourceError:
                continue  # it is leaving its block

    def close(self) -> None:
        """End every watch, and those to come."""
        self._is_closed = True
        for _, send in self._watches:
            send.close()
        self._watches.clear()

    @contextmanager
    def watch(self, buffer_size: int) -> Generator[Watch]:
        """Watch for the time of a block.

        Raises:
            InvalidOptionError: `buffer_size` is no whole number above zero.
        """
        check_count("buffer_size", buffer_size, least=1)
        send, receive = trio.open_memory_channel[NodeEvent](buffer_size)
        entry = (Watch(receive), send)
        if self._is_closed:
            send.close()
        else:
            self._watches.append(entry)
        try:
            yield entry[0]
        finally:
            if entry in self._watches:
                self._watches.remove(entry)
            send.close()
            receive.close()
