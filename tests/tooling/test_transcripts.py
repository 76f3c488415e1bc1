"""The runner of examples: what a transcript means, and that each kind of fault is seen."""

import os
from pathlib import Path

import pytest

from tests.tooling import transcripts
from tests.tooling.transcripts import Step


def run(code: str, expected: str, exit_code: int = 0) -> str:
    return transcripts.run_step(Step(f'python -c "{code}"', expected, exit_code), os.environ)


def test_a_transcript_is_split_into_commands() -> None:
    text = "$ python -m a\none\n\n$ python -m b x\ntwo\n[exit 2]\n$ python c.py\n"

    assert transcripts.parse_transcript(text) == [
        Step("python -m a", "one\n\n", 0),
        Step("python -m b x", "two\n", 2),
        Step("python c.py", "", 0),
    ]


@pytest.mark.parametrize("text", ["", "one\n$ python a.py\n", "$ rm -r /\n"])
def test_a_transcript_opens_with_a_python_command(text: str) -> None:
    with pytest.raises(ValueError, match="opens with"):
        transcripts.parse_transcript(text)


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("", "", True),
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a\n", "", False),
        ("a ... c\n", "a b c\n", True),
        ("a ... c\n", "a b\nc\n", False),
        ("a\n...\nz\n", "a\nz\n", True),
        ("a\n...\nz\n", "a\nb\nc\nz\n", True),
        ("a\n...\n", "a\nb\n", True),
        ("a.c\n", "abc\n", False),
    ],
)
def test_dots_stand_for_anything(expected: str, printed: str, *, same: bool) -> None:
    assert transcripts.matches(expected, printed) is same


def test_a_command_that_does_as_described_passes() -> None:
    assert run("print(1 + 1)", "2\n") == ""


def test_a_wrong_line_is_shown() -> None:
    assert "-2\n+3" in run("print(3)", "2\n")


def test_a_wrong_exit_code_is_shown_with_standard_error() -> None:
    wrong = run("raise SystemExit('no luck')", "")

    assert "exit code 1 instead of 0" in wrong
    assert "no luck" in wrong


def test_an_expected_exit_code_passes() -> None:
    assert run("raise SystemExit(3)", "", exit_code=3) == ""


def test_what_a_command_leaves_behind_is_a_fault() -> None:
    wrong = run("import os; open(os.environ['TMPDIR'] + '/lock', 'w').close()", "")

    assert "left behind in its temporary directory: lock" in wrong


def test_a_command_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "TIME_LIMIT", 0.2)

    assert "still running" in run("import signal; signal.pause()", "")


def test_a_program_without_a_transcript_is_named(tmp_path: Path) -> None:
    guard = 'if __name__ == "__main__":\n    pass\n'
    package = tmp_path / "shop"
    package.mkdir()
    for path in ("shown.py", "silent.py", "shop/__main__.py", "shop/worker.py"):
        (tmp_path / path).write_text(guard)
    (tmp_path / "shown.out").touch()
    (tmp_path / "helper.py").touch()

    found = list(transcripts.list_silent_programs(tmp_path))

    assert found == [package / "__main__.py", tmp_path / "silent.py"]
