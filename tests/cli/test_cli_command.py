"""The command as a process: servers, trees, terminals, wrong words and missing parts."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import terzetto
from terzetto.actor import Child, Tree, serve
from terzetto.cli._output import cell, duration, plain, printable
from terzetto.cli._top import fit
from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.testing import Probe
from tests.cli.conftest import Answer, Command

TERZETTO = [sys.executable, "-m", "terzetto"]


@pytest.mark.parametrize(
    "words",
    [
        ["pool", "lss"],
        ["pool", "inspect"],
        ["nothing"],
        ["stream", "tail", "s", "--count", "many"],
        ["top", "--every", "0"],
    ],
)
def test_words_that_are_no_command_give_2(bare: Callable[..., Answer], words: list[str]) -> None:
    answer = bare(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")


def test_no_url_gives_1(bare: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    answer = bare("pool", "ls")
    assert (answer.code, answer.out) == (1, "")
    assert "REDIS_URL" in answer.err


def test_a_server_that_is_not_there_gives_1(bare: Callable[..., Answer], tmp_path: Path) -> None:
    answer = bare("pool", "ls", "--url", f"unix://{tmp_path}/none.sock")
    assert answer.code == 1
    assert answer.err.startswith("error: ")
    assert "Traceback" not in answer.err


async def test_the_url_may_come_from_the_environment(
    server: EmbeddedServer, bare: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    answer = await trio.to_thread.run_sync(bare, "pool", "ls")
    assert (answer.code, answer.out) == (0, "No pools\n")


def test_help_and_version(bare: Callable[..., Answer]) -> None:
    assert "dispatch" in bare("pool", "--help").out
    assert bare("--version").out.strip() == "0.1.0.dev0"


def test_the_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("raise ModuleNotFoundError('none', name='cyclopts')")
    answer = subprocess.run(  # noqa: S603 - our own program
        [*TERZETTO, "pool", "ls"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "pip install 'terzetto[cli]'" in answer.stderr


async def test_the_embedded_server_runs_until_a_signal(tmp_path: Path) -> None:
    words = ["server", "start", str(tmp_path / "data"), "--port", "0", "--json"]
    process = await trio.lowlevel.open_process([*TERZETTO, *words], stdout=subprocess.PIPE)
    assert process.stdout is not None
    async with process.stdout:
        said = json.loads(await process.stdout.receive_some())
        for url in (said["url"], said["tcp_url"]):
            async with terzetto.connect(url) as redis:
                assert await redis.execute("PING") == b"PONG"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_the_demo_runs_to_its_end(command: Command, bare: Callable[..., Answer]) -> None:
    answer = await trio.to_thread.run_sync(bare, "demo", "--json")
    assert answer.code == 0
    steps = [json.loads(line) for line in answer.out.splitlines()]
    assert [step["step"] for step in steps] == [
        "server",
        "map",
        "shared",
        "stream",
        "moved",
        "shutdown",
    ]
    assert steps[2]["first"] + steps[2]["second"] == 12
    assert steps[4]["first"] == 12


async def test_the_actors_of_a_process_are_drawn(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "tree.sock"
    async with trio.open_nursery() as nursery:
        tree = Tree(name="shop", children=(Child(Probe, name="till"),))
        nursery.start_soon(partial(serve, tree, inspect=path))
        while "till" not in (drawn := await command("actors", str(path))).out:
            await trio.lowlevel.checkpoint()  # until it serves, nothing is there to wait for
        assert drawn.lines == ["shop (one_for_one) running", "└─ till (Probe) running"]
        assert (await command("actors", str(path), "--json")).json["children"][0]["name"] == "till"
        nursery.cancel_scope.cancel()
    assert (await command("actors", str(path))).code == 1


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


def test_top_needs_a_terminal(bare: Callable[..., Answer]) -> None:
    answer = bare("top", "--url", "redis://nowhere")
    assert answer.code == 1
    assert "needs a terminal" in answer.err


async def test_top_shows_what_there_is_and_is_left_with_q(
    server: EmbeddedServer, redis: Redis
) -> None:
    await redis.hset("map:config:content", mapping={"=rev": "1", "k": "v"})
    screen = await trio.to_thread.run_sync(_watch_top, server.url, b"config")
    assert b"Maps" in screen
    assert b"Pools" in screen


def _watch_top(url: str, wanted: bytes) -> bytes:
    """Run `top` on a terminal of its own until it shows what is `wanted`; leave it with q."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*TERZETTO, "top", "--url", url])  # noqa: S606 - our own program
    screen = b""
    try:
        while wanted not in screen:
            ready, _, _ = select.select([terminal], [], [], 30)
            assert ready, screen
            screen += os.read(terminal, 65536)
        os.write(terminal, b"q")
        while True:  # it must not stop for want of a reader
            try:
                if not os.read(terminal, 65536):
                    break
            except OSError:  # the terminal's end, as Linux tells it
                break
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    return screen


@given(st.lists(st.integers(0, 50), max_size=5), st.integers(-3, 100))
def test_the_lines_of_a_terminal_are_shared_evenly(wanted: list[int], room: int) -> None:
    given_ = fit(wanted, room)
    assert all(0 <= got <= want for got, want in zip(given_, wanted, strict=True))
    assert sum(given_) == min(sum(wanted), max(room, 0))
    short = [got for got, want in zip(given_, wanted, strict=True) if got < want]
    if short:  # who got less than it wants got no less than anybody, but for the last line
        assert max(given_) - min(short) <= 1 or max(given_) <= min(short) + 1


@given(st.text())
def test_what_is_shown_steers_no_terminal(text: str) -> None:
    assert all(char == "\n" or char.isprintable() for char in printable(text))


@given(st.recursive(st.none() | st.binary() | st.text() | st.integers(), st.lists))
def test_everything_can_be_json(value: object) -> None:
    json.dumps(plain(value)).encode()


def test_values_are_shown_as_people_read_them() -> None:
    assert [cell(value) for value in (None, True, b"ok", b"\xff", ["a", "b"], ())] == [
        "-",
        "yes",
        "ok",
        "(1 bytes)",
        "a b",
        "-",
    ]
    spans = [0.0151, 3.21, 42, 130, 3900, 90_000, -2]
    assert [duration(span) for span in spans] == [
        "15ms",
        "3.2s",
        "42s",
        "2m10s",
        "1h5m",
        "1d1h",
        "-2.0s",
    ]
