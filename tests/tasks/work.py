"""What tests of brokers need again and again: tasks, and ways to take them."""

from typing import Any, TypeAlias

import attrs

from terzetto.tasks._broker import Broker, Enqueue, Lease, Placed
from terzetto.tasks._message import TaskMessage, TaskState
from tests.tasks.conftest import AnyBroker

Field: TypeAlias = Any  # as `TaskMessage` has them
PATIENCE = 20.0  # seconds that a loaded machine may take
PENDING = Placed(TaskState.PENDING)


def task(task_id: str, queue: str = "q", **fields: Field) -> TaskMessage:
    return attrs.evolve(
        TaskMessage(type="email", payload=b"{}", id=task_id, queue=queue, max_retry=3), **fields
    )


def entry(task_id: str, queue: str = "q", **fields: Field) -> Enqueue:
    return Enqueue(message=task(task_id, queue, **fields))


def unique(task_id: str, queue: str = "q", *, lasts: int = 60, **fields: Field) -> Enqueue:
    lock = f"asynq:{{{queue}}}:unique:email:99914b932bd37a50b983c5e7c90ae93b"
    return Enqueue(message=task(task_id, queue, unique_key=lock, **fields), unique_for=lasts)


async def take(broker: Broker, *queues: str, limit: int = 1, lease_for: float = 30) -> list[Lease]:
    return await broker.dequeue(queues or ("q",), limit, lease_for=lease_for)


async def take_one(broker: Broker, queue: str = "q") -> Lease:
    (lease,) = await take(broker, queue)
    return lease


async def state_of(broker: AnyBroker, task_id: str, queue: str = "q") -> TaskState | None:
    info = await broker.read_task(queue, task_id)
    return info.state if info else None


def ids(leases: list[Lease]) -> list[str]:
    return [lease.message.id for lease in leases]
