"""Worker pools: long-running jobs, routed by key over a fleet of nodes.

    async with pool.open_node("email-pool", redis) as node:
        await node.add_worker(handler)
        await node.dispatch("user:123", payload)

A node belongs to one process; its workers run jobs, and any node may dispatch,
stop and notify them. The pool shares its place in Redis with Go's
goa.design/pulse.
"""

from terzetto.pool._errors import (
    DispatchUnknownError,
    JobExistsError,
    JobRetryError,
    JobStartError,
    MalformedBodyError,
    PoolFullError,
    PoolShutdownError,
    ScheduleStoppedError,
    UnknownLetterError,
)
from terzetto.pool._job import Handler, Job, JobFunction, JobHandler
from terzetto.pool._letter import DeadLetter
from terzetto.pool._look import (
    NodeInfo,
    PoolInfo,
    TickerInfo,
    WorkerInfo,
    find_pools,
    look_at_pool,
)
from terzetto.pool._node import Node, Worker
from terzetto.pool._observe import NodeEvent, Watch
from terzetto.pool._open import child, open_node
from terzetto.pool._runner import JobHangsError, NotificationLostError
from terzetto.pool._schedule import JobPlan, Plan, Schedule
from terzetto.pool._ticker import Ticker

__all__ = [
    "DeadLetter",
    "DispatchUnknownError",
    "Handler",
    "Job",
    "JobExistsError",
    "JobFunction",
    "JobHandler",
    "JobHangsError",
    "JobPlan",
    "JobRetryError",
    "JobStartError",
    "MalformedBodyError",
    "Node",
    "NodeEvent",
    "NodeInfo",
    "NotificationLostError",
    "Plan",
    "PoolFullError",
    "PoolInfo",
    "PoolShutdownError",
    "Schedule",
    "ScheduleStoppedError",
    "Ticker",
    "TickerInfo",
    "UnknownLetterError",
    "Watch",
    "Worker",
    "WorkerInfo",
    "child",
    "find_pools",
    "look_at_pool",
    "open_node",
]
