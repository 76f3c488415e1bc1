"""How a node is opened: as a block of its own, or as a child in somebody's tree."""

from contextlib import AbstractAsyncContextManager
from functools import partial

from terzetto._shared._logging import Logger, default_logger
from terzetto.actor import Child, Ref, Restart, open_child
from terzetto.errors import InvalidNameError, InvalidOptionError
from terzetto.pool._actor import NodeActor
from terzetto.pool._checks import check_client
from terzetto.pool._core import Options
from terzetto.pool._names import RESERVED, Names, check_pool, has_hash_tag, tag
from terzetto.pool._node import Node
from terzetto.pool._seat import Seat
from terzetto.redis import Redis


def child(
    pool: str,
    redis: Redis,
    *,
    worker_ttl: float = 30.0,
    worker_shutdown_ttl: float = 120.0,
    max_queued_jobs: int = 1000,
    ack_grace_period: float = 20.0,
    job_sink_block_duration: float = 5.0,
    client_only: bool = False,
    hash_tag: str | None = None,
    logger: Logger | None = None,
    name: str | None = None,
    restart: Restart = "transient",
    significant: bool = False,
) -> Child[Node]:
    """Return a node as a child for a tree of one's own; see `open_node` for the options.

    Args:
        pool: the pool's name.
        redis: a client.
        worker_ttl: see `open_node`, as for those that are not named here.
        worker_shutdown_ttl: likewise.
        max_queued_jobs: likewise.
        ack_grace_period: likewise.
        job_sink_block_duration: likewise.
        client_only: likewise.
        hash_tag: likewise.
        logger: likewise.
        name: the child's name among its siblings, which `Supervisor.get` takes; by
            default ``"node <pool>"``, with ``|`` for each slash.
        restart: ``"transient"`` (after crashes) or ``"temporary"`` (never). A node
            that was closed, or shut down with its pool, stays closed in any case.
        significant: as for `Child`: whether such an end may close the tree.

    Raises:
        InvalidNameError, InvalidOptionError: as `open_node` does.
        SpecError, ChildNameError: as `Child` does.
    """
    check_client(redis)
    options = Options(
        worker_ttl=worker_ttl,
        worker_shutdown_ttl=worker_shutdown_ttl,
        max_queued_jobs=max_queued_jobs,
        ack_grace_period=ack_grace_period,
        job_sink_block_duration=job_sink_block_duration,
        client_only=client_only,
    )
    check_pool(pool)
    if hash_tag is not None:
        pool = check_pool(tag(pool, hash_tag))
    if restart not in {"transient", "temporary"}:
        raise InvalidOptionError(
            f"restart is {restart!r}: give 'transient' or 'temporary', a closed node stays closed"
        )
    suffixes = (f"{pool}:{suffix}" for suffix in RESERVED)
    if not has_hash_tag(pool) and not redis.share_slot(*suffixes):
        raise InvalidNameError(
            f"pool {pool!r} would lie in several slots of the cluster: "
            f"give its name a hash tag, such as '{{{pool}}}', or hash_tag={pool!r}"
        )
    seat = Seat(Names(pool), redis, options, default_logger("pool") if logger is None else logger)

    def bind(ref: Ref[NodeActor]) -> Node:
        seat.ref = ref
        return Node(seat)

    return Child(
        partial(NodeActor, seat),
        name=name or f"node {pool}".replace("/", "|"),  # a child's name has no slash
        restart=restart,
        grace=5.0,
        significant=significant,
        face=bind,
    )


def open_node(
    pool: str,
    redis: Redis,
    *,
    worker_ttl: float = 30.0,
    worker_shutdown_ttl: float = 120.0,
    max_queued_jobs: int = 1000,
    ack_grace_period: float = 20.0,
    job_sink_block_duration: float = 5.0,
    client_only: bool = False,
    hash_tag: str | None = None,
    logger: Logger | None = None,
) -> AbstractAsyncContextManager[Node]:
    """Join a pool for the time of a block; leaving it is `Node.close`.

    All nodes of a pool, in Go too, need the same `worker_ttl` and
    `ack_grace_period`. Times are in seconds.

    Args:
        pool: the pool's name; it is made by its first node.
        redis: a client.
        worker_ttl: how long a worker may be silent before its jobs go elsewhere.
        worker_shutdown_ttl: how long a worker may take to hand its jobs over.
        max_queued_jobs: how many events may wait to be handled before `dispatch`
            raises `PoolFullError`; 0 for any number.
        ack_grace_period: how long a worker may take to answer before an event is
            sent again; `dispatch` waits for twice that.
        job_sink_block_duration: how long one read of the pool's stream waits.
        client_only: only dispatch, stop and notify; route and run nothing.
        hash_tag: a part of the pool's name that is put into braces, so that a cluster
            keeps all of the pool in one slot: ``hash_tag="mail"`` makes a pool
            ``"mail-eu"`` the pool ``"{mail}-eu"``, and that is its name for peers too.
        logger: anything with structlog's methods; by default the standard
            library's logger ``terzetto.pool``.

    Raises:
        InvalidNameError: the pool cannot be called so, on a cluster not without
            a hash tag, or the hash tag is no part of the name.
        InvalidOptionError: an option is out of its range.
        TypeError: `redis` is no client.
        PoolShutdownError: the pool is being shut down.
    """
    return open_child(
        child(
            pool,
            redis,
            worker_ttl=worker_ttl,
            worker_shutdown_ttl=worker_shutdown_ttl,
            max_queued_jobs=max_queued_jobs,
            ack_grace_period=ack_grace_period,
            job_sink_block_duration=job_sink_block_duration,
            client_only=client_only,
            hash_tag=hash_tag,
            logger=logger,
        )
    )
