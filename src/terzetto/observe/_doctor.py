"""What is wrong with a Redis for our use: settings, health, and what was left lying around.

Each check looks at one thing and says what it found, also when all is well, so that
who reads knows what was looked at. What the account may not ask for is a finding of
its own, no error. Called by ``terzetto doctor``, or by a health check of one's own.
"""

from collections.abc import Awaitable, Callable
from enum import Enum
from functools import partial
from typing import Final, Protocol, cast

import attrs
import trio
from redis.exceptions import NoPermissionError, ResponseError

from terzetto.pool import find_pools, look_at_pool
from terzetto.redis import Arg, ClusterRedis, Redis, Reply
from terzetto.streaming import Stream, find_streams
from terzetto.tasks import Inspector

_SKEW: Final = 1.0  # seconds between our clock and the server's from which on dues are off
_FULL: Final = 0.9  # share of maxmemory from which on there is too little left
_SLOTS: Final = 16384
_BEHIND: Final = 10 * 1024 * 1024  # bytes that a replica may lag
_PATIENCE: Final = 10.0  # seconds that a server has for one check
_WAITING: Final = 10_000  # events that a sink may have before itself


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@attrs.frozen(kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        check: what was looked at.
        level: how bad it is.
        text: what was found.
        remedy: what to do about it; ``""`` if nothing.
        server: which master of a cluster, as ``host:port``; ``""`` if it is about no single one.
    """

    check: str
    level: Level
    text: str
    remedy: str = ""
    server: str = ""


class Server(Protocol):
    """One server, as a check sees it: a client of a single one, or a master of a cluster."""

    async def execute(self, *args: Arg) -> Reply:
        """Run a command there."""
        ...

    async def server_time_offset(self) -> float:
        """Return by how many seconds its clock is ahead of ours."""
        ...


async def examine(redis: Redis) -> list[Finding]:
    """Look at everything, one check after the other, and return what was found.

    Of a cluster, each master is looked at. One that does not answer within ten
    seconds is a finding, and what needs all of them is not looked at then.

    Raises:
        LinkLostError: a server went away meanwhile.
        LinkClosedError: a master lost its slots to another meanwhile.
    """
    servers: list[tuple[str, Server]] = [("", redis)]
    if isinstance(redis, ClusterRedis):
        servers = [(master.name, master) for master in redis.masters()]
    found: list[Finding] = []
    silent: set[str] = set()
    for check, look in _SERVER_CHECKS.items():
        for name, server in servers:
            if name in silent:
                continue
            with trio.move_on_after(_PATIENCE) as patience:
                found += await _look(check, partial(look, server), server=name)
            if patience.cancelled_caught:
                silent.add(name)
                found.append(_silence(check, name))
    with trio.move_on_after(_PATIENCE) as patience:
        found += await _look("cluster", partial(_cluster, redis))
    if silent or patience.cancelled_caught:
        finding = _warning("not looked for: not every server answers", "Look again later.")
        found.append(attrs.evolve(finding, check="leftovers"))
    else:
        found += await _look("leftovers", partial(_leftovers, redis))
    return found


async def _look(
    check: str, look: Callable[[], Awaitable[list[Finding]]], *, server: str = ""
) -> list[Finding]:
    """Return what a check finds; what the account may not ask for is a finding, too."""
    try:
        found = await look()
    except ResponseError as error:
        # Hosted servers do not have some commands, and accounts may not use them.
        if not isinstance(error, NoPermissionError) and "unknown command" not in str(error):
            raise
        found = [
            _warning(
                f"could not be looked at: {error}",
                "Ask with an account that may, or look yourself.",
            )
        ]
    return [attrs.evolve(finding, check=check, server=server) for finding in found]


def _silence(check: str, server: str) -> Finding:
    finding = _error(
        f"no answer within {_PATIENCE:.0f} s",
        "See whether the server is up, and reachable from here.",
    )
    return attrs.evolve(finding, check=check, server=server)


def _ok(text: str) -> Finding:
    return Finding(check="", level=Level.OK, text=text)


def _warning(text: str, remedy: str) -> Finding:
    return Finding(check="", level=Level.WARNING, text=text, remedy=remedy)


def _error(text: str, remedy: str) -> Finding:
    return Finding(check="", level=Level.ERROR, text=text, remedy=remedy)


async def _info(redis: Server, section: str) -> dict[str, str]:
    text = cast("bytes", await redis.execute("INFO", section)).decode()
    lines = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in lines}


async def _config(redis: Server, name: str) -> str:
    found = cast("dict[bytes, bytes]", await redis.execute("CONFIG", "GET", name))
    return next(iter(found.values()), b"").decode()


async def _version(redis: Server) -> list[Finding]:
    server = await _info(redis, "server")
    name = server.get("server_name", "redis")
    version = server.get(f"{name}_version") or server.get("redis_version", "0")
    spoken = server.get("redis_version", "0")  # the version of Redis that others say they equal
    if int(spoken.split(".")[0]) < 7:  # noqa: PLR2004 - the first that says what a sink has before itself
        return [_error(f"{name} {version}", "Run Redis 7.0 or later, or Valkey.")]
    return [_ok(f"{name} {version}")]


async def _persistence(redis: Server) -> list[Finding]:
    appends, sync, saves = [
        await _config(redis, name) for name in ("appendonly", "appendfsync", "save")
    ]
    state = await _info(redis, "persistence")
    findings: list[Finding] = []
    if appends != "yes" and not saves:
        findings.append(
            _error(
                "nothing is written to disk: a restart loses all",
                "Set appendonly yes, and appendfsync everysec or always.",
            )
        )
    elif appends != "yes":
        findings.append(
            _warning(
                f"snapshots only (save {saves}): a crash loses what came after the last",
                "Set appendonly yes, and appendfsync everysec or always.",
            )
        )
    elif sync != "always":
        findings.append(
            _warning(
                f"append-only file, appendfsync {sync}: a crash may lose the last second",
                "Set appendfsync always where no acknowledged write may be lost.",
            )
        )
    else:
        findings.append(_ok("append-only file, appendfsync always"))
    findings += [
        _error(f"{field} is {state[field]}", "Look into the server's log; is the disk full?")
        for field in ("rdb_last_bgsave_status", "aof_last_write_status")
        if state.get(field, "ok") != "ok"
    ]
    return findings


async def _memory(redis: Server) -> list[Finding]:
    policy = await _config(redis, "maxmemory-policy")
    memory = await _info(redis, "memory")
    used, most = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
    findings: list[Finding] = []
    if policy != "noeviction":
        findings.append(
            _error(
                f"maxmemory-policy {policy}: short of memory, the server deletes what it likes",
                "Set maxmemory-policy noeviction, or give caches a server of their own.",
            )
        )
    if most and used > _FULL * most:
        findings.append(
            _error(
                f"{used / most:.0%} of maxmemory is in use: writes are about to fail",
                "Give it more memory, or trim streams and dead letters.",
            )
        )
    return findings or [_ok(f"maxmemory-policy noeviction, {used / 1e6:.0f} MB in use")]


async def _clock(redis: Server) -> list[Finding]:
    offset = await redis.server_time_offset()
    if abs(offset) > _SKEW:
        return [
            _warning(
                f"the server's clock differs from this machine's by {offset:+.1f} s",
                "Run NTP on both: Go peers decide leases and dues by their own clocks.",
            )
        ]
    return [_ok(f"within {max(abs(offset) * 1000, 1):.0f} ms of this machine's")]


async def _replication(redis: Server) -> list[Finding]:
    state = await _info(redis, "replication")
    if state.get("role") == "slave":
        up = state.get("master_link_status") == "up"
        text = f"a replica; its link to the master is {state.get('master_link_status')}"
        return [_ok(text) if up else _error(text, "Mend the network between the two.")]
    findings: list[Finding] = []
    end = int(state.get("master_repl_offset", 0))
    for number in range(int(state.get("connected_slaves", 0))):
        replica = dict(part.split("=", 1) for part in state[f"slave{number}"].split(","))
        where = f"{replica['ip']}:{replica['port']}"
        behind = end - int(replica.get("offset", 0))
        if replica.get("state") != "online" or behind > _BEHIND:
            findings.append(
                _warning(
                    f"replica {where} is {replica.get('state')}, {behind} bytes behind",
                    "A fail-over now would lose that much.",
                )
            )
    return findings or [_ok(f"master with {state.get('connected_slaves', 0)} replicas")]


async def _cluster(redis: Redis) -> list[Finding]:
    if not isinstance(redis, ClusterRedis):
        server = await _info(redis, "cluster")
        if server.get("cluster_enabled") == "1":
            return [
                _error(
                    "a member of a cluster, spoken to as a single server",
                    "Use redis-cluster://host:port,host:port.",
                )
            ]
        return [_ok("not a cluster")]
    text = cast("bytes", await redis.execute("CLUSTER", "INFO")).decode()
    state = dict(line.split(":", 1) for line in text.split() if ":" in line)
    covered = int(state.get("cluster_slots_ok", 0))
    if state.get("cluster_state") != "ok" or covered < _SLOTS:
        return [
            _error(
                f"cluster_state {state.get('cluster_state')}, {covered} of {_SLOTS} slots served",
                "Bring the missing masters back, or let their replicas take over.",
            )
        ]
    return [_ok(f"{state.get('cluster_size')} masters, {state.get('cluster_known_nodes')} nodes")]


async def _leftovers(redis: Redis) -> list[Finding]:
    findings: list[Finding] = []
    for name in await find_pools(redis):
        pool = await look_at_pool(name, redis)
        if pool.dead_letters:
            findings.append(
                _warning(
                    f"pool {name} has {len(pool.dead_letters)} dead letters",
                    f"See terzetto pool dead ls {name}.",
                )
            )
        if not pool.nodes and (pool.jobs or pool.unowned):
            findings.append(
                _warning(
                    f"pool {name} has {pool.jobs + len(pool.unowned)} jobs and no node",
                    "Start a node: it takes them over. Or: terzetto pool shutdown " + name,
                )
            )
    for name in await find_streams(redis):
        findings += await _stream_leftovers(Stream(name, redis))
    findings += await _queue_leftovers(redis)
    return findings or [_ok("no dead letters, nothing without somebody who does it or far behind")]


async def _stream_leftovers(stream: Stream) -> list[Finding]:
    findings: list[Finding] = []
    if not stream.name.endswith(":dead") and (dead := await stream.dead_letters.count()):
        findings.append(
            _warning(
                f"stream {stream.name} has {dead} dead letters",
                f"See terzetto stream dead ls {stream.name}.",
            )
        )
    for group in (await stream.info()).groups:
        behind = group.pending + (group.lag or 0)
        if behind > _WAITING:
            findings.append(
                _warning(
                    f"sink {group.name} of stream {stream.name} has {behind} events to do",
                    "Start more instances, or remove the sink if nobody uses it.",
                )
            )
    return findings


async def _queue_leftovers(redis: Redis) -> list[Finding]:
    inspector = Inspector(redis)
    served = {name for each in await inspector.list_servers() for name in each.info.queues}
    findings: list[Finding] = []
    for queue in await inspector.queue_infos():
        if queue.archived:
            findings.append(
                _warning(
                    f"queue {queue.queue} has {queue.archived} archived tasks",
                    f"See terzetto task ls -q {queue.queue} -s archived.",
                )
            )
        to_do = queue.size - queue.archived - queue.completed
        if to_do and queue.is_paused:
            findings.append(
                _warning(
                    f"queue {queue.queue} has {to_do} tasks and is paused",
                    f"Let them run: terzetto queue resume {queue.queue}",
                )
            )
        elif to_do and queue.queue not in served:
            findings.append(
                _warning(
                    f"queue {queue.queue} has {to_do} tasks and no server",
                    "Start a server that has it among its queues.",
                )
            )
    return findings


_SERVER_CHECKS: Final[dict[str, Callable[[Server], Awaitable[list[Finding]]]]] = {
    "version": _version,
    "persistence": _persistence,
    "memory": _memory,
    "clock": _clock,
    "replication": _replication,
}
"""What is looked at on each server for itself."""
