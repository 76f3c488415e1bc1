"""A node's whole life, cancelled at each of its steps: no task, socket or key is left."""

from collections.abc import Iterable

import attrs
import trio

from terzetto import pool
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer
from terzetto.testing import no_task_leaks

CYCLES = 25
KEEPALIVES = b"map:sink:events:keepalive:content"


@attrs.define(eq=False, slots=False)
class Steps(trio.abc.Instrument):
    """Cancels a scope before the step of that number that any task makes."""

    scope: trio.CancelScope
    at: int
    count: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self.count += 1
        if self.count == self.at:
            self.scope.cancel()


async def end_never(_: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await trio.sleep_forever()


async def live(redis: Redis, *, shutdown: bool) -> None:
    """Join, add a worker, dispatch, stop, and close or shut down."""
    async with pool.open_node("p", redis, worker_ttl=1, ack_grace_period=1) as node:
        worker = await node.add_worker(end_never, grace=1)
        await node.dispatch("a", b"payload")
        await node.dispatch("b")
        await node.notify("a", b"note")
        await node.stop_job("b")
        if shutdown:
            await node.shutdown()
        else:
            await worker.close()


async def count_steps(redis: Redis) -> int:
    """Return how many steps all tasks make in such a life."""
    steps = Steps(trio.CancelScope(), 0)
    trio.lowlevel.add_instrument(steps)
    await live(redis, shutdown=True)
    trio.lowlevel.remove_instrument(steps)
    return steps.count


async def cancel_at(redis: Redis, step: int, *, shutdown: bool) -> None:
    """Cancel such a life before a step."""
    with trio.CancelScope() as scope:
        steps = Steps(scope, step)
        trio.lowlevel.add_instrument(steps)
        try:
            await live(redis, shutdown=shutdown)
        finally:
            trio.lowlevel.remove_instrument(steps)


async def clients(redis: Redis) -> int:
    return len((await redis.execute("CLIENT", "LIST")).splitlines())


async def check_keepalives_are_swept(redis: Redis, another: Redis) -> None:
    """See a sink take the keep-alives of those that were cancelled before they had joined."""
    async with pool.open_node("p", another, worker_ttl=1, ack_grace_period=1) as node:
        with trio.fail_after(20):
            while len(await redis.execute("HKEYS", KEEPALIVES)) > 3:  # noqa: ASYNC110 - a state of Redis
                await trio.sleep(0.05)
        await node.shutdown()
    assert await redis.execute("KEYS", "*") == []


async def check_cycles(server: EmbeddedServer, shares: Iterable[float]) -> None:
    """Cancel a life at those shares of its steps; after each, a node shuts down what is left."""
    async with connect(server.url) as redis, connect(server.url) as another:
        steps = await count_steps(redis)
        await count_steps(another)
        sockets = await clients(redis)
        for number, share in enumerate(shares):
            step = max(1, round(share * steps))
            async with no_task_leaks():
                with trio.fail_after(30):
                    await cancel_at(redis, step, shutdown=number % 2 == 0)
            async with pool.open_node("p", another, worker_ttl=1, ack_grace_period=1) as node:
                await node.shutdown()
            left = set(await redis.execute("KEYS", "*")) - {KEEPALIVES}
            assert left == set(), f"step {step} of {steps}"
        await check_keepalives_are_swept(redis, another)
        # A link that was ended is closed by the server a little later.
        with trio.fail_after(10):
            while await clients(redis) > sockets:  # noqa: ASYNC110 - a state of the server
                await trio.sleep(0.05)


async def test_a_life_cancelled_at_any_step_leaves_nothing(server: EmbeddedServer) -> None:
    await check_cycles(server, [number / CYCLES for number in range(CYCLES)])
