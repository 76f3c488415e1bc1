"""What the how-tos of deployments show works: the compose file, and the users."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from redis.exceptions import NoPermissionError

from terzetto import pool, rmap, streaming, tasks
from terzetto.redis import AuthError, ConnectError, Redis, connect
from terzetto.server import EmbeddedServer, find_server, free_port
from tests.redis.scripted import PATIENCE

HOWTO = Path(__file__).parents[2] / "docs" / "howto"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a how-to in one language."""
    text = (HOWTO / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@asynccontextmanager
async def running(arguments: list[str], directory: Path) -> AsyncGenerator[trio.Process]:
    """Run a server with arguments, in a directory, and kill it at the end."""
    command = [str(find_server()), *arguments]
    with (directory / "log").open("ab") as log:
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, command, cwd=directory, stdout=log, check=False)
            process = await nursery.start(run)
            try:
                yield process
            finally:
                process.kill()


async def wait_healthy(process: trio.Process, port: int, healthcheck: list[str]) -> None:
    """Wait until the server answers as the health check wants it."""
    user, password = (healthcheck[healthcheck.index(name) + 1] for name in ("--user", "--pass"))
    url = f"redis://{user}:{password}@127.0.0.1:{port}"
    while True:
        try:
            async with connect(url) as redis:
                assert await redis.execute(healthcheck[-1]) == b"PONG"
                with pytest.raises(NoPermissionError):
                    await redis.execute("GET", "k")
                return
        except ConnectError:
            assert process.poll() is None
            await trio.sleep(0.05)


async def test_the_compose_file(tmp_path: Path) -> None:
    compose: dict[str, Any] = yaml.safe_load(blocks("redis-production", "yaml")[0])
    [users] = blocks("redis-production", "text")
    service = compose["services"]["redis"]
    assert "data" in compose["volumes"]
    assert "data:/data" in service["volumes"]  # the image's working directory
    assert "./users.acl:/etc/valkey/users.acl:ro" in service["volumes"]
    assert service["ports"] == ["127.0.0.1:6379:6379"]
    assert service["restart"] == "always"
    program, *arguments = service["command"]
    assert program == "valkey-server"
    (tmp_path / "users.acl").write_text(without_comments(users))
    arguments = [text.replace("/etc/valkey", str(tmp_path)) for text in arguments]
    port = free_port()
    till = f"redis://till:secret@127.0.0.1:{port}"
    with trio.fail_after(PATIENCE):
        for life in (1, 2):
            async with running([*arguments, "--port", str(port)], tmp_path) as process:
                await wait_healthy(process, port, service["healthcheck"]["test"])
                async with connect(till) as redis:
                    assert await redis.execute("INCR", "lives") == life
                    with pytest.raises(NoPermissionError):
                        await redis.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
                    memory: bytes = await redis.execute("INFO", "memory")
                    assert b"maxmemory_policy:noeviction" in memory
                    persistence: bytes = await redis.execute("INFO", "persistence")
                    assert b"aof_enabled:1" in persistence
                with pytest.raises(AuthError):
                    async with connect(f"redis://127.0.0.1:{port}"):
                        pass


async def test_the_user_of_the_access_control_page(server: EmbeddedServer, redis: Redis) -> None:
    [line] = blocks("redis-access-control", "text")
    _, name, *rules = line.split()
    await redis.execute("ACL", "SETUSER", name, *rules)
    handled = trio.Event()

    class Handler:
        async def start(self, job: pool.Job) -> None:
            assert job.payload == b"p"
            handled.set()

        async def stop(self, key: str) -> None:
            assert key == "k"

    async with connect(server.url, username=name, password="secret") as mine:  # noqa: S106 - the page's
        with trio.fail_after(PATIENCE):
            async with rmap.join("config", mine) as config:
                await config.set_and_wait("a", "b")
            users = streaming.Stream("users", mine)
            async with users.open_sink("billing") as sink:
                await users.add("created", b"p")
                await sink.ack(await anext(aiter(sink)))
            async with mine.open_lock("report"), mine.subscribe("order:new"):
                assert await mine.execute("SET", "order:1", "x") == b"OK"
            async with pool.open_node("email", mine) as node:
                await node.add_worker(Handler())
                await node.dispatch("k", b"p")
                await handled.wait()
            await run_tasks(mine)
            with trio.move_on_after(0.05):
                await mine.execute("BLPOP", "order:none", 0)
        for refused in (("SET", "other", 1), ("CONFIG", "GET", "*"), ("FLUSHALL",), ("KEYS", "*")):
            with pytest.raises(NoPermissionError):
                await mine.execute(*refused)
    log = await redis.execute("ACL", "LOG")
    denied = {entry[b"object"] for entry in log}
    assert denied <= {b"other", b"config|get", b"flushall", b"keys", b"client|setinfo"}


async def run_tasks(redis: Redis) -> None:
    """Use each part of the task queues: client, server, limits, scheduler, inspector."""
    client, inspector = tasks.Client(redis), tasks.Inspector(redis)
    router = tasks.Router()
    grouped, hangs, ticked = trio.Event(), trio.Event(), trio.Event()

    @router.task("bill")
    async def bill(payload: bytes) -> bytes:
        if payload == b"gg":
            grouped.set()
        return payload

    @router.task("hang")
    async def hang(_: bytes) -> None:
        hangs.set()
        await trio.sleep_forever()

    @router.task("tick")
    async def tick(_: bytes) -> None:
        ticked.set()

    async def aggregate(group: str, notes: Sequence[tasks.TaskMessage]) -> tasks.Task:
        return tasks.Task("bill", group.encode() * len(notes))

    async with (
        tasks.open_server(
            redis,
            limits=[
                tasks.RateLimit(name="r", pattern="bill", count=100),
                tasks.ConcurrencyLimit(name="c", pattern="bill", count=5),
            ],
            grouping=tasks.Grouping(aggregate=aggregate, max_size=2),
        ) as server,
        tasks.open_scheduler(redis, entries=[tasks.Periodic("@every 1s", tasks.Task("tick"))]) as s,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        nursery.start_soon(s.run)
        billed = await client.enqueue(tasks.Task("bill", b"7"), unique=60, retention=60)
        assert await billed.result() == b"7"
        for _ in range(2):
            await client.enqueue(tasks.Task("bill"), group="g")
        await grouped.wait()
        hanging = await client.enqueue(tasks.Task("hang"))
        await hangs.wait()
        await hanging.cancel(drop=True)
        with pytest.raises(tasks.TaskFailedError):
            await hanging.result()
        later = await client.enqueue(tasks.Task("bill"), process_in=60)
        await inspector.delete_task(later.queue, later.id)
        assert await inspector.list_queues() == ["default"]
        assert (await inspector.queue_info("default", memory=True)).archived == 1
        assert len(await inspector.list_servers()) == 1
        await ticked.wait()
        await s.close()
        await server.shutdown()


def without_comments(text: str) -> str:
    """Return the lines of a file that takes no comments."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
