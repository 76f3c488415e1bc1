"""Task queues on Redis, on the wire of hibiken/asynq.

Clients enqueue tasks, servers run them, and Go and Python processes may serve
the same queues, on a single server, behind Sentinel and on a cluster.
"""

from terzetto.tasks._client import (
    Client,
    TaskHandle,
)
from terzetto.tasks._context import (
    TaskContext,
)
from terzetto.tasks._errors import (
    DuplicateTaskError,
    MessageError,
    NotReplicatedError,
    QueueNotEmptyError,
    QueueNotFoundError,
    TaskError,
    TaskFailedError,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskStateError,
)
from terzetto.tasks._inspection import (
    ClusterNode,
    DayCount,
    GroupInfo,
    QueueInfo,
    ServerState,
)
from terzetto.tasks._inspector import (
    Inspector,
)
from terzetto.tasks._limits import (
    ConcurrencyLimit,
    RateLimit,
)
from terzetto.tasks._message import (
    EnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskInfo,
    TaskMessage,
    TaskState,
    WorkerInfo,
)
from terzetto.tasks._open import (
    open_server,
    server_child,
)
from terzetto.tasks._open_scheduler import (
    open_scheduler,
    scheduler_child,
)
from terzetto.tasks._options import (
    Grouping,
)
from terzetto.tasks._partitions import (
    partitioned,
)
from terzetto.tasks._periodic import (
    Periodic,
)
from terzetto.tasks._processes import (
    FunctionProcessError,
)
from terzetto.tasks._retry import (
    AttemptError,
    LeaseLostError,
    RevokeTask,
    SkipRetry,
    TaskCancelledError,
    TaskTimeoutError,
    UnknownTaskTypeError,
    default_retry_delay,
)
from terzetto.tasks._router import (
    Handle,
    Middleware,
    Router,
)
from terzetto.tasks._scheduler import (
    AfterEnqueue,
    BeforeEnqueue,
    Provider,
    Scheduler,
)
from terzetto.tasks._server import (
    Server,
    ServerStateError,
    ServerStatistics,
)
from terzetto.tasks._task import (
    Task,
    TaskOptions,
)
from terzetto.tasks._trace import (
    current_trace,
    tracing,
)
from terzetto.tasks._user_code import (
    TaskExitError,
)

__all__ = [
    "AfterEnqueue",
    "AttemptError",
    "BeforeEnqueue",
    "Client",
    "ClusterNode",
    "ConcurrencyLimit",
    "DayCount",
    "DuplicateTaskError",
    "EnqueueEvent",
    "FunctionProcessError",
    "GroupInfo",
    "Grouping",
    "Handle",
    "Inspector",
    "LeaseLostError",
    "MessageError",
    "Middleware",
    "NotReplicatedError",
    "Periodic",
    "Provider",
    "QueueInfo",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "RateLimit",
    "RevokeTask",
    "Router",
    "Scheduler",
    "SchedulerEntry",
    "Server",
    "ServerInfo",
    "ServerState",
    "ServerStateError",
    "ServerStatistics",
    "SkipRetry",
    "Task",
    "TaskCancelledError",
    "TaskContext",
    "TaskError",
    "TaskExitError",
    "TaskFailedError",
    "TaskHandle",
    "TaskIdConflictError",
    "TaskInfo",
    "TaskMessage",
    "TaskNotFoundError",
    "TaskOptions",
    "TaskState",
    "TaskStateError",
    "TaskTimeoutError",
    "UnknownTaskTypeError",
    "WorkerInfo",
    "current_trace",
    "default_retry_delay",
    "open_scheduler",
    "open_server",
    "partitioned",
    "scheduler_child",
    "server_child",
    "tracing",
]
