"""Tasks that Go's asynq enqueues and Terzetto works on, with Go's inspector as the judge."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from terzetto import tasks
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.tasks import Router, Server, SkipRetry, TaskContext
from tests.interop.gopeer import Peer, open_peer

PATIENCE = 30.0
T = TypeVar("T")


@attrs.define
class Worker:
    """A server of ours that does what the type of a task says, and notes what it was given."""

    server: Server
    handled: list[tuple[str, str, bytes, int]] = attrs.field(factory=list[Any])
    more: trio.Condition = attrs.field(factory=trio.Condition)
    released: trio.Event = attrs.field(factory=trio.Event)

    async def work(self, payload: bytes, ctx: TaskContext) -> bytes | None:
        async with self.more:
            self.handled.append((ctx.id, ctx.type, payload, ctx.retried))
            self.more.notify_all()
        match ctx.type.partition(":")[0]:
            case "fail":
                raise ValueError("failed as told")
            case "once" if ctx.retried == 0:
                raise ValueError("failed as told")
            case "skip":
                raise SkipRetry("skipped as told")
            case "result":
                return payload
            case "headers":
                return repr(sorted(ctx.headers.items())).encode()
            case "sleep":
                await trio.sleep_forever()
            case "hold":
                await self.released.wait()
            case _:
                pass
        return None

    async def wait_handled(self, count: int) -> list[tuple[str, str, bytes, int]]:
        with trio.fail_after(PATIENCE):
            async with self.more:
                while len(self.handled) < count:
                    await self.more.wait()
        return self.handled


def at_once(retried: int, error: BaseException, task: tasks.TaskMessage) -> float:
    return 0.0


@asynccontextmanager
async def open_worker(redis: Redis, **options: Any) -> AsyncGenerator[Worker]:
    """Run a server of ours for the time of a block."""
    async with (
        tasks.open_server(redis, retry_delay=at_once, **options) as server,
        trio.open_nursery() as nursery,
    ):
        worker = Worker(server)
        router = Router()
        for kind in ("ok", "fail", "once", "skip", "result", "headers", "sleep", "hold", "joined"):
            router.handle(kind, worker.work)
        nursery.start_soon(server.run, router)
        yield worker
        nursery.cancel_scope.cancel()


async def eventually(look: Callable[[], Awaitable[T]]) -> T:
    """Look until there is something to see, and return it: the wire tells nobody of outcomes."""
    with trio.fail_after(PATIENCE):
        while not (seen := await look()):  # noqa: ASYNC110 - the wire has no event for it
            await trio.sleep(0.01)
        return seen


async def until(asynq: Peer, task_id: str, state: str) -> dict[str, Any]:
    """Wait until Go's inspector sees a task of the default queue in a state."""

    async def look() -> dict[str, Any] | None:
        seen: dict[str, Any] = await asynq.call("task", queue="default", task=task_id)
        return seen if seen["state"] == state else None

    seen = await eventually(look)
    assert seen is not None
    return seen


async def test_what_go_enqueues_python_handles(asynq: Peer, redis: Redis) -> None:
    async with open_worker(redis) as worker:
        for number in range(20):
            await asynq.call("enqueue", type="ok", payload=f"\udcff{number}", task=f"id-{number}")
        handled = await worker.wait_handled(20)
        assert sorted(handled) == sorted(
            (f"id-{number}", "ok", b"\xff%d" % number, 0) for number in range(20)
        )
    queue = await asynq.call("queue", queue="default")
    assert (queue["size"], queue["processed_total"], queue["failed_total"]) == (0, 20, 0)


async def test_results_of_python_are_read_by_go(asynq: Peer, redis: Redis) -> None:
    async with open_worker(redis):
        task = await asynq.call("enqueue", type="result", payload="a\udcffb", retention=60)
        seen = await until(asynq, task["id"], "completed")
        assert (seen["result"], seen["retention"]) == ("a\udcffb", 60)
        assert seen["completed_at"] > 0
        task = await asynq.call("enqueue", type="headers", retention=60, headers={"k": "v"})
        assert (await until(asynq, task["id"], "completed"))["result"] == "[('k', 'v')]"


async def test_failures_in_python_are_retried_and_archived_as_go_does(
    asynq: Peer, redis: Redis
) -> None:
    async with open_worker(redis, forward_interval=0.1) as worker:
        task = await asynq.call("enqueue", type="fail", retry=2)
        seen = await until(asynq, task["id"], "archived")
        assert (seen["retried"], seen["max_retry"]) == (2, 2)
        assert "failed as told" in seen["last_error"]
        assert [each[3] for each in worker.handled] == [0, 1, 2]
        task = await asynq.call("enqueue", type="skip", retry=5)
        seen = await until(asynq, task["id"], "archived")
        assert seen["retried"] == 0
        task = await asynq.call("enqueue", type="once", retention=60)
        assert (await until(asynq, task["id"], "completed"))["retried"] == 1
    queue = await asynq.call("queue", queue="default")
    assert (queue["archived"], queue["failed_total"], queue["processed_total"]) == (2, 5, 6)


async def test_a_task_that_go_schedules_python_forwards(asynq: Peer, redis: Redis) -> None:
    async with open_worker(redis, forward_interval=0.1) as worker:
        task = await asynq.call("enqueue", type="ok", **{"in": 1.0})
        assert task["state"] == "scheduled"
        ((handled_id, *_),) = await worker.wait_handled(1)
        assert handled_id == task["id"]


async def test_a_unique_task_of_go_is_free_again_when_python_has_done_it(
    asynq: Peer, redis: Redis
) -> None:
    async with open_worker(redis) as worker:
        await asynq.call("enqueue", type="ok", payload="x", unique=600)
        await worker.wait_handled(1)

        async def is_free() -> bool:
            return not await redis.execute("KEYS", "asynq:{default}:unique:*")

        await eventually(is_free)
        await asynq.call("enqueue", type="ok", payload="x", unique=600)
        assert len(await worker.wait_handled(2)) == 2


async def test_go_sees_the_server_and_what_it_runs_and_cancels_it(
    asynq: Peer, redis: Redis
) -> None:
    async with open_worker(
        redis, queues={"default": 3, "low": 1}, concurrency=7, heartbeat_interval=0.1
    ) as worker:
        task = await asynq.call("enqueue", type="sleep", payload="p", retry=0)
        await worker.wait_handled(1)

        async def look() -> dict[str, Any] | None:
            (seen,) = await asynq.call("servers")
            return seen if seen["workers"] else None

        seen = await eventually(look)
        assert seen is not None
        assert (seen["concurrency"], seen["queues"]) == (7, {"default": 3, "low": 1})
        assert seen["status"] == "active"
        (running,) = seen["workers"]
        assert (running["task"], running["payload"]) == (task["id"], "p")
        await asynq.call("act", type="cancel", task=task["id"])
        await until(asynq, task["id"], "archived")
    assert await asynq.call("servers") == []


async def test_a_queue_that_go_pauses_rests_until_go_resumes_it(asynq: Peer, redis: Redis) -> None:
    await asynq.call("enqueue", type="ok", task="first")
    await asynq.call("act", type="pause", queue="default")
    async with open_worker(redis, queues={"default": 1, "other": 1}, poll_interval=0.1) as worker:
        await asynq.call("enqueue", type="ok", queue="other", task="other")
        assert [each[0] for each in await worker.wait_handled(1)] == ["other"]
        assert (await asynq.call("queue", queue="default"))["pending"] == 1
        await asynq.call("act", type="unpause", queue="default")
        assert [each[0] for each in await worker.wait_handled(2)] == ["other", "first"]


async def test_mixed_servers_share_a_queue_and_each_task_is_handled_once(
    asynq: Peer, redis: Redis
) -> None:
    """Both must have a part, since neither has slots for all that is held, and then they race."""
    await asynq.call("serve", "go", queues={"default": 1}, concurrency=4)
    async with open_worker(redis, concurrency=4, poll_interval=0.05) as worker:
        for number in range(8):
            await asynq.call("enqueue", type="hold", task=f"held-{number}")
        held_by_go = [each["id"] for each in await asynq.call("handled", "go", count=4)]
        held_by_python = [each[0] for each in await worker.wait_handled(4)]
        assert sorted(held_by_go + held_by_python) == [f"held-{number}" for number in range(8)]
        for number in range(200):
            await asynq.call("enqueue", type="ok", task=f"id-{number}")
        await asynq.call("release", "go")
        worker.released.set()

        async def all_done() -> bool:
            return bool((await asynq.call("queue", queue="default"))["size"] == 0)

        await eventually(all_done)
        by_go = [each["id"] for each in await asynq.call("handled", "go")][4:]
        by_python = [each[0] for each in worker.handled][4:]
    assert sorted(by_go + by_python) == sorted(f"id-{number}" for number in range(200))
    queue = await asynq.call("queue", queue="default")
    assert (queue["processed_total"], queue["failed_total"]) == (208, 0)
    await asynq.call("stop", "go")


async def test_what_a_killed_go_server_ran_is_taken_over(
    asynq_binary: Path, asynq: Peer, server: EmbeddedServer, redis: Redis
) -> None:
    async with open_peer(asynq_binary, server.url) as doomed:
        await doomed.call("serve", "go", queues={"default": 1}, concurrency=1)
        await asynq.call("enqueue", type="sleep", payload="600", task="held", retry=3)
        await doomed.call("handled", "go", count=1)
        await doomed.kill()
    # Its lease has 30 s to live; the clock of a test is the score of the lease.
    await redis.execute("ZADD", "asynq:{default}:lease", "1", "held")
    async with open_worker(redis, recover_interval=0.1, forward_interval=0.1) as worker:
        ((task_id, kind, _, retried), *_) = await worker.wait_handled(1)
        assert (task_id, kind, retried) == ("held", "sleep", 1)
