"""``terzetto pool``, ``stream`` and ``map`` on a real server."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
import trio

from terzetto import pool, rmap, streaming
from terzetto.cli import main
from terzetto.pool import Job
from terzetto.pool._names import Names
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.tasks._message import SchedulerEntry, ServerInfo
from tests.cli.conftest import Command


async def handle(job: Job, *, task_status: trio.TaskStatus[None]) -> None:
    if job.payload == b"refuse":
        raise ValueError("as told")
    task_status.started()
    if job.payload == b"crash":
        raise ValueError("as told")
    async for _ in job.notifications:
        return


async def test_nothing_is_said_of_nothing(command: Command) -> None:
    assert (await command("pool", "ls")).lines == ["No pools"]
    assert (await command("stream", "ls")).lines == ["No streams"]
    assert (await command("map", "ls")).lines == ["No maps"]
    assert (await command("pool", "ls", "--json")).json == []


async def test_a_job_is_dispatched_seen_notified_and_stopped(
    command: Command, redis: Redis
) -> None:
    async with pool.open_node("mail", redis) as node:
        worker = await node.add_worker(handle)
        assert (await command("pool", "dispatch", "mail", "a", "x")).lines == ["Job a has started"]
        await command("pool", "dispatch", "mail", "b")
        again = await command("pool", "dispatch", "mail", "a")
        assert (again.code, again.out) == (1, "")
        assert again.err.startswith("error: job 'a' is running")
        jobs = (await command("pool", "jobs", "mail", "--json")).json
        assert jobs == [{"key": key, "worker": worker.id, "state": "running"} for key in ("a", "b")]
        (row,) = (await command("pool", "ls", "--json")).json
        assert (row["name"], row["nodes"], row["workers"], row["jobs"]) == ("mail", 1, 1, 2)
        seen = (await command("pool", "inspect", "mail")).out
        assert node.id in seen
        assert worker.id in seen
        with node.watch() as watch:
            await command("pool", "stop", "mail", "a")
            await command("pool", "notify", "mail", "b", "done")
            ended: set[str] = set()
            while ended != {"a", "b"}:
                event = await watch.next()
                if event.kind in {"job_stopped", "job_ended"}:
                    ended.add(event.key)


@pytest.mark.parametrize(
    "words",
    [
        ["pool", "inspect", "none"],
        ["pool", "jobs", "none"],
        ["pool", "dispatch", "none", "a"],
        ["pool", "stop", "none", "a"],
        ["pool", "notify", "none", "a", "x"],
        ["pool", "shutdown", "none"],
        ["pool", "dead", "ls", "none"],
        ["pool", "dead", "retry", "none", "--all"],
        ["pool", "dead", "discard", "none", "a"],
        ["stream", "info", "none"],
    ],
)
async def test_what_is_not_there_is_not_made(
    command: Command, redis: Redis, words: list[str]
) -> None:
    answer = await command(*words)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(f"error: there is no {words[0]} 'none'")
    assert await redis.execute("KEYS", "*") == []


async def test_a_pool_without_worker_or_job_is_told_apart(command: Command, redis: Redis) -> None:
    async with pool.open_node("mail", redis) as node:
        assert (await command("pool", "jobs", "mail")).lines == ['No jobs in pool "mail"']
        refused = await command("pool", "dispatch", "mail", "a")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith("error: pool 'mail' has no worker")
        for words in (("stop", "mail", "a"), ("notify", "mail", "a", "x")):
            refused = await command("pool", *words)
            assert (refused.code, refused.err) == (1, "error: pool 'mail' has no job 'a'\n")
        assert await node.job_keys() == []


async def test_a_start_that_fails_is_told(command: Command, redis: Redis) -> None:
    async with pool.open_node("mail", redis) as node:
        await node.add_worker(handle)
        answer = await command("pool", "dispatch", "mail", "a", "refuse")
        assert answer.code == 1
        assert "as told" in answer.err


async def test_dead_jobs_are_listed_retried_and_discarded(command: Command, redis: Redis) -> None:
    async with pool.open_node("mail", redis) as node:
        await node.add_worker(handle, max_restarts=0)
        with node.watch() as watch:
            for key in ("a", "b"):
                await node.dispatch(key, b"crash")
            dead = 0
            while dead < 2:
                dead += (await watch.next()).kind == "dead_letter"
            listed = (await command("pool", "dead", "ls", "mail", "--json")).json
            assert [(each["key"], each["error"]) for each in listed] == [
                ("a", "ValueError: as told"),
                ("b", "ValueError: as told"),
            ]
            retried = await command("pool", "dead", "retry", "mail", "none", "a")
            assert (retried.code, retried.lines) == (1, ["Job a has started again"])
            assert retried.err.count("'none'") == 1
            while (await watch.next()).kind != "dead_letter":
                pass
        assert (await command("pool", "dead", "discard", "mail", "b")).lines == [
            "Job b is forgotten"
        ]
        assert (await command("pool", "dead", "discard", "mail", "b")).code == 1


async def test_a_pool_is_shut_down(command: Command, redis: Redis) -> None:
    async with pool.open_node("mail", redis) as node:
        await node.add_worker(handle)
        await node.dispatch("a")
        assert (await command("pool", "shutdown", "mail")).lines == ["Pool mail is shut down"]
        with node.watch() as watch, trio.fail_after(30):
            async for _ in watch:  # it ends when the node is closed
                pass
        assert node.is_closed


async def test_events_are_added_and_shown(command: Command, redis: Redis) -> None:
    refused = await command("stream", "add", "users", "created")
    assert refused.code == 1
    assert "there is no stream 'users'" in refused.err
    users = streaming.Stream("users", redis)
    first = await users.add("created", b"Ada")
    added = (await command("stream", "add", "users", "created", "Bob", "--topic", "eu")).lines[0]
    async with users.open_sink("billing", start=streaming.OLDEST) as sink:
        await sink.read()
        (row,) = (await command("stream", "ls", "--json")).json
        assert (row["name"], row["length"], row["pending"]) == ("users", 2, 2)
        assert "billing" in (await command("stream", "info", "users")).out
    shown = await command("stream", "tail", "users", "--oldest", "--count", "2")
    assert shown.lines == [f"{first} created Ada", f"{added} created [eu] Bob"]
    after = await command(
        "stream", "tail", "users", "--start", str(first), "--count", "1", "--json"
    )
    assert after.json["payload"] == "Bob"


async def test_dead_events_are_listed_replayed_and_discarded(
    command: Command, redis: Redis
) -> None:
    users = streaming.Stream("users", redis)
    await users.add_many([("created", b"1"), ("created", b"2")])
    async with users.open_sink(
        "billing", start=streaming.OLDEST, max_deliveries=1, ack_grace_period=0.5
    ) as sink:
        async for event in sink:
            with pytest.raises(ValueError, match="as told"):
                async with sink.process(event):
                    int("as told")
            if await users.dead_letters.count() == 2:
                break
    letters = (await command("stream", "dead", "ls", "users", "--json")).json
    assert [letter["payload"] for letter in letters] == ["1", "2"]
    one, two = (letter["id"] for letter in letters)
    assert (await command("stream", "dead", "replay", "users", one)).code == 0
    assert (await command("stream", "dead", "discard", "users", two, "0-1")).code == 1
    assert (await command("stream", "dead", "ls", "users", "--json")).json == []
    assert await users.length() == 3


async def test_values_of_maps_are_set_and_shown(command: Command, redis: Redis) -> None:
    async with rmap.join("config", redis) as config:
        assert (await command("map", "set", "config", "flag", "on")).lines == ["-"]
        assert (await command("map", "set", "config", "flag", "off")).lines == ["on"]
        await config.set("odd", "\x1b[31mred")
    assert (await command("map", "get", "config", "flag")).lines == ["off"]
    assert (await command("map", "get", "config")).lines == [
        "Key   Value",
        "flag  off",
        "odd   \\x1b[31mred",
    ]
    missing = await command("map", "get", "config", "none")
    assert (missing.code, missing.err) == (1, "error: map 'config' has no key 'none'\n")
    (row,) = (await command("map", "ls", "--json")).json
    assert (row["name"], row["keys"], row["revision"]) == ("config", 2, 3)


async def test_what_goes_on_needs_no_descriptor_to_write_to(
    server: EmbeddedServer, redis: Redis
) -> None:
    await streaming.Stream("users", redis).add("made", b"")
    words = ["stream", "tail", "users", "--oldest", "--count", "1", "--url", server.url]
    with redirect_stdout(io.StringIO()) as shown:
        assert await trio.to_thread.run_sync(main, words) == 0
    assert "made" in shown.getvalue()


async def test_every_change_of_a_map_is_in_its_history(command: Command, redis: Redis) -> None:
    async with rmap.join("config", redis) as config, trio.open_nursery() as nursery:
        await config.set("a", "1")

        async def change() -> None:
            count = ("PUBSUB", "NUMSUB", "map:config:updates")
            while (await redis.execute(*count))[1] < 2:  # noqa: ASYNC110 - nobody tells who subscribes
                await trio.sleep(0.01)
            await config.set("a", "2")
            await config.delete("a")

        nursery.start_soon(change)
        history = await command("map", "history", "config", "--count", "2", "--json")
    changes = [json.loads(line) for line in history.out.splitlines()]
    assert [(each["op"], each["key"], each["revision"]) for each in changes] == [
        ("set", "a", 2),
        ("delete", "a", 3),
    ]


async def read_line(pipe: trio.abc.ReceiveStream) -> bytes:
    """Return the next line of one who says no more before he is answered."""
    line = b""
    while not line.endswith(b"\n"):
        more = await pipe.receive_some()
        assert more, line
        line += more
    return line


async def test_changes_of_a_map_are_shown_as_they_come(
    server: EmbeddedServer, redis: Redis
) -> None:
    words = ["map", "watch", "config", "a", "--count", "2", "--url", server.url]
    async with rmap.join("config", redis) as config:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "terzetto", *words], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        async with process.stdout as lines:
            assert await read_line(lines) == b"a is gone\n"
            await config.set("b", "1")  # which nobody asked for
            await config.set("a", "2")
            assert await read_line(lines) == b"a = 2\n"
            await config.delete("a")
            assert await read_line(lines) == b"a is gone\n"
            assert await process.wait() == 0


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("queue", "ls"), "asynq:{bad}:pending"),
        (("pool", "ls"), rmap.content_key(Names("bad").jobs)),
        (("server", "ls"), "asynq:servers:{bad}"),
        (("cron", "ls"), "asynq:schedulers:{bad}"),
    ],
)
async def test_a_key_that_is_something_else_hides_no_others(
    command: Command, redis: Redis, words: tuple[str, str], key: str
) -> None:
    """Somebody else wrote a text where a list, a hash or the like should be."""
    for name in ("good", "bad"):
        await redis.execute("SADD", "asynq:queues", name)
        await redis.execute("HSET", rmap.content_key(Names(name).node_keepalive), "=rev", "1")
    for index in ("asynq:servers", "asynq:schedulers"):
        await redis.execute("ZADD", index, 4e9, f"{index}:{{good}}", 4e9, f"{index}:{{bad}}")
    server = ServerInfo(
        host="good", pid=1, server_id="s", concurrency=1, queues={"q": 1}, started_at=0
    )
    await redis.execute("SET", "asynq:servers:{good}", server.encode())
    entry = SchedulerEntry(id="good", spec="@daily", task_type="t")
    await redis.execute("RPUSH", "asynq:schedulers:{good}", entry.encode())
    await redis.execute("DEL", key)
    await redis.execute("LPUSH" if "servers" in key else "SADD", key, "text")

    answer = await command(*words)

    assert "good" in answer.out
    (line,) = answer.err.splitlines()
    assert "bad" in line
    assert "WRONGTYPE" in line
