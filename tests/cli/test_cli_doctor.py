"""`terzetto doctor`: what it finds on a single server, and on each master of a cluster."""

import json
import os
import signal
from collections.abc import Callable

import pytest
import trio

from terzetto import tasks
from terzetto.cli import main
from terzetto.observe import Level, _doctor, examine
from terzetto.redis import Redis, connect
from terzetto.server import EmbeddedServer, open_cluster
from tests.cli.conftest import Answer, Command


async def test_the_doctor_finds_what_is_wrong(command: Command, redis: Redis) -> None:
    well = await command("doctor", "--json")
    assert (well.code, {each["level"] for each in well.json}) == (0, {"ok"})
    await redis.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await redis.execute("CONFIG", "SET", "appendonly", "no")
    await redis.execute("XADD", "pulse:stream:users:dead", "*", "n", "created", "p", "")
    await redis.execute("XADD", "pulse:stream:users", "*", "n", "created", "p", "")
    await redis.hset("map:mail:jobs:content", mapping={"worker": '["a"]'})
    await redis.hset("map:mail:node-keepalive:content", mapping={"=rev": "1"})
    ill = await command("doctor", "--json")
    assert ill.code == 1
    found = {(each["check"], each["level"]) for each in ill.json}
    assert {("memory", "error"), ("persistence", "error"), ("leftovers", "warning")} <= found
    said = (await command("doctor")).out
    assert "stream users has 1 dead letters" in said
    assert "pool mail has 1 jobs and no node" in said


async def test_the_doctor_says_what_it_may_not_look_at(
    server: EmbeddedServer, redis: Redis, bare: Callable[..., Answer]
) -> None:
    await redis.execute("ACL", "SETUSER", "reader", "on", ">pass", "~*", "+@read", "+info", "+time")
    url = f"redis://reader:pass@127.0.0.1:{server.port}"
    answer = await trio.to_thread.run_sync(bare, "doctor", "--json", "--url", url)
    assert {each["check"] for each in answer.json if "could not" in each["text"]} >= {"persistence"}


async def never_called(_: bytes) -> None:
    raise AssertionError


async def test_the_doctor_looks_for_tasks_that_nobody_does(command: Command, redis: Redis) -> None:
    client = tasks.Client(redis)
    for queue in ("left", "paused"):
        await client.enqueue(tasks.Task("mail", b""), queue=queue)
    await tasks.Inspector(redis).pause_queue("paused")
    given_up = await client.enqueue(tasks.Task("mail", b""), queue="served", process_in=60)
    await tasks.Inspector(redis).archive_task("served", given_up.id)
    async with (
        tasks.open_server(redis, queues={"served": 1}) as server,
        trio.open_nursery() as nursery,
    ):
        router = tasks.Router()
        router.task("other")(never_called)
        nursery.start_soon(server.run, router)
        while not await tasks.Inspector(redis).list_servers():
            await trio.lowlevel.checkpoint()  # until its first heartbeat
        found = (await command("doctor", "--json")).json
        await server.close()
    assert sorted(each["text"] for each in found if each["check"] == "leftovers") == [
        "queue left has 1 tasks and no server",
        "queue paused has 1 tasks and is paused",
        "queue served has 1 archived tasks",
    ]


SERVER_CHECKS = ("version", "persistence", "memory", "clock", "replication")


async def test_the_doctor_looks_at_every_master(capfd: pytest.CaptureFixture[str]) -> None:
    async with open_cluster() as cluster:
        words = ["doctor", "--url", cluster.url]
        capfd.readouterr()
        assert await trio.to_thread.run_sync(main, [*words, "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        names = {f"127.0.0.1:{master.port}" for master in await cluster.masters()}
        seen = {(each["check"], each["server"]) for each in found}
        assert seen == {(check, name) for check in SERVER_CHECKS for name in names} | {
            ("cluster", ""),
            ("leftovers", ""),
        }

        ill = (await cluster.masters())[1]
        async with connect(ill.url) as server:
            await server.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            await server.execute("CONFIG", "SET", "appendonly", "no")
        assert await trio.to_thread.run_sync(main, words) == 1
        said = capfd.readouterr().out
        assert "Server" in said.splitlines()[0]
        assert [line.split()[:3] for line in said.splitlines() if " error " in line] == [
            ["persistence", f"127.0.0.1:{ill.port}", "error"],
            ["memory", f"127.0.0.1:{ill.port}", "error"],
        ]


async def test_the_doctor_says_which_master_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_doctor, "_PATIENCE", 0.5)
    # Nobody takes its place: the others hold it for alive for longer than the test lasts.
    async with open_cluster(replicas=0, node_timeout=60.0) as cluster:
        _, silent, _ = sorted(await cluster.masters(), key=lambda each: f"127.0.0.1:{each.port}")
        async with connect(cluster.url) as redis:
            os.kill(silent.pid, signal.SIGSTOP)
            try:
                found = await examine(redis)
            finally:
                os.kill(silent.pid, signal.SIGCONT)
    unanswered = [each for each in found if each.level is Level.ERROR]
    assert [(each.check, each.server) for each in unanswered] == [
        ("version", f"127.0.0.1:{silent.port}")
    ]
    assert "no answer" in unanswered[0].text
    assert len({each.server for each in found if each.check == "clock"}) == 2
    assert [each.text for each in found if each.check == "leftovers"] == [
        "not looked for: not every server answers"
    ]
