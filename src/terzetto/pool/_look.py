"""Looking at pools from outside, without joining: which there are, and how they are.

Called by programs that show what is in Redis. Reads only, in one round trip for a
pool, and judges nothing: how old a sign of life may be is its pool's own setting.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import cast

import attrs
from redis.exceptions import RedisError, ResponseError

from terzetto._shared._encoding import decode_text, encode_text
from terzetto._shared._outcomes import value_or_raise
from terzetto.pool._assign import REMOVING, parse_time, read_list
from terzetto.pool._job import created_at
from terzetto.pool._letter import DeadLetter, decode_letter
from terzetto.pool._names import SINK, Names, check_pool
from terzetto.pool._ticks import read_entry
from terzetto.redis import Arg, Redis, Reply, find_keys
from terzetto.rmap import content_key
from terzetto.streaming import stream_key


@attrs.frozen(kw_only=True)
class NodeInfo:
    """A node as the pool's maps show it.

    Attributes:
        id: its id.
        silent_for: seconds since its last sign of life, by the server's clock.
    """

    id: str
    silent_for: float


@attrs.frozen(kw_only=True)
class WorkerInfo:
    """A worker as the pool's maps show it.

    Attributes:
        id: its id.
        joined_at: when it joined; None while it is leaving.
        silent_for: seconds since its last sign of life; None if it gave none.
        jobs: the keys that it owns, sorted.
    """

    id: str
    joined_at: datetime | None
    silent_for: float | None
    jobs: tuple[str, ...]


@attrs.frozen(kw_only=True)
class TickerInfo:
    """A ticker: its name, when its next tick is due, and the time between two."""

    name: str
    due_at: datetime
    interval: timedelta


@attrs.frozen(kw_only=True)
class PoolInfo:
    """A pool at one instant.

    Attributes:
        name: what it is called.
        nodes: its members, client-only ones too, by id.
        workers: its workers, by id.
        tickers: its tickers, by name.
        queued: how many events of the pool's stream nobody has acknowledged.
        pending: the keys whose dispatch is under way.
        unowned: the keys that were accepted and that no worker owns.
        dead_letters: the jobs that were given up, by key.
        is_shutting_down: whether somebody has asked for its end.
        exists: whether anybody has joined it since it was last shut down.
    """

    name: str
    nodes: tuple[NodeInfo, ...]
    workers: tuple[WorkerInfo, ...]
    tickers: tuple[TickerInfo, ...]
    queued: int
    pending: tuple[str, ...]
    unowned: tuple[str, ...]
    dead_letters: tuple[DeadLetter, ...]
    is_shutting_down: bool
    exists: bool

    @property
    def keys(self) -> set[str]:
        """The keys of its jobs: those that workers own, and those that wait for one."""
        return {*self.pending, *self.unowned}.union(*(worker.jobs for worker in self.workers))

    @property
    def jobs(self) -> int:
        """How many jobs its workers own."""
        return sum(len(worker.jobs) for worker in self.workers)


async def find_pools(redis: Redis) -> list[str]:
    """Return the names of all pools that have, or had, a node; the whole keyspace is walked."""
    before, after = content_key(Names("_").node_keepalive).split("_", 1)
    return await find_keys(redis, before, after, kind="hash")


async def look_at_pool(name: str, redis: Redis) -> PoolInfo:
    """Return how the pool `name` is at this instant; one that nobody has joined is empty.

    Raises:
        InvalidNameError: no pool can be called so.
    """
    names = Names(check_pool(name))
    maps = (
        names.node_keepalive,
        names.workers,
        names.worker_keepalive,
        names.jobs,
        names.pending,
        names.dead_letters,
        names.tickers,
        names.shutdown,
    )
    commands: list[tuple[Arg, ...]] = [("HGETALL", content_key(each)) for each in maps]
    # Of payloads the keys will do: all of them may be more than one reply should be.
    commands.append(("HKEYS", content_key(names.payloads)))
    commands.append(("XINFO", "GROUPS", stream_key(names.stream)))
    commands.append(("TIME",))
    *contents, keys, groups, time = await redis.execute_many(commands)
    nodes, workers, alive, jobs, pending, dead, tickers, shutdown = map(_texts, contents)
    seconds, micros = cast("list[bytes]", value_or_raise(time))
    now_ns = (int(seconds) * 1_000_000 + int(micros)) * 1000
    owned = {worker: tuple(sorted(read_list(value))) for worker, value in jobs.items()}
    accepted = {
        decode_text(key) for key in cast("list[bytes]", value_or_raise(keys)) if not _is_ours(key)
    }
    return PoolInfo(
        name=name,
        nodes=tuple(
            NodeInfo(id=each, silent_for=_age(nodes[each], now_ns) or 0.0) for each in sorted(nodes)
        ),
        workers=tuple(
            WorkerInfo(
                id=each,
                joined_at=_joined(workers.get(each, REMOVING)),
                silent_for=_age(alive.get(each), now_ns),
                jobs=owned.get(each, ()),
            )
            for each in sorted({*workers, *owned})
        ),
        tickers=tuple(_tickers(name, tickers)),
        queued=_unacknowledged(groups),
        pending=tuple(sorted(pending)),
        unowned=tuple(sorted(accepted.difference(*owned.values()))),
        dead_letters=tuple(decode_letter(key, encode_text(dead[key])) for key in sorted(dead)),
        is_shutting_down=bool(shutdown),
        exists=bool(value_or_raise(contents[0])),
    )


def _is_ours(field: bytes) -> bool:
    return field.startswith(b"=")  # bookkeeping of the map: no key of a user's has it


def _texts(content: Reply | RedisError) -> dict[str, str]:
    fields = cast("dict[bytes, bytes]", value_or_raise(content))
    return {
        decode_text(field): decode_text(value)
        for field, value in fields.items()
        if not _is_ours(field)
    }


def _age(sign: str | None, now_ns: int) -> float | None:
    at = parse_time(sign)
    return None if at is None else max(0.0, (now_ns - at) / 1e9)


def _joined(value: str) -> datetime | None:
    at = parse_time(value)
    return None if at is None else created_at(at)


def _tickers(pool: str, entries: dict[str, str]) -> Iterable[TickerInfo]:
    for full_name in sorted(entries):
        entry = read_entry(entries[full_name])
        if entry is not None:
            yield TickerInfo(
                name=full_name.removeprefix(f"{pool}:"),
                due_at=created_at(entry.due_ns),
                interval=timedelta(microseconds=entry.interval_ns / 1000),
            )


def _unacknowledged(groups: Reply | RedisError) -> int:
    if isinstance(groups, ResponseError):
        return 0  # the stream is not there
    for group in cast("list[dict[bytes, Reply]]", value_or_raise(groups)):
        if group[b"name"] == SINK.encode():
            return int(group[b"pending"]) + int(group.get(b"lag") or 0)
    return 0
