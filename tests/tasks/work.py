"""What tests of brokers need again and again: tasks, and ways to take them."""

from typing import Any, TypeAlias

import attrs

from terzetto.redis import Redis
from terzetto.tasks._broker import Broker
from terzetto.tasks._broker_values import Enqueue, Lease, Placed
from terzetto.tasks._message import TaskMessage, TaskState
from tests.tasks.conftest import AnyBroker

Field: TypeAlias = Any  # as `TaskMessage` has them
PATIENCE = 20.0  # seconds that a loaded machine may take
_TICK = 0.001  # seconds between two times at which a key can end
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


async def server_time(redis: Redis) -> float:
    """Return the time by the server's clock, in Unix seconds."""
    seconds, micros = await redis.execute("TIME")
    return int(seconds) + int(micros) / 1e6


async def was_given(redis: Redis, key: str, seconds: int, *, since: float) -> bool:
    """Tell whether a key was made to last for so long, at some time since then.

    All by the server's clock, in which a stall of ours is no part of the span.
    """
    end: float = await redis.execute("PEXPIRETIME", key) / 1000
    now = await server_time(redis)
    return end - now <= seconds <= end - since + _TICK


async def state_of(broker: AnyBroker, task_id: str, queue: str = "q") -> TaskState | None:
    info = await broker.read_task(queue, task_id)
    return info.state if info else None


def ids(leases: list[Lease]) -> list[str]:
    return [lease.message.id for lease in leases]
