"""The pool's state in Redis: one script for each decision, typed.

Every script may be run again after its reply was lost and then says what it
said, or would have said, the first time; so `Store` runs them again by itself
until the link answers, and its callers only see an outage as time that passes.
The maps' hashes, channels and the pool stream share the pool's name, and with
it its hash tag; streams of nodes and workers are written apart from them.

Called by the node, its workers and its dispatches; it keeps no state but names.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, cast

import attrs
from ulid import ULID

from terzetto._shared._encoding import decode_text, encode_text
from terzetto.pool import _scripts
from terzetto.pool._asking import Asking, Claim
from terzetto.pool._assign import read_list
from terzetto.pool._keys import content_key, own_key, stream_key, updates_channel
from terzetto.pool._names import SINK, STREAM_MAX_LEN, Names
from terzetto.pool._replies import items_of, number_of, text_of
from terzetto.redis import Arg, LinkLostError, Redis, Script

_CREATED = struct.Struct("<q")


_KEEPALIVES: Final = f"sink:{SINK}:keepalive"  # a map of all pools of the database
MAX_FAILED_STARTS: Final = 5
"""How often a job that was accepted may fail to start again before it is given up."""


@attrs.frozen
class Alive:
    """The answer to a sign of life: the server's clock, and who is still known.

    The revision is that of the map of workers, and `beats` that of the nodes' signs, with this
    one: the first falls, and the second does not rise, only when Redis lost the map.
    """

    server_us: int
    revision: int
    beats: int
    workers: dict[str, bool]


@attrs.frozen
class Store:
    """The scripts of one pool, bound to a client."""

    redis: Redis
    names: Names

    async def _run(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> object:
        """Run a script that may be run twice, until it answers."""
        while True:
            with suppress(LinkLostError):  # when asked again it waits for the next connection
                return await self.redis.run_script(script, keys=keys, args=args)

    async def claim(self, asking: Asking) -> list[Claim | str]:
        """Settle dispatches that are over, then claim keys and send their start events.

        Returns:
            For each key the claim, or why it was refused.
        """
        return asking.read(await self._run(_scripts.CLAIM, *asking.call(self.names)))

    def post_claim(self, asking: Asking, hear: Callable[[object], None]) -> bool:
        """Send the same at once, if there is a connection, and have the reply handed to `hear`.

        As `Redis.post_script`: after an error it has to be asked for again.
        """
        return self.redis.post_script(_scripts.CLAIM, *asking.call(self.names), hear)

    async def change_jobs(
        self, worker_id: str, created: str, changes: Sequence[tuple[str, str, bytes, str]]
    ) -> list[int | str]:
        """Change what a worker owns, many changes in one step; see `lua/ledger.lua`.

        Returns:
            For each change 1, 2, 3, 0, or the id of the other worker that owns the key.
        """
        names = self.names
        reply = await self._run(
            _scripts.LEDGER,
            [
                content_key(names.workers),
                content_key(names.jobs),
                content_key(names.payloads),
                stream_key(names.stream),
                content_key(names.dead_letters),
                content_key(names.pending),
                self._own_key("failures"),
            ],
            [
                updates_channel(names.jobs),
                updates_channel(names.payloads),
                updates_channel(names.dead_letters),
                updates_channel(names.pending),
                worker_id,
                created,
                MAX_FAILED_STARTS,
                SINK,
                *(part for change in changes for part in change),
            ],
        )
        return [
            item if isinstance(item, int) else text_of(item)
            for item in items_of(reply, len(changes))
        ]

    async def bury(
        self, worker_id: str, *, sign: str, lock: str, node_id: str, created_ns: int, limit: int
    ) -> tuple[int, int]:
        """Take over a dead worker's jobs: (1, n) done, (2, n) more remain, (0, 0) it lives."""
        maps = (
            self.names.workers,
            self.names.worker_keepalive,
            self.names.cleanup,
            self.names.jobs,
        )
        reply = await self._run(
            _scripts.BURY,
            [
                *map(content_key, maps),
                content_key(self.names.payloads),
                stream_key(self.names.stream),
                self._own_key("homes"),
            ],
            [
                *map(updates_channel, maps),
                worker_id,
                sign,
                lock,
                node_id,
                _CREATED.pack(created_ns),
                limit,
            ],
        )
        status, moved = items_of(reply, 2)
        return number_of(status), number_of(moved)

    async def enlist(self, worker_id: str, home: str) -> str | None:
        """Enter a worker and its home.

        Returns:
            Its creation time, or None while the pool shuts down.
        """
        maps = (self.names.workers, self.names.worker_keepalive)
        reply = await self._run(
            _scripts.ENLIST,
            [*map(content_key, maps), content_key(self.names.shutdown), self._own_key("homes")],
            [*map(updates_channel, maps), worker_id, home],
        )
        return text_of(reply) or None

    async def retire(self, worker_id: str, created: str) -> bool:
        """Mark a worker as leaving; False if it is not in the pool under `created`."""
        reply = await self._run(
            _scripts.RETIRE,
            [content_key(self.names.workers)],
            [updates_channel(self.names.workers), worker_id, created],
        )
        return reply == 1

    async def discharge(self, worker_id: str, keys: Iterable[str]) -> bool:
        """Remove a leaving worker's entries; False if it still owns some of the jobs `keys`.

        What else it owns it has never heard of: the events of these are pending.
        """
        maps = (
            self.names.workers,
            self.names.worker_keepalive,
            self.names.cleanup,
            self.names.jobs,
        )
        reply = await self._run(
            _scripts.DISCHARGE,
            [*map(content_key, maps), self._own_key("homes")],
            [*map(updates_channel, maps), worker_id, *keys],
        )
        return reply == 1

    async def alive(
        self, node_id: str, workers: Sequence[tuple[str, str]], *, home: str = ""
    ) -> Alive:
        """Give the signs of life of a node and its workers (id, creation time), and their home."""
        reply = await self._run(
            _scripts.ALIVE,
            [
                content_key(self.names.node_keepalive),
                content_key(self.names.workers),
                content_key(self.names.worker_keepalive),
                self._own_key("homes"),
            ],
            [
                updates_channel(self.names.node_keepalive),
                updates_channel(self.names.worker_keepalive),
                node_id,
                home,
                *(part for worker in workers for part in worker),
            ],
        )
        server_us, revision, beats, *flags = items_of(reply, 3 + len(workers))
        return Alive(
            int(text_of(server_us)),
            number_of(revision),
            number_of(beats),
            {worker[0]: flag == 1 for worker, flag in zip(workers, flags, strict=True)},
        )

    async def homes(self) -> dict[str, tuple[str, str, str]]:
        """Return the homes of workers by their id, each as node id, a space, and consumer."""
        content = await self._execute("HGETALL", self._own_key("homes"))
        return {
            decode_text(worker_id): decode_text(home).partition(" ")
            for worker_id, home in cast("dict[bytes, bytes]", content).items()
        }

    async def sweep_guards(self) -> int:
        """Remove guards that have run out or are no times, and homes that are none any more.

        Returns:
            How many guards.
        """
        names = self.names
        reply = await self._run(
            _scripts.GUARDS,
            [content_key(names.pending), content_key(names.workers), self._own_key("homes")],
            [updates_channel(names.pending)],
        )
        return number_of(reply)

    async def orphans(self, node_id: str, *, lease: float, limit: int) -> list[str] | None:
        """List jobs without an owner; None if another node has the lease of this search."""
        reply = await self._run(
            _scripts.ORPHANS,
            [
                content_key(self.names.jobs),
                content_key(self.names.payloads),
                content_key(self.names.pending),
                self._own_key("orphans"),
            ],
            [node_id, max(1, round(lease * 1000)), limit],
        )
        if reply is None:
            return None
        return [text_of(key) for key in items_of(reply)]

    async def adopt(self, key: str, *, node_id: str, created_ns: int, guard_for: float) -> bool:
        """Send an orphan again; False if it is none any more, or another node just did."""
        reply = await self._run(
            _scripts.ADOPT,
            [
                content_key(self.names.jobs),
                content_key(self.names.payloads),
                content_key(self.names.pending),
                stream_key(self.names.stream),
            ],
            [
                updates_channel(self.names.pending),
                key,
                node_id,
                _CREATED.pack(created_ns),
                round(guard_for * 1e6),
            ],
        )
        return reply == 1

    async def ask_shutdown(self, node_id: str) -> str:
        """Ask the pool to shut down; returns the id of the node that asked first."""
        reply = await self._run(
            _scripts.SHUTDOWN,
            [content_key(self.names.shutdown)],
            [updates_channel(self.names.shutdown), node_id],
        )
        return text_of(reply)

    async def wipe(self, node_id: str) -> bool:
        """Remove what a pool that was shut down left; True if nothing at all is left.

        Args:
            node_id: the node that leaves; ``""`` if it stays, and has joined the maps.
        """
        names = self.names
        members = f"stream:{names.stream}:sinks"
        tickers = await self._execute("HKEYS", content_key(names.tickers))
        workers = await self._execute("HKEYS", content_key(names.workers))
        stored = await self._execute("HGET", content_key(members), SINK)
        consumers = read_list(decode_text(stored)) if isinstance(stored, bytes) else []
        maps = (
            names.node_keepalive,
            names.shutdown,
            names.workers,
            names.worker_keepalive,
            names.cleanup,
            names.jobs,
            names.payloads,
            names.pending,
            names.tickers,
            names.dead_letters,
            members,
            # A schedule's map is called like its ticker; one that is none has no map.
            *(name for name in map(text_of, items_of(tickers)) if not name.startswith("=")),
        )
        reply = await self._run(
            _scripts.WIPE,
            [
                *map(content_key, maps),
                stream_key(names.stream),
                stream_key(f"{names.stream}:dead"),
                self._own_key("orphans"),
                self._own_key("failures"),
                self._own_key("ticks"),
                self._own_key("homes"),
            ],
            [node_id, *map(updates_channel, maps)],
        )
        if reply in {0, 1}:
            # Those that died; they are in other slots of a cluster than the pool.
            for worker_id in map(text_of, items_of(workers)):
                if not worker_id.startswith("="):
                    await self.drop_stream(names.worker_stream(worker_id))
        if reply == 1:
            channel = updates_channel(_KEEPALIVES)
            await self._run(
                _scripts.REMOVE_KEEPALIVES, [content_key(_KEEPALIVES)], [channel, *consumers]
            )
        return reply == 1

    async def payload(self, key: str) -> bytes | None:
        """Return a job's payload; None if there is no such job."""
        reply = await self._execute("HGET", content_key(self.names.payloads), encode_text(key))
        return reply if isinstance(reply, bytes) else None

    async def load(self) -> None:
        """Give the server every script, so that none is sent whole in the heat of things."""
        await self.execute_many([("SCRIPT", "LOAD", script.source) for script in _scripts.ALL])

    async def server_us(self) -> int:
        """Return the server's clock in Unix microseconds."""
        seconds, micros = items_of(await self._execute("TIME"), 2)
        return int(text_of(seconds)) * 1_000_000 + int(text_of(micros))

    async def forget_node(self, node_id: str, *, sign: str | None = None) -> bool:
        """Delete a node's entry and stream; with `sign`, only if that is still its last one."""
        reply = await self._run(
            _scripts.FORGET,
            [content_key(self.names.node_keepalive)],
            [updates_channel(self.names.node_keepalive), node_id, sign or ""],
        )
        if reply == 1:
            await self.drop_stream(self.names.node_stream(node_id))
        return reply == 1

    async def tick(self, ticker: str, seen: str, following: str, token: str) -> bool | str:
        """Claim a tick; True if it is this claim's, also when that is asked for again.

        Else the entry as it is, False if there is none.
        """
        reply = await self._run(
            _scripts.TICK,
            [content_key(self.names.tickers), self._own_key("ticks")],
            [updates_channel(self.names.tickers), ticker, seen, following, token],
        )
        if reply is None:
            return False
        return True if isinstance(reply, int) else text_of(reply)

    async def mark_ticker(self, ticker: str) -> None:
        """Note that a ticker is there, beside its last claim, where a stop leaves it."""
        await self._execute("HSETNX", self._own_key("ticks"), encode_text(ticker), b"")

    async def has_lost_ticker(self, ticker: str, revision: int) -> bool:
        """Tell whether an entry that is gone was lost by Redis: a stop leaves its mark.

        Args:
            ticker: its full name.
            revision: the highest of the map that was seen; Redis lowers it only by losing it.
        """
        marked, stored = await self.execute_many(
            [
                ("HEXISTS", self._own_key("ticks"), encode_text(ticker)),
                ("HGET", content_key(self.names.tickers), "=rev"),
            ]
        )
        count = text_of(stored or b"0")
        return not marked or (int(count) if count.isdecimal() else 0) < revision

    async def epoch(self) -> str:
        """Return the name of the time since Redis lost the pool's data, or since this was asked."""
        key = self._own_key("ticks")  # where no ticker's name has a "="
        _, stored = await self.execute_many(
            [("HSETNX", key, "=epoch", str(ULID())), ("HGET", key, "=epoch")]
        )
        return text_of(stored)

    async def letters(self) -> dict[str, bytes]:
        """Return the dead letters by job key."""
        content = await self._execute("HGETALL", content_key(self.names.dead_letters))
        return {
            decode_text(key): letter
            for key, letter in cast("dict[bytes, bytes]", content).items()
            if not key.startswith(b"=")
        }

    async def discard(self, key: str, letter: bytes | None = None) -> bool:
        """Delete a dead letter; with `letter`, only if it is still that one."""
        reply = await self._run(
            _scripts.FORGET,
            [content_key(self.names.dead_letters)],
            [updates_channel(self.names.dead_letters), key, letter or b""],
        )
        return reply == 1

    async def job_keys(self) -> list[str]:
        """Return the keys of all jobs that some worker owns."""
        keys: set[str] = set()
        content = await self._execute("HGETALL", content_key(self.names.jobs))
        for field, stored in cast("dict[bytes, bytes]", content).items():
            if not field.startswith(b"="):
                keys.update(read_list(decode_text(stored)))
        return sorted(keys)

    async def send(self, name: str, body: bytes) -> str:
        """Add an event to the pool stream; it is not trimmed by it. Runs once.

        Raises:
            LinkLostError: the reply was lost; `may_have_run` says whether it may be there.
        """
        reply = await self.redis.execute(
            "XADD", stream_key(self.names.stream), "*", "n", name, "p", body
        )
        return text_of(reply)

    async def execute_many(self, commands: Sequence[Sequence[Arg]]) -> list[object]:
        """Run commands that may run twice, in order; the first error reply is raised."""
        while True:
            try:
                replies = await self.redis.execute_many(commands)
            except LinkLostError:
                continue
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return list(replies)

    async def drop_stream(self, name: str) -> None:
        """Delete a node's or a worker's stream."""
        await self._execute("DEL", stream_key(name))

    async def missing_streams(self, names: Sequence[str]) -> list[str]:
        """Return those of the streams of nodes or workers that are not there."""
        found = await self.execute_many([("EXISTS", stream_key(name)) for name in names])
        return [name for name, reply in zip(names, found, strict=True) if not reply]

    async def open_stream(self, name: str, body: bytes) -> None:
        """Bring a node's or a worker's stream into being with its first event."""
        await self._execute(
            "XADD", stream_key(name), "MAXLEN", "~", STREAM_MAX_LEN, "*", "n", "i", "p", body
        )

    async def _execute(self, *args: Arg) -> object:
        while True:
            with suppress(LinkLostError):
                return await self.redis.execute(*args)

    def _own_key(self, what: str) -> str:
        """Return a key that only nodes of ours know."""
        return own_key(self.names, what)
