"""Task queues on a cluster whose masters die: what replicas confirmed is not lost."""

import pytest
import trio
from redis.exceptions import RedisError

from terzetto import tasks
from terzetto.errors import InvalidOptionError
from terzetto.redis import LinkLostError, Redis, connect
from terzetto.server import Cluster, open_cluster, open_embedded
from terzetto.tasks import Client, NotReplicatedError, Router, Task, TaskContext

QUEUES = ("notifications", "webhooks", "images")  # on a master each


async def test_what_a_replica_confirmed_survives_the_death_of_masters_under_load() -> None:
    confirmed: set[str] = set()
    handled: set[str] = set()
    router = Router()

    @router.task("task")
    async def handle(_: bytes, ctx: TaskContext) -> None:
        handled.add(ctx.id)

    async with open_cluster() as cluster, connect(cluster.url) as redis:
        await load(cluster, redis, confirmed)
        assert len(confirmed) > 50
        async with (
            tasks.open_server(redis, queues=dict.fromkeys(QUEUES, 1), poll_interval=0.2) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(server.run, router)
            with trio.move_on_after(50):
                while confirmed - handled:  # noqa: ASYNC110 - sets that grow have no event
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    assert confirmed <= handled


async def load(cluster: Cluster, redis: Redis, confirmed: set[str]) -> None:
    """Enqueue into all queues from several tasks, while two masters die one after the other."""
    client = Client(redis, replicas=1)
    over = trio.Event()

    async def produce(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            try:
                handle = await client.enqueue(
                    Task("task", b"x", task_id=f"{number}-{count}"), queue=QUEUES[number % 3]
                )
            except (NotReplicatedError, LinkLostError, RedisError):
                await trio.sleep(0.01)  # unknown, or not safe: the next one has another id
            else:
                confirmed.add(handle.id)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(produce, number)
        for _ in range(2):
            before = len(confirmed)
            while len(confirmed) < before + 60:  # noqa: ASYNC110 - likewise
                await trio.sleep(0.01)
            master = (await cluster.masters())[0]
            await master.kill()
            with trio.fail_after(40):
                await cluster.wait_ready()
            await master.start()
            with trio.fail_after(40):
                await cluster.wait_ready()
        over.set()


async def test_too_few_replicas_are_told() -> None:
    async with open_embedded() as server, connect(server.url) as redis:
        client = Client(redis, replicas=1, replicated_within=0.05)
        with pytest.raises(NotReplicatedError, match="0 have those of queue 'default'"):
            await client.enqueue(Task("task", b"x"), task_id="id-1")
        assert (await tasks.Inspector(redis).task_info("default", "id-1")).id == "id-1"


@pytest.mark.parametrize(
    "options", [{"replicas": -1}, {"replicated_within": 0}, {"replicated_within": float("nan")}]
)
async def test_options_that_cannot_be_are_refused(redis: Redis, options: dict[str, float]) -> None:
    with pytest.raises(InvalidOptionError):
        Client(redis, **options)  # type: ignore[arg-type] # as said
    with pytest.raises(InvalidOptionError):
        await redis.execute_replicated([("SET", "k", "v")], within=-1.0)
