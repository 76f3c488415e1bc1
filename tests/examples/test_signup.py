"""The main job: the sign-up flow on a smaller file, with its kill, and with Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from examples.signup.mailbox import Mailbox
from examples.signup.records import Intake

REPOSITORY = Path(__file__).parents[2]
MARK = "TERZETTO_TEST_MARK"


@attrs.frozen
class Stage:
    """A place of its own for one run: a temporary directory, and a mark on every process."""

    directory: Path
    mark: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "COLUMNS": "200",  # the table in one piece
            "TMPDIR": str(self.directory),
            MARK: self.mark,
        }

    @property
    def mailbox(self) -> Mailbox:
        return Mailbox(self.directory.parent / "mailbox.jsonl")

    def mails_sent(self) -> int:
        return len(self.mailbox.read()) if self.mailbox.path.exists() else 0

    def has_begun(self) -> bool:
        """Say whether the flow itself runs: before its server's directory Python still imports."""
        return any(self.directory.glob("terzetto-*"))

    def command(self, source: str) -> list[str]:
        program = [sys.executable, "-m", "examples.signup"]
        return [*program, "--input", source, "--mailbox", str(self.mailbox.path)]

    def processes(self) -> Iterator[int]:
        """Yield the ids of the processes that carry the mark."""
        sign = f"{MARK}={self.mark}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if sign in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended meanwhile, or is none of ours

    def workers(self) -> Iterator[int]:
        """Yield the ids of the worker processes."""
        for pid in self.processes():
            if b"examples.signup.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                yield pid

    async def wait_until_nothing_is_left(self) -> None:
        with trio.fail_after(15):
            while any(self.processes()) or any(self.directory.iterdir()):  # noqa: ASYNC110 - ends are not announced
                await trio.sleep(0.05)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    directory = tmp_path / "tmp"
    directory.mkdir()
    return Stage(directory=directory, mark=uuid.uuid4().hex)


def small_file(directory: Path) -> Path:
    """Return a file of 80 lines: one refused line and one duplicate among the shipped ones."""
    shipped = (REPOSITORY / "examples/signup/signups.jsonl").read_bytes().splitlines()
    good = [line for line in shipped if list(Intake().accept([line]))][:78]
    path = directory / "small.jsonl"
    path.write_bytes(b"\n".join([*good, b"no sign-up at all", good[0]]) + b"\n")
    return path


@pytest.mark.timeout(120)
async def test_every_valid_sign_up_has_its_mail_though_a_worker_is_killed(
    stage: Stage, tmp_path: Path
) -> None:
    done = await trio.run_process(
        stage.command(str(small_file(tmp_path))),
        cwd=REPOSITORY,
        env=stage.environment,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    shown = done.stdout.decode()
    assert done.returncode == 0, shown + done.stderr.decode()
    assert done.stderr == b""
    assert "not the JSON of a sign-up 1, signed up before 1" in shown
    mails = stage.mailbox.read()
    users = {json.loads(line)["id"] for line in small_file(tmp_path).read_bytes().splitlines()[:78]}
    assert {mail.user for mail in mails} == users
    assert {"ann", "bob"} <= {mail.worker for mail in mails}, "both processes worked"
    wordings = {mail.subject.split(",")[0] for mail in mails}
    assert wordings == {"Thank you for signing up", "Welcome aboard"}, "the flag was flipped live"
    await stage.wait_until_nothing_is_left()


@pytest.mark.timeout(120)
async def test_when_all_workers_die_it_says_who_has_no_mail(stage: Stage, tmp_path: Path) -> None:
    process = await trio.lowlevel.open_process(
        [*stage.command(str(small_file(tmp_path))), "--patience", "5"],
        cwd=REPOSITORY,
        env=stage.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with trio.fail_after(60):
        while not stage.mails_sent():
            assert process.poll() is None, "it ended too early"
            await trio.sleep(0.01)  # progress is seen in the mailbox alone: look again
        for pid in stage.workers():
            os.kill(pid, signal.SIGKILL)
        assert process.stdout is not None
        async with process.stdout:
            shown = b"".join([chunk async for chunk in process.stdout]).decode()
        assert await process.wait() == 1
    without = 78 - len({mail.user for mail in stage.mailbox.read()})
    assert f"{without} of 78 users have no mail" in shown
    assert shown.count("nobody sent it in time") == without > 0
    await stage.wait_until_nothing_is_left()


async def test_input_that_is_not_there_is_status_2(stage: Stage) -> None:
    done = await trio.run_process(
        stage.command("/no/such/file"),
        cwd=REPOSITORY,
        env=stage.environment,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"cannot read the sign-ups" in done.stderr


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mails_before", [0, 40, 474])
async def test_ctrl_c_leaves_no_process_and_no_socket(stage: Stage, mails_before: int) -> None:
    """Interrupted when its server's directory is there, on the way, and in the trouble half-way."""
    process = await trio.lowlevel.open_process(
        stage.command(str(REPOSITORY / "examples/signup/signups.jsonl")),
        cwd=REPOSITORY,
        env=stage.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with trio.fail_after(60):
        while stage.mails_sent() < mails_before or not stage.has_begun():
            assert process.poll() is None, "it ended too early"
            await trio.sleep(0.01)  # progress is seen in the mailbox alone: look again
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        async with process.stderr:
            assert b"".join([chunk async for chunk in process.stderr]) == b""
        assert await process.wait() == 130
    await stage.wait_until_nothing_is_left()
