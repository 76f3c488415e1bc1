"""The command as a process: servers, trees, terminals, wrong words and missing parts."""

import fcntl
import io
import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import terzetto
from terzetto import pool, rmap, streaming, tasks
from terzetto.actor import Child, Tree, serve
from terzetto.cli._output import Bytes, cell, duration, plain, printable
from terzetto.cli._top import choose, draw, fit
from terzetto.pool import look_at_pool
from terzetto.pool._names import Names
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
        ["queue", "inspect"],
        ["task", "cancel"],
        ["cron", "history"],
        ["pool", "dead", "retry", "p"],
        ["pool", "dead", "discard", "p", "a", "--all"],
        ["stream", "dead", "replay", "s"],
        ["server", "start", "--port", "65536"],
    ],
)
def test_words_that_are_no_command_give_2(bare: Callable[..., Answer], words: list[str]) -> None:
    answer = bare(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")


@pytest.mark.parametrize("url", [None, ""])
def test_no_url_gives_1_and_says_how_to_give_one(
    bare: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("REDIS_URL", url)
    answer = bare("pool", "ls")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "error: no URL: give --url, or set REDIS_URL\n"


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


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [(["queue", "ls"], ""), (["queue", "ls"], "1"), (["--help"], "1")],
    ids=["buffered", "at once", "help"],  # what is buffered fails when Python ends
)
async def test_a_reader_that_has_seen_enough_is_no_error(
    server: EmbeddedServer, words: list[str], unbuffered: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = await _run_into(writing, words, server.url, unbuffered)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_what_cannot_be_written_gives_1(server: EmbeddedServer, unbuffered: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = await _run_into(full, ["queue", "ls"], server.url, unbuffered)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: [Errno 28]")
    assert done.stderr.count(b"\n") == 1


async def _run_into(
    output: int, words: list[str], url: str, unbuffered: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with a standard output of our own, which is closed."""
    environment = {**os.environ, "REDIS_URL": url, "PYTHONUNBUFFERED": unbuffered}
    try:
        return await trio.run_process(
            [*TERZETTO, *words], env=environment, stdout=output, capture_stderr=True, check=False
        )
    finally:
        os.close(output)


async def test_no_standard_output_is_said(server: EmbeddedServer) -> None:
    line = f"exec {shlex.join([*TERZETTO, 'queue', 'ls', '--url', server.url])} >&-"
    done = await trio.run_process(["/bin/sh", "-c", line], capture_stderr=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"error: there is no standard output\n")


async def test_a_payload_may_come_from_standard_input(
    server: EmbeddedServer, redis: Redis, command: Command
) -> None:
    async def run(*words: str) -> None:
        await trio.run_process([*TERZETTO, *words, "--url", server.url], stdin=b"a b\xff")

    await run("task", "enqueue", "-t", "mail", "-i", "one", "-l", "-")
    (task,) = await tasks.Inspector(redis).list_tasks("default", tasks.TaskState.PENDING)
    assert task.message.payload == b"a b\xff"
    users = streaming.Stream("users", redis)
    await users.add("made", b"")
    await run("stream", "add", "users", "made", "-", "--topic", "eu")
    async with users.open_reader(start=streaming.OLDEST) as reader:
        assert [event.payload for event in await reader.read()] == [b"", b"a b\xff"]
    assert (await command("task", "enqueue", "-t", "mail", "-l", "-5")).code == 0
    slip = await command("stream", "add", "users", "made", "--topik")
    assert (slip.code, slip.out) == (2, "")
    assert "there is no option --topik" in slip.err


async def test_a_signal_ends_the_wait_for_standard_input(server: EmbeddedServer) -> None:
    words = [*TERZETTO, "task", "enqueue", "-t", "mail", "-l", "-", "--url", server.url]
    process = await trio.lowlevel.open_process(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert isinstance(process.stdin, trio.lowlevel.FdStream)
    assert process.stderr is not None
    async with process.stdin, process.stderr:
        await process.stdin.send_all(b"begun, and never ended")
        while unread(process.stdin.fileno()):  # noqa: ASYNC110 - a pipe does not tell who reads it
            await trio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(30):
            assert await process.wait() == 130
        assert b"".join([chunk async for chunk in process.stderr]) == b""


def unread(pipe: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells that a reader has ended")
@pytest.mark.parametrize(
    "words", [["stream", "tail", "s"], ["map", "watch", "m"], ["map", "history", "m"]]
)
async def test_what_goes_on_ends_with_its_reader(server: EmbeddedServer, words: list[str]) -> None:
    process = await trio.lowlevel.open_process(
        [*TERZETTO, *words, "--url", server.url], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.aclose()  # and nothing ever comes that it could print
    with trio.fail_after(30):
        assert await process.wait() == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_a_command_that_then_leaves_its_pool(
    server: EmbeddedServer, redis: Redis, sent: signal.Signals
) -> None:
    started = trio.Event()

    async def never(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        started.set()
        await trio.sleep_forever()

    async with pool.open_node("mail", redis) as node:
        await node.add_worker(never)
        words = [*TERZETTO, "pool", "dispatch", "mail", "a", "--url", server.url]
        process = await trio.lowlevel.open_process(words, stderr=subprocess.PIPE)
        await started.wait()
        nodes = len((await look_at_pool("mail", redis)).nodes)
        process.send_signal(sent)
        assert await process.wait() == 130
        assert process.stderr is not None
        async with process.stderr as said:
            assert not [line async for line in said if b"Traceback" in line or b"error: " in line]
        assert (nodes, len((await look_at_pool("mail", redis)).nodes)) == (2, 1)


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


async def test_top_shows_the_others_where_a_key_is_something_else(
    server: EmbeddedServer, redis: Redis
) -> None:
    """Somebody else wrote a text where a list or a hash should be."""
    for kind in ("good", "bad"):
        await redis.execute("SADD", "asynq:queues", f"{kind}queue")
        pool_key = rmap.content_key(Names(f"{kind}pool").node_keepalive)
        await redis.hset(pool_key, mapping={"=rev": "1"})
    await redis.set("asynq:{badqueue}:pending", "text")
    await redis.set(rmap.content_key(Names("badpool").jobs), "text")
    screen = await trio.to_thread.run_sync(_watch_top, server.url, b"Pools (1 cannot be read)")
    assert b"Queues (1 cannot be read)" in screen
    # As names of rows: maps of the pools are there, too.
    shown = {
        name
        for name in (b"goodqueue", b"badqueue", b"goodpool", b"badpool")
        if name + b"  " in screen
    }
    assert shown == {b"goodqueue", b"goodpool"}


async def test_top_says_when_what_it_shows_is_old(server: EmbeddedServer) -> None:
    """A Redis that hangs must not look like one where nothing goes on."""

    def hang(_pid: int, terminal: int) -> None:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            screen = b""
            while b"no answer for" not in screen:
                ready, _, _ = select.select([terminal], [], [], 30)
                assert ready, screen
                screen += os.read(terminal, 65536)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        os.write(terminal, b"q")

    await trio.to_thread.run_sync(partial(_watch_top, server.url, b"Maps", leave=hang))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
async def test_top_puts_the_terminal_back_when_a_signal_ends_it(
    server: EmbeddedServer, sent: signal.Signals
) -> None:
    def watch() -> bytes:
        return _watch_top(server.url, b"Maps", leave=lambda pid, _: os.kill(pid, sent), code=130)

    screen = await trio.to_thread.run_sync(watch)
    assert b"\x1b[?25h" in screen  # the cursor is there again
    assert b"\x1b[?1049l" in screen  # and the screen of before


def _press_q(_: int, terminal: int) -> None:
    os.write(terminal, b"q")


def _watch_top(
    url: str, wanted: bytes, *, leave: Callable[[int, int], None] = _press_q, code: int = 0
) -> bytes:
    """Run `top` on a terminal of its own until it shows what is `wanted`; `leave` it then."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*TERZETTO, "top", "--url", url])  # noqa: S606 - our own program
    screen = b""
    try:
        while wanted not in screen:
            ready, _, _ = select.select([terminal], [], [], 30)
            assert ready, screen
            screen += os.read(terminal, 65536)
        leave(pid, terminal)
        while True:  # it must not stop for want of a reader
            try:
                read = os.read(terminal, 65536)
            except OSError:  # the terminal's end, as Linux tells it
                break
            if not read:
                break
            screen += read
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
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


@given(st.lists(st.integers(0, 30), min_size=5, max_size=5), st.integers(3, 60))
def test_the_picture_of_top_has_a_place_in_every_terminal(counts: list[int], height: int) -> None:
    parts = [
        (title, {"n": "N"}, [{"n": number} for number in range(count)])
        for title, count in zip(("Q", "R", "S", "T", "U"), counts, strict=True)
    ]
    console = Console(width=40, height=height, file=io.StringIO())
    with console.capture() as drawn:
        console.print(draw(parts, "redis://somewhere-with-a-long-name:6379/0", height))
    lines = drawn.get().splitlines()
    assert len(lines) <= height
    shown, hidden = choose(parts, height - 1)
    assert [*shown, *hidden] == parts
    for title, _, rows in shown:
        begin = next(number for number, line in enumerate(lines) if line.startswith(title))
        assert lines[begin].endswith("none") == (not rows)
        if rows:  # the title, a header, and at least one of them
            assert [line.strip() for line in lines[begin + 1 : begin + 3]] == ["N", "0"]
    if hidden:
        named = ", ".join(f"{len(rows)} {title.lower()}" for title, _, rows in hidden)
        assert f"not shown: {named}".startswith(lines[-1].removesuffix("…"))


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
    sizes = [0, 812, 999, 1000, 3384, 27_400, 999_499, 999_500, 4_200_000, 5_100_000_000_000_000]
    assert [cell(Bytes(size)) for size in sizes] == [
        "0 B",
        "812 B",
        "999 B",
        "1.0 kB",
        "3.4 kB",
        "27 kB",
        "999 kB",
        "1.0 MB",
        "4.2 MB",
        "5100 TB",
    ]
