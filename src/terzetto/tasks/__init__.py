"""Task queues on Redis, on the wire of hibiken/asynq.

Clients enqueue tasks, servers run them, and Go and Python processes may serve
the same queues, on a single server, behind Sentinel and on a cluster.
"""

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
from terzetto.tasks._message import (
    EnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskInfo,
    TaskMessage,
    TaskState,
    WorkerInfo,
)

__all__ = [
    "DuplicateTaskError",
    "EnqueueEvent",
    "MessageError",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "SchedulerEntry",
    "ServerInfo",
    "TaskError",
    "TaskIdConflictError",
    "TaskInfo",
    "TaskMessage",
    "TaskNotFoundError",
    "TaskState",
    "TaskStateError",
    "WorkerInfo",
]
