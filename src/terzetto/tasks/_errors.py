"""The errors of task queues.

A client's errors say what became of the task: it was refused before anything was
written, or Redis refused it. An inspector's say which precondition failed.
"""

from terzetto.errors import TerzettoError


class TaskError(TerzettoError):
    """The root of the errors of this room."""


class MessageError(TaskError, ValueError):
    """Bytes in Redis are not the message that they should be, or a message cannot be written.

    Its text says which kind of message, and what is wrong with it.
    """


class DuplicateTaskError(TaskError):
    """A unique task like this one holds the lock; nothing was enqueued.

    Attributes:
        task_id: the id of the task that was refused.
        holder: the id of the task that holds the lock.
    """

    def __init__(self, task_id: str, holder: str) -> None:
        super().__init__(task_id, holder)
        self.task_id = task_id
        self.holder = holder

    def __str__(self) -> str:
        return (
            f"task {self.task_id!r} is a duplicate of {self.holder!r}, which is unique until it is"
            " done or its time is over: wait for that one, or enqueue without unique"
        )


class TaskIdConflictError(TaskError):
    """The queue has a task with this id, in whatever state; nothing was enqueued.

    Attributes:
        task_id: the id that is taken.
        queue: the queue that has it.
    """

    def __init__(self, task_id: str, queue: str) -> None:
        super().__init__(task_id, queue)
        self.task_id = task_id
        self.queue = queue

    def __str__(self) -> str:
        return (
            f"queue {self.queue!r} has a task {self.task_id!r} already, perhaps a completed or"
            " archived one: take another id, or delete that task"
        )


class NotReplicatedError(TaskError):
    """Tasks were enqueued, but a fail-over now may lose them: too few replicas have them."""


class QueueNotFoundError(TaskError, LookupError):
    """No queue of this name was ever enqueued to, or it was deleted."""


class QueueNotEmptyError(TaskError):
    """The queue holds tasks, so it was not deleted; force it, or empty it first."""


class TaskNotFoundError(TaskError, LookupError):
    """The queue has no task with this id (any more)."""


class TaskFailedError(TaskError):
    """The task was given up: its last attempt failed and there are none left.

    Attributes:
        task_id: its id.
        error: the text of its last error, as its worker wrote it.
    """

    def __init__(self, task_id: str, error: str) -> None:
        super().__init__(task_id, error)
        self.task_id = task_id
        self.error = error

    def __str__(self) -> str:
        return f"task {self.task_id!r} was given up: {self.error}"


class TaskStateError(TaskError):
    """What was asked for cannot be done to a task or queue in the state that it is in."""
