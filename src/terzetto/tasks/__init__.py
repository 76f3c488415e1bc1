"""Task queues on Redis, on the wire of hibiken/asynq.

Clients enqueue tasks, servers run them, and Go and Python processes may serve
the same queues, on a single server, behind Sentinel and on a cluster.
"""

from terzetto.tasks._context import (
    TaskContext,
)
from terzetto.tasks._crew import (
    TaskExitError,
)
from terzetto.tasks._errors import (
    DuplicateTaskError,
    MessageError,
    QueueNotEmptyError,
    QueueNotFoundError,
    TaskError,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskStateError,
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
from terzetto.tasks._options import (
    Grouping,
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
from terzetto.tasks._server import (
    Server,
    ServerStateError,
    ServerStatistics,
)

__all__ = [
    "AttemptError",
    "ConcurrencyLimit",
    "DuplicateTaskError",
    "EnqueueEvent",
    "Grouping",
    "Handle",
    "LeaseLostError",
    "MessageError",
    "Middleware",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "RateLimit",
    "RevokeTask",
    "Router",
    "SchedulerEntry",
    "Server",
    "ServerInfo",
    "ServerStateError",
    "ServerStatistics",
    "SkipRetry",
    "TaskCancelledError",
    "TaskContext",
    "TaskError",
    "TaskExitError",
    "TaskIdConflictError",
    "TaskInfo",
    "TaskMessage",
    "TaskNotFoundError",
    "TaskState",
    "TaskStateError",
    "TaskTimeoutError",
    "UnknownTaskTypeError",
    "WorkerInfo",
    "default_retry_delay",
    "open_server",
    "server_child",
]
